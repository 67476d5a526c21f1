"""What runs of a model's linear layers, seen while it runs: by a mode that sees each op, and whose weights it takes."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from ..internals.dispatcher import TorchDispatchMode

_FUSED = {"fusegrad::linear_act", "fusegrad::gated", "fusegrad::mlp"}
_ALONE = {"fusegrad::linear", "fusegrad::mm", "aten::addmm", "aten::mm", "aten::bmm", "aten::baddbmm", "aten::linear"}

_CHAIN = "fusegrad::chain"  # of layers with and without activations


@dataclass
class Ran:
    """What ran of one layer."""

    fused: int = 0  # calls of it together with what follows it
    alone: int = 0
    seconds: float = 0.0  # in forward
    rows: int = 0  # the least of a call of it alone
    acts: dict[str, None] = field(default_factory=dict)  # what it was fused with


class Watch(TorchDispatchMode):
    """Counts and times the calls of layers, which it knows by their weights, and by what is computed of these alone."""

    def __init__(self, layers: list[nn.Module]) -> None:
        super().__init__()
        self.ran = {layer: Ran() for layer in layers}
        self.owners: dict[int, nn.Module] = {}  # by the memory of a weight
        self.kept: list[Tensor] = []  # so that no other tensor gets that memory
        for recurse in (False, True):  # what a layer holds itself is no other's
            for layer in layers:
                for held in (*layer.parameters(recurse), *layer.buffers(recurse)):
                    self._owns(layer, held)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        start = time.perf_counter()
        result = func(*args, **(kwargs or {}))
        seconds = time.perf_counter() - start
        tensors = [*_tensors((args, kwargs or {}))]
        owners = dict.fromkeys(owner for t in tensors if t.dim() > 1 and (owner := self._owner(t)))
        name = func.name().partition(".")[0]
        if name in _ALONE and len(owners) == 1 and _is_of_weights(tensors, self._owner):
            self._owns(next(iter(owners)), result)  # a product that a weight is computed by
        elif name in _FUSED or name in _ALONE or name == _CHAIN:
            act = next((a for a in args if isinstance(a, str)), "") if name in _FUSED else ""
            called = [(owner, act) for owner in owners]
            if name == _CHAIN:
                _, weights, acts, _ = args
                layers = zip(map(self._owner, weights[::2]), acts.split(","), strict=True)
                named = ((owner, act.split()[0]) for owner, act in layers if owner)
                called = [(owner, act if act != "identity" else "") for owner, act in named]
            for k, (owner, act) in enumerate(called):
                ran = self.ran[owner]
                ran.fused, ran.alone = ran.fused + bool(act), ran.alone + (not act)
                if not act and name != _CHAIN and result.dim() > 1:
                    rows = result.numel() // max(1, result.shape[-1])
                    ran.rows = min(rows, ran.rows) if ran.rows else rows
                ran.acts |= {act: None} if act else {}
                ran.seconds += 0 if k else seconds  # of a gate or a chain the first layer has all the time
        elif len(owners) == 1 and all(_is_vector(t) or self._owner(t) for t in tensors):
            for y in _tensors(result):
                self._owns(next(iter(owners)), y)
        return result

    def _owner(self, t: Tensor) -> nn.Module | None:
        return self.owners.get(_memory(t))

    def _owns(self, layer: nn.Module, t: Tensor) -> None:
        if (memory := _memory(t)) and memory not in self.owners:
            self.owners[memory] = layer
            self.kept.append(t.detach())


def watch(layers: list[nn.Module], run: Callable[[], Any]) -> dict[nn.Module, Ran]:
    """Runs something, and tells what ran of these layers."""
    with Watch(layers) as mode:
        run()
    return mode.ran


def _is_of_weights(tensors: list[Tensor], owner: Callable[[Tensor], nn.Module | None]) -> bool:
    """Whether all matrices of a product are weights, or computed of these: the input of a layer is none."""
    matrices = [t for t in tensors if t.dim() > 1]
    return len(matrices) > 1 and all(map(owner, matrices))


def _is_vector(t: Tensor) -> bool:
    """Whether a tensor may be a factor of the rows, or of the columns, of a weight."""
    return t.numel() == max(t.shape, default=1)


def _memory(t: Tensor) -> int:
    try:
        return t.untyped_storage().data_ptr()
    except (NotImplementedError, RuntimeError):  # of a tensor without storage
        return 0


def _tensors(values: Any) -> Iterator[Tensor]:
    if isinstance(values, Tensor):
        yield values
    elif isinstance(values, dict):
        for value in values.values():
            yield from _tensors(value)
    elif isinstance(values, (list, tuple)):
        for value in values:
            yield from _tensors(value)
