"""Activations in Triton: jit functions and an entry of ACTIVATIONS each, as kernels/activations.py has them.

A named constant stands to the right of a block: Triton's interpreter has no product the other way round.
"""

import re
import string
from collections.abc import Iterable
from fractions import Fraction

from . import derive
from .definition import Definition
from .derive import CONSTANTS, Line, Program, programs
from .printer import ATOM, ORDERS, PRODUCT, Printer, is_scalar, literal
from .simplify import Node, Powers, scalar

FIELDS = {
    "logistic": ("v", "s", "c", "root", "r"),
    "normal": ("root", "step", "tail"),
    "tanh_softplus": ("v", "t", "s", "c", "b", "w", "r"),
}
LETTERS = string.ascii_letters + "_"
CALLS = {"abs": "tl.abs"}
ELEMENTARY = {*FIELDS, *CONSTANTS, *derive.CALLS.values(), "divide", "full", "tanh_by", "zero"} - CALLS.keys()


class Triton(Printer):
    # a division by the parameter is rounded well, by divide, where a function would enlarge its error: elsewhere it
    # would take registers that products with an epilogue lack, as would a rounded tanh that is only a term
    within_call = 0

    def scalar(self, number: Fraction, constants: Powers) -> tuple[str, int]:
        if not constants:
            made = literal(number)
            return (f"({made})", ATOM) if "/" in made else (made, ATOM if number >= 0 else PRODUCT)
        made = self.numbers(number, constants)
        return (f"({made})" if " " in made or number < 0 else made), ATOM

    def constant(self, name: str) -> str:
        return name if name in CONSTANTS else f"{self.definition.name.upper()}_{name}"

    def field(self, line: str, name: str) -> str:
        return f"{name}{line.lstrip(LETTERS)}"

    def right(self, nodes: Iterable[Node]) -> list[Node]:
        """With a named constant behind the first block."""
        first, *rest = nodes
        if first[0] == "scalar" and first[2] and rest:
            return [rest[0], first, *rest[1:]]
        return [first, *rest]

    def product(self, factors: Iterable[Node]) -> str:
        return super().product(self.right(factors))

    def sum(self, terms: list[Node]) -> str:
        return super().sum(self.right(terms))

    def quotient(self, over: Node, under: Node) -> tuple[str, int]:
        if is_scalar(under) and not self._param(under):
            return super().quotient(over, under)
        if is_scalar(under) and (is_scalar(over) or not self.within_call):
            return super().quotient(over, under)
        return f"divide({self.block_or_float(over)}, {self.text(under)})", ATOM

    def _param(self, node: Node) -> bool:
        return node == ("param",) or any(self._param(n) for n in node[1:] if isinstance(n, tuple) and n)

    def call(self, function: str, args: list[Node]) -> str:
        self.within_call += 1
        made = [self.block_or_float(a) for a in args]
        self.within_call -= 1
        if function == "tanh" and self.program.result[:2] != ("call", "tanh"):
            return f"tanh_by({made[0]}, False)"
        return f"{CALLS.get(function, function)}({', '.join(made)})"

    def block_or_float(self, node: Node) -> str:
        if node[0] == "scalar" and not node[2] and node[1].denominator == 1:
            return f"{node[1].numerator}.0"
        return self.text(node)

    def where(self, holds: Node, then: Node, other: Node) -> tuple[str, int]:
        a, b = self.block_or_float(then), self.block_or_float(other)
        if is_scalar(then) and is_scalar(other):
            a = f"full({self.s}, {a})"
        return f"tl.where({self.condition(holds)}, {a}, {b})", ATOM

    def line(self, line: Line) -> str:
        if not line.bundle:
            return f"{line.name} = {self.text(line.node)}"
        suffix = line.name.lstrip(LETTERS)
        used = lambda name: self.program.uses(("field", line.name, name))
        names = (f"{name}{suffix}" if used(name) else "_" for name in FIELDS[line.bundle])
        return f"{', '.join(names)} = {line.bundle}({self.text(line.node)})"

    def function(self) -> str:
        order, lines = self.program.order, []
        if self.program.bound:
            lines.append(f"{self.s} = clamp({self.s}, -{float(self.program.bound)!r}, {float(self.program.bound)!r})")
        lines += [self.line(line) for line in self.program.lines]
        result = self.program.result
        made = self.block_or_float(result)
        lines.append(f"return full({self.s}, {made})" if is_scalar(result) else f"return {made}")
        args = f"{'g, ' if order == 1 else ''}{self.s}, {self.param}"
        body = "\n    ".join(lines)
        return f"@jit\ndef {name_of(self.definition, order)}({args}):\n    {body}\n"


def name_of(definition: Definition, order: int) -> str:
    return f"{definition.name}_{ORDERS[order]}"


def functions(definition: Definition) -> str:
    """The constants and the functions of an activation."""
    constants = [f"{definition.name.upper()}_{n} = tl.constexpr({v!r})\n" for n, v in definition.constants.items()]
    made = [Triton(definition, p).function() for p in programs(definition) if not is_zero(p)]
    return "".join(constants) + ("\n\n" if constants else "") + "\n\n".join(made)


def is_zero(program: Program) -> bool:
    """These have one function for all."""
    return program.order > 1 and program.result == scalar(0)


def entry(definition: Definition) -> str:
    names = ["zero" if is_zero(p) else name_of(definition, p.order) for p in programs(definition)]
    return f'"{definition.name}": Kernels({", ".join(names)})'


def names(definition: Definition) -> list[str]:
    """Those of its own functions."""
    return [name_of(definition, p.order) for p in programs(definition) if not is_zero(p)]


def module(mark: str, definitions: list[Definition], package: str = "") -> str:
    """The functions of some activations, as a module of kernels/."""
    body = "\n\n".join(map(functions, definitions))
    called = sorted(name for name in ELEMENTARY if re.search(rf"(?<!def )(?<![.\w]){name}\b(?! =)", body))
    head = f"# {mark}\n" if mark else ""
    head += "import triton.language as tl" + ("" if "tl." in body else "  # noqa: F401  (the interpreter asks for it)")
    head += "\n"
    head += f"from triton import jit\n\nfrom {package}.elementary import {', '.join(called)}\n"
    return f"{head}\n\n{body}"


def triton(definition: Definition) -> str:
    """The functions of an activation and its entry: a module of its own."""
    text = module("", [definition], "fusegrad.kernels")
    head = (
        "from fusegrad.kernels.activations import ACTIVATIONS, Kernels\nfrom fusegrad.kernels.elementary import zero\n"
    )
    return f"{head}{text}\n\nACTIVATIONS[{entry(definition).replace(': ', '] = ', 1)}\n"
