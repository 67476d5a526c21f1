"""Activations in torch: as text, for the registry, and as functions, for those that are defined at run time."""

import math
import operator
import re
from collections.abc import Callable
from fractions import Fraction
from functools import reduce
from typing import Any

import torch
from torch import Tensor

from . import derive, elementary
from .definition import Activation, Definition
from .derive import CONSTANTS, Program, programs
from .printer import ATOM, ORDERS, PRODUCT, Printer, decimal, is_scalar, literal
from .simplify import Node, Powers, scalar

CLASSES = {
    "logistic": elementary.Logistic,
    "normal": elementary.Normal,
    "tanh_softplus": elementary.TanhSoftplus,
}

ELEMENTARY = {*(c.__name__ for c in CLASSES.values()), *CONSTANTS, *derive.CALLS.values(), "opmath", "full", "where"}


class Torch(Printer):
    def scalar(self, number: Fraction, constants: Powers) -> tuple[str, int]:
        made = self.numbers(number, constants) if constants else literal(number)
        if " " in made:
            return f"({made})", ATOM
        return made, ATOM if number >= 0 else PRODUCT

    def constant(self, name: str) -> str:
        return name if name in CONSTANTS else f"{self.definition.name.upper()}_{name}"

    def where(self, holds: Node, then: Node, other: Node) -> tuple[str, int]:
        if is_scalar(then):
            return f"where({self.condition(holds)}, {self.text(then)}, {self.text(other)}, {self.s})", ATOM
        return f"torch.where({self.condition(holds)}, {self.text(then)}, {self.text(other)})", ATOM

    def function(self) -> str:
        order, lines = self.program.order, []
        if self.program.bound:
            bound = decimal(self.program.bound)
            lines.append(f"{self.s} = clamp({self.s}, -{bound}, {bound})")
        for line in self.program.lines:
            node = self.text(line.node)
            kind = CLASSES[line.bundle].__name__ if line.bundle else ""
            lines.append(f"{self.instance(line.name)} = {kind}({node})" if kind else f"{line.name} = {node}")
        result = self.program.result
        made = f"full({self.s}, {self.text(result)})" if is_scalar(result) else self.text(result)
        if result == ("name", "z"):  # an op returns no tensor that it was given
            made = f"{self.s}.clone()"
        lines.append(f"return {made.removesuffix('g') + 'g.clone()' if result == ('name', 'g') else made}")
        param = self.param if self.program.uses(("param",)) else "_"
        args = f"{'g: Tensor, ' if order == 1 else ''}{self.s}: Tensor, {param}: float"
        body = "\n    ".join(lines)
        return f"@opmath\ndef {self.definition.name}_{ORDERS[order]}({args}) -> Tensor:\n    {body}\n"


def wanted(definition: Definition) -> list[Program]:
    """Those that torch has no kernel for, and that are not zero."""
    value, first, *higher = programs(definition)
    made = [] if definition.torch_value else [value]
    made += [] if definition.torch_first else [first]
    return made + [p for p in higher if p.result != scalar(0)]


def functions(definition: Definition) -> str:
    """The constants and functions of an activation, as text."""
    of_programs = [Torch(definition, p).function() for p in wanted(definition)]
    used = {name for p in wanted(definition) for name in p.constants()}
    constants = [f"{definition.name.upper()}_{n} = {v!r}\n" for n, v in definition.constants.items() if n in used]
    return "".join(constants) + ("\n\n" if constants else "") + "\n\n".join(of_programs)


def names(definition: Definition) -> list[str]:
    return [f"{definition.name}_{ORDERS[p.order]}" for p in wanted(definition)]


def listed(definition: Definition) -> str:
    """The entry of FORMULAS."""
    of_orders = ", ".join(f'"{ORDERS[p.order]}": {definition.name}_{ORDERS[p.order]}' for p in wanted(definition))
    return f'"{definition.name}": {{{of_orders}}}'


def module(mark: str, definitions: list[Definition]) -> str:
    """The functions of some activations, as a module of this package."""
    body = "\n\n".join(text for text in map(functions, definitions) if text)
    called = sorted(name for name in ELEMENTARY if re.search(rf"(?<!def )(?<![.\w]){name}\b(?! =)", body))
    head = f"# {mark}\n" + ("import torch\n" if "torch." in body else "")
    return f"{head}from torch import Tensor\n\nfrom .elementary import {', '.join(called)}\n\n\n{body}"


# --- at run time ----------------------------------------------------------------------------------------------------


def torch_formulas(definition: Definition) -> Activation:
    """The entry of an activation that is no text: its programs are evaluated as they stand."""
    orders = {ORDERS[p.order]: _function(definition, p) for p in programs(definition)}
    return definition.entry(orders, elementary.zero)


def _function(definition: Definition, program: Program) -> Callable:
    if program.order == 1:
        return elementary.opmath(lambda g, s, param: _Run(definition, program, s, param, g).result())
    return elementary.opmath(lambda s, param: _Run(definition, program, s, param, None).result())


class _Run:
    """A program on tensors."""

    def __init__(self, definition: Definition, program: Program, s: Tensor, param: float, g: Tensor | None):
        s = s if program.bound is None else s.clamp(-program.bound, program.bound)
        self.definition, self.program, self.s, self.param = definition, program, s, param
        self.named: dict[str, Any] = {"z": s, "g": g}

    def result(self) -> Tensor:
        for line in self.program.lines:
            value = self.of(line.node)
            self.named[line.name] = CLASSES[line.bundle](value) if line.bundle else value
        made = self.of(self.program.result)
        if not isinstance(made, Tensor):
            return torch.full_like(self.s, made)
        return made.clone() if any(made is t for t in (self.s, self.named["g"])) else made

    def of(self, node: Node) -> Any:
        kind, *args = node
        if kind == "scalar":
            return math.prod([float(args[0]), *(self.constant(name) ** n for name, n in args[1])])
        if kind == "param":
            return self.param
        if kind == "name":
            return self.named[args[0]]
        if kind == "field":
            return getattr(self.named[args[0]], args[1])
        if kind == "call":
            return getattr(elementary, args[0])(*map(self.of, args[1:]))
        values = [self.of(a) for a in args]
        if kind == "where":
            holds, then, other = values
            return elementary.where(holds, then, other, self.s)
        if kind == "neg":
            return -values[0]
        return reduce(OPERATIONS[kind], values)

    def constant(self, name: str) -> float:
        return getattr(elementary, name) if name in CONSTANTS else self.definition.constants[name]


def _divide(a: Any, b: Any) -> Any:
    """Of two numbers what a kernel makes of them, where Python would raise."""
    if isinstance(a, float) and isinstance(b, float) and b == 0:
        return math.nan if a == 0 or math.isnan(a) else math.copysign(math.inf, a) * math.copysign(1, b)
    return a / b


OPERATIONS: dict[str, Callable] = {
    "add": operator.add, "mul": operator.mul, "div": _divide,
    "and": operator.and_, "or": operator.or_,
    "lt": operator.lt, "le": operator.le, "gt": operator.gt, "ge": operator.ge, "eq": operator.eq, "ne": operator.ne,
}  # fmt: skip
