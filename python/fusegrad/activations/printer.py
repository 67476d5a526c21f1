"""Programs as text: what the languages share."""

from collections.abc import Iterable
from fractions import Fraction

from .definition import Definition
from .derive import Program
from .simplify import Node, Powers

OPERATORS = {"lt": "<", "le": "<=", "gt": ">", "ge": ">=", "eq": "==", "ne": "!=", "and": "&", "or": "|"}
BUNDLES = {"logistic": "sig", "normal": "normal", "tanh_softplus": "mish"}
ORDERS = ("value", "first", "second", "third", "fourth", "fifth")
SUM, PRODUCT, UNARY, ATOM = range(4)  # how strongly an operator binds


def is_scalar(node: Node) -> bool:
    """Whether it is the same for all elements."""
    if node[0] in ("scalar", "param"):
        return True
    return node[0] in ("add", "mul", "div", "neg") and all(map(is_scalar, node[1:]))


class Printer:
    """Text of nodes; a language overrides what differs."""

    def __init__(self, definition: Definition, program: Program):
        self.definition, self.program = definition, program
        output = not definition.saves_input and program.order > 0
        self.s = "y" if output else "z"
        self.param = definition.param or "p"

    def text(self, node: Node, within: int = SUM) -> str:
        made, binds = self.made(node)
        return f"({made})" if binds < within else made

    def made(self, node: Node) -> tuple[str, int]:
        kind, *args = node
        if kind == "scalar":
            return self.scalar(*args)
        if kind == "param":
            return self.param, ATOM
        if kind == "name":
            return (self.s if args[0] == "z" else args[0]), ATOM
        if kind == "field":
            return self.field(*args), ATOM
        if kind == "call":
            return self.call(args[0], args[1:]), ATOM
        if kind == "neg":
            return f"-{self.text(args[0], PRODUCT)}", UNARY if args[0][0] != "mul" else PRODUCT
        if kind == "add":
            return self.sum(args), SUM
        if kind == "mul":
            return self.product(args), PRODUCT
        if kind == "div":
            return self.quotient(*args)
        if kind == "where":
            return self.where(*args)
        return self.condition(node), SUM

    def sum(self, terms: list[Node]) -> str:
        first, *rest = terms
        made = self.text(first, SUM)
        for term in rest:
            sign, size = self.signed(term)
            made += f" {sign} {self.text(size, PRODUCT)}"
        return made

    def signed(self, term: Node) -> tuple[str, Node]:
        if term[0] == "neg":
            return "-", term[1]
        if term[0] == "scalar" and term[1] < 0:
            return "-", ("scalar", -term[1], term[2])
        if term[0] == "mul" and term[1][0] == "scalar" and term[1][1] < 0:
            return "-", ("mul", ("scalar", -term[1][1], term[1][2]), *term[2:])
        return "+", term

    def product(self, factors: Iterable[Node]) -> str:
        return " * ".join(self.text(f, PRODUCT if i == 0 and f[0] != "div" else UNARY) for i, f in enumerate(factors))

    def quotient(self, over: Node, under: Node) -> tuple[str, int]:
        return f"{self.text(over, PRODUCT)} / {self.text(under, UNARY)}", PRODUCT

    def condition(self, node: Node) -> str:
        kind, *args = node
        if kind in ("and", "or"):
            return f" {OPERATORS[kind]} ".join(f"({self.condition(a)})" for a in args)
        return f"{self.text(args[0])} {OPERATORS[kind]} {self.text(args[1])}"

    def numbers(self, number: Fraction, constants: Powers) -> str:
        """The text of a number and of constants that it multiplies."""
        words = [] if abs(number) == 1 and constants else [literal(abs(number))]
        words += [self.constant(name) for name, n in constants for _ in range(n)]
        made = " * ".join(words or ["1"])
        for name, n in constants:
            made += f" / {self.constant(name)}" * max(0, -n)
        return f"-{made}" if number < 0 else made

    def instance(self, line: str) -> str:
        """A bundle by its short name."""
        for bundle, short in BUNDLES.items():
            if line.startswith(bundle):
                return short + line.removeprefix(bundle)
        return line

    # --- by language ---

    def scalar(self, number: Fraction, constants: Powers) -> tuple[str, int]:
        raise NotImplementedError

    def constant(self, name: str) -> str:
        raise NotImplementedError

    def field(self, line: str, name: str) -> str:
        return f"{self.instance(line)}.{name}"

    def call(self, function: str, args: list[Node]) -> str:
        return f"{function}({', '.join(self.text(a) for a in args)})"

    def where(self, holds: Node, then: Node, other: Node) -> tuple[str, int]:
        raise NotImplementedError


def literal(number: Fraction) -> str:
    """A number as it is written: whole, decimal where that is all of it, else a quotient."""
    if number.denominator == 1:
        return str(number.numerator)
    decimal = repr(float(number))
    short = number.denominator < 1000 and Fraction(decimal) != number  # 1/3, say
    return f"{float(number.numerator)!r} / {number.denominator}" if short else decimal


def decimal(number: float) -> str:
    """As short as it can be without a loss."""
    short = f"{number:g}"
    return short if float(short) == number else repr(number)
