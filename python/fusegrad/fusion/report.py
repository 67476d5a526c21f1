"""What became of the linear layers of a model: `explain`, as a readable table."""

from dataclasses import dataclass, replace
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from .. import backends, routing
from ..internals.call import calls_torch
from ..internals.module import stored
from ..nn import Linear
from .classes import original_class, why_class_stays
from .convert import check_model, forget_functions, why_not
from .facts import is_one_call
from .find import Call, calls
from .fused import SITES, fused_class_of
from .match import FAST
from .opened import LEFT_OUT
from .reasons import WHEN_CALLED
from .watch import Ran, watch


@dataclass(frozen=True)
class Row:
    """What became of one linear layer."""

    layer: str  # path in the model
    shape: str  # in -> out
    fused_with: str  # the activation and where it stands, or ""
    backend: str  # what serves it, or "torch"
    why: str  # why it is not fused, or did not run so, or ""
    stock_rows: int = 0  # rows of input up to which stock torch computes it, where a gradient is needed
    chain: int = 0  # in plain eager mode on a CPU, layers of the same number are one op; 0: it is none with others
    ran: Ran | None = None  # what ran of it, where explain was given inputs


# what derivative operators compute by nested derivatives, by model
BY_NESTED: WeakKeyDictionary[nn.Module, dict[str, None]] = WeakKeyDictionary()


class Explanation(list[Row]):
    """One row a linear layer; prints as a table. Under it, what derivative operators had no rule for."""

    by_nested: tuple[str, ...] = ()  # functions, or why it is the whole model

    def __str__(self) -> str:
        from rich.console import Console
        from rich.table import Table

        table = Table(box=None, header_style="bold")
        columns: dict[str, list[str]] = {
            "layer": [r.layer for r in self],
            "in -> out": [r.shape for r in self],
            "fused with": [r.fused_with for r in self],
            "backend": [r.backend for r in self],
            "chain": [str(r.chain or "") for r in self],
        }
        if any(r.ran for r in self):
            ran = [r.ran or Ran() for r in self]
            columns["ran fused"] = [str(n.fused or "") for n in ran]
            columns["ran alone"] = [str(n.alone or "") for n in ran]
            columns["ms"] = [f"{n.seconds * 1e3:.3f}" for n in ran]
        else:
            columns["stock up to"] = [f"{r.stock_rows} rows" if r.stock_rows else "" for r in self]
        columns["why not"] = [r.why for r in self]
        columns = {name: cells for name, cells in columns.items() if any(cells) or name not in ("chain", "stock up to")}
        for name in columns:
            table.add_column(name)
        for cells in zip(*columns.values(), strict=True):
            table.add_row(*cells)
        console = Console(width=140, color_system=None, markup=False, emoji=False)
        with console.capture() as text:
            console.print(table)
        lines = [line.rstrip() for line in text.get().splitlines()]
        if self.by_nested:
            lines.append(f" derivative operators, by nested derivatives: {'; '.join(self.by_nested)}")
        return "\n".join(lines)


def explain(model: nn.Module, *inputs: Any, **named_inputs: Any) -> Explanation:
    """For every linear layer of a model: the activation it is fused with and the backend that serves it, or why not.

    A call in a branch counts, whether or not it is taken. Where the activation depends on a computed index, all
    that it may be are listed. Layers of one number under `chain` are one op, in plain eager mode on a CPU. With inputs
    the model is run once on them, without gradients and in the mode that it is in, and the table also says how often
    each layer ran fused or alone in this run, and its time in milliseconds; of a gate's two layers, and of a chain, the
    first has the time of all. What is called with a layer's result may be known only when it is called: the run says
    what it was. If `laplacian` and its like have taken derivatives of the model before, and had no rule for all that it
    calls, a line under the table says for what.

    Args:
        model: any module. Without inputs nothing of it is run.
        inputs, named_inputs: what the model is called with, if it is to be run.

    Raises:
        TypeError: model is no torch.nn.Module.

    >>> import torch, fusegrad as fg
    >>> net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1))
    >>> [(row.layer, row.fused_with, row.why) for row in fg.explain(fg.fuse(net))]
    [('0', 'tanh (1)', ''), ('2', '', 'the last of its Sequential')]
    >>> [(row.layer, row.ran.fused, row.ran.alone) for row in fg.explain(net, torch.randn(64, 4))]
    [('0', 1, 0), ('2', 0, 1)]
    """
    check_model("explain", model)
    found: dict[nn.Module, list[Call]] = {}
    alone: set[nn.Module] = set()  # layers of any class that are called as ops, whatever reads them
    try:
        for path, m in model.named_modules():
            sites = vars(fused_class_of(m) or nn.Module).get(SITES, ())
            for call in calls(m, path):
                if not call.alone:
                    found.setdefault(call.linear, []).append(_as_it_runs(m, call))
                elif call.key in sites:
                    alone.add(call.linear)
    finally:
        forget_functions()
    layers = {
        m: path
        for path, m in model.named_modules()
        if isinstance(m, nn.Linear)
        or any(call.fused_with or call.undecided or is_one_call(m) for call in found.get(m, ()))
    }
    ran: dict[nn.Module, Ran] = {}
    if inputs or named_inputs:
        with torch.no_grad():
            ran = watch([*layers], lambda: model(*inputs, **named_inputs))
    numbers: dict[nn.Module, int] = {}  # of chains, by layer
    table = Explanation()
    for m, path in layers.items():
        chain = _chain(m, found.get(m, []))
        number = numbers.setdefault(m, 1 + max(numbers.values(), default=0)) if chain else 0
        numbers |= dict.fromkeys(chain, number)
        calls_of = found.get(m, [])
        if m in ran and ran[m].acts:
            calls_of = [_as_it_ran(call, ran[m].acts) for call in calls_of]
        row = replace(_row(path, m, calls_of, m in alone), chain=number, ran=ran.get(m))
        table.append(replace(row, why=row.why or _why_ran_alone(m, row, calls_of)))
    table.by_nested = tuple(BY_NESTED.get(model, ()))
    return table


def _row(path: str, m: nn.Module, found: list[Call], alone: bool) -> Row:
    with_, why = _became(m, found)
    weight = stored(m, "weight")
    weight = next(m.parameters(), None) if weight is None else weight  # one that a parametrization makes it of
    if not (with_ or alone or isinstance(m, Linear) or fused_class_of(m)) or weight is None or calls_torch(weight):
        return Row(path or "(root)", _shape(m), with_, "torch", why)
    backend = backends.serving("linear_act" if with_ else "linear", weight.device.type)
    limits = [call.one_by_one for call in found if call.one_by_one is not None]
    if _chain(m, found):
        limits.append(0)
    rows = routing.stock_rows(weight, with_.partition(" ")[0] or "identity")
    return Row(path or "(root)", _shape(m), with_, backend, why, min((rows, *limits)))


def _chain(m: nn.Module, found: list[Call]) -> tuple[nn.Module, ...]:
    """The layers that are one op with this one, on its device."""
    weight = next(m.parameters(), None)
    served = backends.CHAINS and weight is not None and weight.device.type == "cpu"
    return next((call.chain for call in found if call.chain), ()) if served else ()


def _shape(m: nn.Module) -> str:
    """in -> out of a layer."""
    sizes = [vars(m).get(name) for name in ("in_features", "out_features")]
    if None in sizes and isinstance(weight := stored(m, "weight"), Tensor) and weight.dim() == 2:
        sizes = [*weight.shape] if type(m).__name__ == "Conv1D" else [*reversed(weight.shape)]
    return " -> ".join("?" if size is None else str(size) for size in sizes)


def _as_it_runs(m: nn.Module, call: Call) -> Call:
    """The call as the class of m makes it: of what could be fused, only what fuse has rewritten is."""
    if not (call.fused_with or call.undecided or call.by_rows) or call.one_by_one is not None:
        return call
    cls = fused_class_of(m)
    if cls is None and (why := why_class_stays(original_class(type(m)))) is None:
        return Call(call.linear, "", "not rewritten: call fuse")
    if cls is None or (call.key is not None and call.key not in vars(cls)[SITES]):
        why = why_class_stays(original_class(type(m))) or f"{type(m).__name__} has changed since: call fuse again"
        return Call(call.linear, "", why)
    return call


def _as_it_ran(call: Call, acts: dict[str, None]) -> Call:
    """The call as it was, where it was not known before: with these activations."""
    if not call.undecided or call.fused_with:
        return call
    return replace(call, fused_with=f"{' or '.join(acts)} ({WHEN_CALLED})")


def _why_ran_alone(m: nn.Module, row: Row, found: list[Call]) -> str:
    """Why a layer that may be fused was called alone, where that is a limit on rows; or ""."""
    w, b = stored(m, "weight"), stored(m, "bias")
    if row.ran is None or row.ran.fused or not row.ran.rows or not isinstance(w, Tensor) or w.dim() != 2:
        return ""
    rows, k = row.ran.rows, w.shape[1]
    with torch.no_grad():  # as it ran
        if routing.stock_serves(w.new_empty(rows, k), w, b, False, FAST in vars(m)):
            return f"ran alone: of {rows} {'row' if rows == 1 else 'rows'} it is as fast"
    few = rows < k and any(call.scaled for call in found)
    return f"ran alone: the scale is taken into the weight from {k} rows on" if few else ""


def _became(m: nn.Module, found: list[Call]) -> tuple[str, str]:
    """What a linear layer is fused with, or why it is not."""
    if isinstance(m, Linear) and m._fusegrad_act is not None:
        return f"{m._fusegrad_act} (its own)", ""
    if with_ := ", ".join(call.fused_with for call in found if call.fused_with):
        return with_, ""
    if LEFT_OUT in vars(m):
        return "", "filter_fn left it alone"
    if by_rows := [call.why for call in found if call.by_rows]:
        return "", by_rows[0]
    kept = why_not(m) if isinstance(m, nn.Linear) and not isinstance(m, Linear) else None
    if type(m) is nn.Linear:
        return "", kept or "not converted: call fuse"
    uncalled = "no method that was read calls it: functions that are kept as attributes are not read"
    return "", "; ".join(dict.fromkeys(call.why for call in found)) or kept or uncalled
