"""What became of the linear layers of a model: `explain`, as a readable table."""

from dataclasses import dataclass
from typing import Any

from torch import nn

from . import _recognise, backends
from ._recognise import Spec
from ._trace import NotProved, trace
from .activations import REGISTRY
from .convert import Fused, check_model, fused_call, holds_linear, hooked, is_sequential, why_not
from .nn import Linear


@dataclass(frozen=True)
class Row:
    """What became of one linear layer."""

    layer: str  # path in the model
    shape: str  # in -> out
    fused_with: str  # the activation and where it stands, or ""
    backend: str  # what serves it, or "torch"
    why: str  # why it is not fused, or ""


class Explanation(list[Row]):
    """One row a linear layer; prints as a table."""

    def __str__(self) -> str:
        from rich.console import Console
        from rich.table import Table

        table = Table(box=None, header_style="bold")
        for heading in ("layer", "in -> out", "fused with", "backend", "why not"):
            table.add_column(heading)
        for r in self:
            table.add_row(r.layer, r.shape, r.fused_with, r.backend, r.why)
        console = Console(width=140, color_system=None)
        with console.capture() as text:
            console.print(table)
        return "\n".join(line.rstrip() for line in text.get().splitlines())


def explain(model: nn.Module) -> Explanation:
    """For every linear layer of a model: the activation it is fused with and the backend that serves it, or why not.

    >>> import torch, fusegrad as fg
    >>> net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1))
    >>> [(row.layer, row.fused_with, row.why) for row in fg.explain(fg.fuse(net))]
    [('0', 'tanh (1)', ''), ('2', '', 'the last of its Sequential')]
    """
    check_model("explain", model)
    fused, alone = _call_sites(model)
    rows = Explanation()
    for path, m in model.named_modules():
        if not isinstance(m, nn.Linear):
            continue
        backend = "torch"
        with_ = ", ".join(fused.get(m, ()))
        why = "" if with_ else "; ".join(dict.fromkeys(alone.get(m, ("no forward that was traced calls it",))))
        if isinstance(m, Linear):
            if m.act is not None:
                with_, why = f"{m.act} (its own)", ""
            backend = backends.serving("linear_act" if with_ else "linear", m.weight.device.type)
        else:
            with_, why = "", why_not(m) or "not converted: call fuse"
        rows.append(Row(path or "(root)", f"{m.in_features} -> {m.out_features}", with_, backend, why))
    return rows


def _call_sites(model: nn.Module) -> tuple[dict[nn.Module, list[str]], dict[nn.Module, list[str]]]:
    """For each Linear: the activations it is called with, and why other calls of it are not fused."""
    fused: dict[nn.Module, list[str]] = {}
    alone: dict[nn.Module, list[str]] = {}
    for path, m in model.named_modules():
        if not holds_linear(m):
            continue
        if isinstance(m, nn.Sequential) and is_sequential(type(m)):
            _sequential_sites(path, m, fused, alone)
            continue
        try:
            traced = trace(m, type(m).unfused if isinstance(m, Fused) else type(m), fused_call)
        except NotProved as e:
            for linear in _direct_linears(m):
                alone.setdefault(linear, []).append(f"{type(m).__name__}: {e}")
            continue
        for pair in traced.pairs:
            act = _join(path, pair.act) if pair.act else "called as a function"
            spec = pair.spec or _recognise.of(_attribute(m, pair.act))
            assert spec is not None  # or it would be no pair
            fused.setdefault(m.get_submodule(pair.linear), []).append(f"{_name(spec)} ({act})")
        for linear_path, why in traced.alone.items():
            alone.setdefault(m.get_submodule(linear_path), []).append(why)
    return fused, alone


def _sequential_sites(path: str, m: nn.Sequential, fused: dict, alone: dict) -> None:
    items = list(m._modules.items())
    for i, (_, child) in enumerate(items):
        if type(child) is not Linear:
            continue
        if i + 1 == len(items):
            alone.setdefault(child, []).append("the last of its Sequential")
            continue
        name, after = items[i + 1]
        spec = _recognise.of_module(after)
        if spec is not None and not hooked(child) and not hooked(after):
            fused.setdefault(child, []).append(f"{_name(spec)} ({_join(path, name)})")
        else:
            hooks = " with hooks" if spec is not None else ""
            alone.setdefault(child, []).append(f"followed by {type(after).__name__}{hooks}")


def _direct_linears(m: nn.Module):
    for c in m.children():
        if type(c) is Linear:
            yield c
        elif isinstance(c, (nn.ModuleList, nn.ModuleDict)):
            yield from _direct_linears(c)


def _attribute(m: nn.Module, path: str) -> Any:
    owner, _, name = path.rpartition(".")
    return getattr(m.get_submodule(owner), name)


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _name(spec: Spec) -> str:
    name, param = spec
    return name if param in (None, REGISTRY[name].default) else f"{name}, {param:g}"
