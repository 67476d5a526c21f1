"""Activations in C++: a struct each, as csrc/activations.h has them."""

from fractions import Fraction

from .definition import Definition
from .derive import all_programs
from .printer import ATOM, ORDERS, SUM, Printer, decimal, is_scalar
from .simplify import Node, Powers, scalar

TYPES = {"logistic": "Logistic", "normal": "Normal", "tanh_softplus": "TanhSoftplus"}


def camel(name: str) -> str:
    return "".join(word[:1].upper() + word[1:].lower() for word in name.split("_"))


class Cpp(Printer):
    def scalar(self, number: Fraction, constants: Powers) -> tuple[str, int]:
        if not constants and number.denominator == 1:
            return str(number.numerator), ATOM
        return f"c<V>({self.numbers(number, constants)})", ATOM

    def constant(self, name: str) -> str:
        return f"k{camel(name)}"

    def where(self, holds: Node, then: Node, other: Node) -> tuple[str, int]:
        return f"{self.condition(holds)} ? {self.vector(then)} : {self.vector(other)}", SUM - 1

    def vector(self, node: Node) -> str:
        if node == scalar(0):
            return "V{}"
        return f"all<V>({self.text(node)})" if is_scalar(node) else self.text(node, SUM - 1)

    def function(self) -> str:
        order, lines = self.program.order, []
        if self.program.bound:
            bound = decimal(self.program.bound)
            lines.append(f"{self.s} = clamp({self.s}, -{bound}, {bound});")
        for line in self.program.lines:
            node = self.text(line.node)
            if line.bundle:
                lines.append(f"const {TYPES[line.bundle]}<V> {self.instance(line.name)}({node});")
            else:
                lines.append(f"const V {line.name} = {self.vector(line.node)};")
        lines.append(f"return {self.vector(self.program.result)};")
        used = lambda node, name: f" {name}" if self.program.uses(node) else ""
        g = f"V{used(('name', 'g'), 'g')}, " if order == 1 else ""
        s, p = used(("name", "z"), self.s), used(("param",), self.param)
        return f"template <class V> static V {ORDERS[order]}({g}V{s}, P<V>{p}) {{ {' '.join(lines)} }}"


def cpp(definition: Definition) -> str:
    """The struct of an activation."""
    lines = [
        f'static constexpr const char* kName = "{definition.name}";',
        f"static constexpr bool kSavesInput = {'true' if definition.saves_input else 'false'};",
    ]
    for name, value in definition.constants.items():
        lines.append(f"static constexpr double k{camel(name)} = {value!r};")
    lines += [Cpp(definition, program).function() for program in all_programs(definition)]
    body = "\n".join(f"  {line}" for line in lines)
    return f"struct {camel(definition.name)} {{\n{body}\n}};\n"
