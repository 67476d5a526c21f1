"""Writes the activations in C++, in Triton and in torch, from definitions.py; and derives those of a user.

python -m fusegrad.activations.generate            writes the files
python -m fusegrad.activations.generate --check    only says which would change
"""

import inspect
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import sympy
from sympy.core.relational import Relational

from . import derive as derive_
from . import torch_text, traced
from . import triton as triton_
from .cpp import camel, cpp
from .definition import Definition
from .definitions import DEFINITIONS, FAMILIES
from .derive import programs
from .torch_text import torch_formulas
from .triton import triton

__all__ = ["cpp", "derive", "torch_formulas", "triton"]

COMMAND = "python -m fusegrad.activations.generate"


def derive(
    name: str,
    fn: Callable[..., Any],
    param: str | None = None,
    default: float = 0.0,
    *,
    saves: Literal["input", "output"] = "input",
    legal: tuple[str, Callable[[float], bool]] = ("finite", lambda p: True),
    formula: str | None = None,
    first: Callable[..., Any] | None = None,
    second: Callable[..., Any] | None = None,
    third: Callable[..., Any] | None = None,
    bound: float | None = None,
) -> Definition:
    """The definition of an activation by an expression, fn(z) or fn(z, param), with its derivatives.

    fn is made of fusegrad.exp, sin, where, ... and + - * / and ** of numbers. `first`, `second` and `third` may state
    a derivative where the derived one is not good; `first` is needed if the output is saved, as a function of that.

    Raises ValueError or TypeError if there is no expression, or no derivative of it.
    """
    if not name.isidentifier():
        raise ValueError(f"activation: name must be an identifier, got {name!r}")
    count = 1 if param is None else 2
    for f in (fn, first, second, third):
        if f is not None and not _takes(f, count):
            args = "(z)" if count == 1 else f"(z, {param})"
            raise TypeError(f"{name}: the formula must take {args}, as param is {param!r}")
    definition = Definition(
        name=name, formula=formula or name, saves=saves, param=param, default=float(default), legal=legal,
        value=_checked(name, fn), first=first and _checked(name, first), second=second and _checked(name, second),
        third=third and _checked(name, third), bound=bound, stock_derives_twice=bound is None,
    )  # fmt: skip
    z = derive_.Z
    if not definition.value(*[z, derive_.P][:count]).has(z):
        raise ValueError(f"{name}: the formula does not depend on z")
    programs(definition)
    return definition


def _takes(fn: Callable, count: int) -> bool:
    try:
        inspect.signature(fn).bind(*[None] * count)
    except TypeError:
        return False
    except ValueError:  # it has no signature that can be read
        pass
    return True


def _checked(name: str, fn: Callable[..., Any]) -> Callable[..., Any]:
    """fn, with errors that say what to write instead."""
    advice = "write it with fusegrad's functions (fusegrad.sin, fusegrad.exp, fusegrad.where, ...), + - * / and **"

    def call(*args: Any) -> Any:
        try:
            y = fn(*map(traced.Expression, args))
        except TypeError as error:
            told = str(error)
            if "ufunc" in told:
                told = "it calls a function of NumPy; use fusegrad.sin for numpy.sin, and so on"
            if "must be real number" in told or "or a real number" in told:
                told = "it calls a function of math or NumPy; use fusegrad.sin for math.sin, and so on"
            elif "must be Tensor" in told:
                told = "it calls a function of torch; use fusegrad.sin for torch.sin, and so on"
            raise TypeError(f"{name}: {told}: {advice}") from error
        except AttributeError as error:
            told = str(error).replace("'Expression' object", "an expression").replace("attribute", "method")
            raise TypeError(f"{name}: {told}: {advice}") from error
        try:
            made = traced.number(y)
        except TypeError:
            made = sympy.nan
        if made.has(sympy.nan, sympy.zoo, sympy.oo, sympy.I):
            raise TypeError(f"{name}: the formula must return an expression of real numbers, got {y!r}: {advice}")
        y = made
        known = set(args)
        if not y.free_symbols <= known:
            raise ValueError(f"{name}: the formula has unknown symbols {y.free_symbols - known}")
        for part in sympy.preorder_traversal(y):
            _check(name, part, advice)
        return y

    return call


def _check(name: str, part: Any, advice: str) -> None:
    """That derive knows this part of an expression."""
    if isinstance(part, sympy.Pow) and not (part.exp.is_Rational and part.exp.q in (1, 2)) and not part.is_number:
        if not part.exp.is_Float or float(2 * part.exp) != int(2 * part.exp):
            raise ValueError(f"{name}: {part} is a power that has no kernel; only whole and half powers have: {advice}")
    if isinstance(part, derive_.e.Clamp) and any(bound.has(derive_.Z) for bound in part.args[1:]):
        raise ValueError(f"{name}: {part}: the bounds of clamp must be numbers; use fusegrad.minimum and maximum")
    if isinstance(part, (sympy.Function, derive_.e.Clamp, Relational)) and not part.has(derive_.Z):
        kind = "comparison" if isinstance(part, Relational) else "function"
        raise ValueError(
            f"{name}: {part} is a {kind} of the parameter or of numbers alone, which has no kernel: give its value as "
            "the parameter, or as a number"
        )
    known = (*derive_.CALLS, *derive_.FIELDS, derive_.e.Cdf, sympy.Abs)
    if isinstance(part, sympy.Function) and not isinstance(part, known):
        raise ValueError(f"{name}: {type(part).__name__} has no known kernel and derivative: {advice}")


# --- the files ------------------------------------------------------------------------------------------------------

ROOT = Path(__file__).parents[3]
MARK = f"Made by `{COMMAND}` from definitions.py; not to be edited."
FORMATTERS = {
    ".h": (["clang-format", "--style=file", "--assume-filename={}"],),
    ".py": (
        ["ruff", "check", "--quiet", "--select=I", "--fix", "--stdin-filename={}", "-"],
        ["ruff", "format", "--stdin-filename={}", "-"],
    ),
}
CPP = """// {mark}
#pragma once

#include "elementary.h"

namespace fusegrad {{
namespace FUSEGRAD_ISA {{

{body}
}}  // namespace FUSEGRAD_ISA
}}  // namespace fusegrad
"""
CPP_LIST = """// {mark}
//
// The activations in C++. Each has
//
//   kSavesInput      whether it saves its input z for backward, or its output y
//   value(z, p)      act(z), p the parameter
//   first(g, s, p)   g D_1(s), of what it saves, s
//   second(s, p)     D_2 = dD_1/ds
//   third(s, p)      D_3 = dD_2/ds
//   fourth, fifth    D_4, D_5
#pragma once

{includes}

namespace fusegrad {{
namespace FUSEGRAD_ISA {{

template <class... Ts> struct List {{
  static constexpr int kSize = sizeof...(Ts);
}};
using Activations = List<{names}>;

}}  // namespace FUSEGRAD_ISA
}}  // namespace fusegrad
"""
TRITON_LIST = """# {mark}
\"\"\"The activations in Triton. Of each there are, on blocks of float32 or float64,

    value(z, p)      act(z), p the parameter
    first(g, s, p)   g D_1(s), of what the activation saves, s
    second(s, p)     D_2 = dD_1/ds
    third(s, p)      D_3 = dD_2/ds

and a kernel gets those that it computes as constants.
\"\"\"

from typing import Any, NamedTuple

{imports}


class Kernels(NamedTuple):
    \"\"\"The functions of an activation, by order.\"\"\"

    value: Any
    first: Any
    second: Any
    third: Any


ACTIVATIONS = {{
{entries}
}}
"""
TORCH_LIST = """# {mark}
\"\"\"The functions in torch, by activation and order: those that torch has no kernel for, and that are not zero.\"\"\"

{imports}

FORMULAS = {{
{entries}
}}
"""


def files() -> dict[Path, str]:
    """The text of every generated file, formatted."""
    made: dict[str, str] = {}
    for family, members in FAMILIES.items():
        made[f"csrc/activations_{family}.h"] = CPP.format(mark=MARK, body="\n".join(map(cpp, members)))
        made[f"kernels/activations_{family}.py"] = triton_.module(MARK, members)
        made[f"python/fusegrad/activations/formulas_{family}.py"] = torch_text.module(MARK, members)
    includes = "\n".join(f'#include "activations_{family}.h"' for family in FAMILIES)
    names = ", ".join(map(camel, DEFINITIONS))
    made["csrc/activations.h"] = CPP_LIST.format(mark=MARK, includes=includes, names=names)
    made["kernels/activations.py"] = TRITON_LIST.format(
        mark=MARK,
        imports=_imports("activations", lambda d: [n for n in triton_.names(d) if n != "zero"])
        + "from .elementary import zero",
        entries="\n".join(f"    {triton_.entry(d)}," for d in DEFINITIONS.values()),
    )
    made["python/fusegrad/activations/formulas.py"] = TORCH_LIST.format(
        mark=MARK,
        imports=_imports("formulas", torch_text.names),
        entries="\n".join(f"    {torch_text.listed(d)}," for d in DEFINITIONS.values()),
    )
    return {ROOT / path: formatted(path, text) for path, text in made.items()}


def _imports(module: str, names: Callable[[Definition], list[str]]) -> str:
    made = ""
    for family, members in sorted(FAMILIES.items()):
        found = [name for d in members for name in names(d)]
        made += f"from .{module}_{family} import {', '.join(sorted(found))}\n" if found else ""
    return made


def formatted(path: str, text: str) -> str:
    """As the formatters that the project is checked with leave it."""
    for program, *options in FORMATTERS[Path(path).suffix]:
        beside = Path(sys.executable).with_name(program)
        command = [str(beside) if beside.exists() else program, *(option.format(path) for option in options)]
        done = subprocess.run(command, input=text, text=True, capture_output=True, cwd=ROOT)
        if done.returncode:
            raise RuntimeError(f"{path}: {done.stderr}")
        text = done.stdout
    return text


def main() -> int:
    changed = [path for path, text in files().items() if not path.exists() or path.read_text() != text]
    for path in changed:
        print(path.relative_to(ROOT))
    if "--check" in sys.argv:
        return int(bool(changed))
    for path, text in files().items():
        path.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
