"""Writes docs/transforms.md, a table of all transforms by op, each cell from a run: cd tests && python -m transforms.

With names of transforms after it, only those, and to the terminal.
"""

import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import torch
import torch.nn.functional as F

import fusegrad as fg

from transforms import COMPILED, TRANSFORMS, backward, compiler, forward, func

PAGE = Path(__file__).parents[2] / "docs" / "transforms.md"
GROUPS = {
    "torch.autograd": backward, "forward mode": forward, "torch.func": func, "torch.compile, torch.export": compiler,
}  # fmt: skip
Layer = Callable[..., torch.Tensor]
silu = F.silu
OPS: dict[str, tuple[Layer, Layer]] = {  # ours and stock, of x (5, 3), w (4, 3), b (4)
    "linear": (fg.linear, F.linear),
    "linear_act": (lambda x, w, b: fg.linear_act(x, w, b, act="silu"), lambda x, w, b: silu(F.linear(x, w, b))),
    "act": (lambda x, w, b: fg.act(F.linear(x, w, b), "tanh"), lambda x, w, b: torch.tanh(F.linear(x, w, b))),
    "mlp": (
        lambda x, w, b: fg.mlp(x, w, b, w.mT, act="silu"),
        lambda x, w, b: F.linear(silu(F.linear(x, w, b)), w.mT),
    ),
    "gated": (
        lambda x, w, b: fg.gated(x, w, w.flip(0), b, act="silu"),
        lambda x, w, b: silu(F.linear(x, w, b)) * F.linear(x, w.flip(0)),
    ),
    "mul_constant": (
        lambda x, w, b: fg.mul_constant(F.linear(x, w, b), 0.7),
        lambda x, w, b: F.linear(x, w, b) * 0.7,
    ),
}
HEAD = """# Transforms

What each op gives under each transform of PyTorch, compared with what stock torch gives there: values, or derivatives
of up to the fifth order. `right` is the same numbers; where stock torch refuses, ours must too. What a transform is
stands in [tests/transforms](../tests/transforms) under its name; DTensors, FSDP and tensor parallelism are in
[test_distributed.py](../tests/test_distributed.py).

`cd tests && python -m transforms` runs them all and writes this page, in some minutes. This is of torch {torch}, on a
CPU.
"""


def outcome(name: str, ours: Layer, stock: Layer) -> str:
    """A cell."""
    test = (TRANSFORMS | COMPILED)[name]
    try:
        test(ours, stock)
    except AssertionError as error:
        return f"**wrong**: {_first_line(error)}"
    except Exception as error:  # whatever a transform says
        try:
            test(stock, stock)
        except Exception:
            return "refused by stock torch too"
        return f"refused: {_first_line(error)}"
    return "right"


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__} {lines[0][:120] if lines else ''}".replace("|", "\\|")


def rows(names: Iterable[str]) -> Iterator[list[str]]:
    for name in names:
        yield [name, *(outcome(name, *of) for of in OPS.values())]


def table(names: Iterable[str]) -> Iterator[str]:
    yield f"| | {' | '.join(f'`{op}`' for op in OPS)} |"
    yield f"|---|{'---|' * len(OPS)}"
    for name, *cells in rows(names):
        yield f"| {name.replace('_', ' ')} | {' | '.join(cells)} |"


def main(names: list[str]) -> None:
    if unknown := set(names) - set(TRANSFORMS | COMPILED):
        sys.exit(f"no transform is called {', '.join(sorted(unknown))}")
    if names:
        print(*table(names), sep="\n")
        return
    text = [HEAD.format(torch=torch.__version__)]
    for title, module in GROUPS.items():
        of = [name for name, f in (TRANSFORMS | COMPILED).items() if f.__module__ == module.__name__]
        text += [f"## {title}", *table(of), ""]
    PAGE.write_text("\n".join(text))


if __name__ == "__main__":
    main(sys.argv[1:])
