"""What an expression in the source of a function computes, as far as it may be part of a fused call.

    self.fc(x)  F.linear(x, w, b)  x @ w       a layer
    torch.tanh(T)  self.act(T)  T.sigmoid()    an activation of a term
    s * T  T * s  T + t                        a scaled term, or a shifted one
    T.view(shape)                              a term in another shape
    name                                       a variable that was given a term
    T.chunk(2, dim=-1)  T.split(n, dim=-1)     two halves of a term
    A * T                                      a gate: two terms, of which one is an activation or a variable

What each part is, the module decides that the method is called on.
"""

import ast
import builtins
from collections.abc import Container
from types import FunctionType, ModuleType
from typing import Any

import torch

from ..internals.call import is_linear
from .code import contents
from .kinds import (
    Act,
    Constant,
    Gate,
    Half,
    Halves,
    Held,
    Layer,
    Product,
    Scaled,
    Term,
    Variable,
    Variables,
    Viewed,
    variables_of,
)
from .paths import Names, Path

CUTS = {"chunk": torch.chunk, "split": torch.split, "tensor_split": torch.tensor_split}
_ARITHMETIC = ast.Mult, ast.Div, ast.FloorDiv, ast.Mod, ast.Add, ast.Sub, ast.Pow
_PREDICATES = {"isinstance", "hasattr", "callable", "len", "bool", "type"}


class Terms:
    """Reads the terms in a function."""

    def __init__(self, function: FunctionType, definition: ast.FunctionDef | ast.Lambda, self_: str) -> None:
        self.function, self.self_ = function, self_
        code = function.__code__
        everything = list(ast.walk(definition))
        self.names = Names(definition, self_, function.__qualname__.split(".")[-2:][0])
        self.local = {n.id for n in everything if isinstance(n, ast.Name) and not isinstance(n.ctx, ast.Load)}
        self.local |= {n.arg for n in everything if isinstance(n, ast.arg)} | {*code.co_varnames, *code.co_cellvars}
        self.passed: list[tuple[Path, ...]] = []  # what calm expressions look up of the module

    def layer(self, e: ast.expr, variables: Variables, calm: bool = False) -> Term | None:
        """The layer that an expression is, or a variable that holds a term, scaled or not; or None.

        In a calm one nothing is computed before what it puts off.
        """
        match e:
            case ast.Name(id=name) if name in variables:
                held = variables[name]
                return Half(e, held) if isinstance(held, Halves) else Variable(e, held)
            case ast.BinOp(left=left, op=ast.Mult() | ast.Add(), right=right):
                for side, other in ((right, left), (left, right)):
                    if self._is_held(other) and self.calm(other) and (of := self.layer(side, variables, calm)):
                        return Scaled(e, of)
            case ast.Call(func=ast.Attribute(value=side, attr="view" | "reshape"), args=shape, keywords=[]):
                if all(self.calm(s, variables) for s in shape) and (of := self.layer(side, variables, calm)):
                    return Viewed(e, of)
        match e:
            case ast.BinOp(op=ast.MatMult()) | ast.Call() if not self._reads(e, variables):
                if not calm or self._is_calm_but_for_the_call(e):
                    return Product(e) if isinstance(e, ast.BinOp) else self._call_of_layer(e)
        return None

    def factor(self, e: ast.expr, variables: Variables, calm: bool = False) -> Term | None:
        """The activation of a term, or the term, that an expression is; or None."""
        return (isinstance(e, ast.Call) and self.act(e, variables, calm)) or self.layer(e, variables, calm)

    def gate(self, e: ast.expr, variables: Variables) -> Gate | None:
        """The product of two terms, one of them an activation, that an expression is."""
        match e:
            case ast.BinOp(left=left, op=ast.Mult(), right=right):
                a = self.factor(left, variables, calm=bool(variables))
                b = self.factor(right, variables, calm=True) if a else None
                if a and b and any(isinstance(_held(t), Act) for t in (a, b)):
                    return Gate(e, a, b)
        return None

    def act(self, e: ast.Call, variables: Variables, calm: bool = False) -> Act | None:
        """A call of a term, and of constants after it: nothing else may be evaluated between the two calls."""
        operands = [(e.args[0], e.args[1:], False)] if e.args else []
        if isinstance(e.func, ast.Attribute):
            operands.append((e.func.value, e.args, True))
        for operand, rest, method in operands:
            if (calm and not method and not self.calm(e.func)) or not (of := self.layer(operand, variables, calm)):
                continue
            given = {k: self._constant(a) for k, a in enumerate(rest)}
            named = {k.arg or "**": self._constant(k.value) for k in e.keywords}
            if None in (*given.values(), *named.values()):
                continue
            args = tuple(c.value for c in given.values() if c)
            kwargs = {k: c.value for k, c in named.items() if c}
            paths = () if method else self.names.of(e.func)
            target: Any = None
            if method and isinstance(e.func, ast.Attribute):
                target = e.func.attr
            elif not any(paths):
                target = self.value(e.func)
            looked_up = self._looked_up(e.func) if any(variables_of(of)) else ()  # else its order is that of the author
            return Act(e, of, paths, target, args, kwargs, method, self.text(e.func), looked_up)
        return None

    def _looked_up(self, func: ast.expr) -> tuple[tuple[Path, ...], ...] | None:
        """What finding what is called looks up of the module; None if it does more."""
        before, self.passed = self.passed, []
        found = tuple(self.passed) if self.calm(func) else None
        self.passed = before
        return found

    def _constant(self, e: ast.expr) -> Constant | None:
        """The value of an argument, or where the module holds it; None if it is to be computed."""
        try:
            return Constant(ast.literal_eval(e))
        except ValueError:
            paths = self.names.of(e) if isinstance(e, ast.Attribute) and self.calm(e) else ()
            return Constant(Held(paths)) if any(paths) else None

    def halves(self, e: ast.expr, variables: Variables) -> Halves | None:
        """A call of chunk, split or tensor_split that an expression is; when it is called it may halve."""
        if not isinstance(e, ast.Call):
            return None
        cuts = any(self.value(e.func) is f for f in CUTS.values())
        operands = [(e.args[0], e.args[1:], False)] if e.args and cuts else []
        if isinstance(e.func, ast.Attribute) and e.func.attr in CUTS and not operands:
            operands = [(e.func.value, e.args, True)]
        for operand, given, method in operands:
            sizes = [s for a in (*given, *(k.value for k in e.keywords)) for s in getattr(a, "elts", [a])]
            of = self.layer(operand, variables, calm=bool(variables))
            if of is not None and all(self.calm(s, variables) for s in sizes):
                return Halves(e, of, method)
        return None

    def _call_of_layer(self, e: ast.Call) -> Term | None:
        if any(isinstance(a, ast.Starred) for a in e.args) or not e.args:
            return None
        if is_linear(self.value(e.func)) and {k.arg for k in e.keywords} <= {"bias"}:
            return Layer(e, ())
        if self.value(e.func) is torch.addmm and len(e.args) == 3 and not e.keywords:
            return Product(e)
        if any(self.value(e.func) is f for f in (torch.mm, torch.matmul)) and len(e.args) == 2 and not e.keywords:
            return Product(e)
        paths = self.names.of(e.func)
        return Layer(e, paths) if any(paths) and all(k.arg for k in e.keywords) else None

    def _is_held(self, e: ast.expr) -> bool:
        """Whether an expression is made of constants and of what the module holds, and of no local variable."""
        names = {n.id for n in ast.walk(e) if isinstance(n, ast.Name)}
        return not (names - {self.self_}) & self.local

    def _is_calm_but_for_the_call(self, e: ast.BinOp | ast.Call) -> bool:
        if isinstance(e, ast.BinOp):
            return self.calm(e.left) and self.calm(e.right)
        return all(map(self.calm, (e.func, *e.args, *(k.value for k in e.keywords))))

    def _reads(self, e: ast.expr, variables: Container[str]) -> bool:
        return any(isinstance(n, ast.Name) and n.id in variables for n in ast.walk(e))

    def calm(self, e: ast.expr, variables: Container[str] = ()) -> bool:
        """Whether an expression only looks up, and computes with, what is there, and reads none of these variables.

        It must be all the same whether it is evaluated before or after a linear layer.
        """
        match e:
            case ast.Constant():
                return True
            case ast.Name(id=name):
                return name not in variables
            case ast.Attribute(value=ast.Name(id=name), attr="device" | "shape" | "ndim" as attr) if name in variables:
                return attr == "device" or _has_shape(variables, name)  # which are known of what was put off
            case ast.Call(func=ast.Attribute(value=ast.Name(id=name), attr="size" | "dim")) if name in variables:
                return _has_shape(variables, name) and not e.keywords and all(self.calm(a, variables) for a in e.args)
            case ast.Attribute(value=value):
                if paths := self.names.of(e):
                    self.passed.append(paths)
                return self.calm(value, variables)
            case ast.Subscript(value=value, slice=ast.Constant() | ast.Name() | ast.UnaryOp() as key):
                return self.calm(value, variables) and self.calm(key, variables)
            case ast.BinOp(left=left, right=right, op=op) if isinstance(op, _ARITHMETIC):
                return self.calm(left, variables) and self.calm(right, variables)
            case ast.UnaryOp(operand=operand):
                return self.calm(operand, variables)
            case ast.BoolOp(values=values):
                return all(self.calm(v, variables) for v in values)
            case ast.Compare(left=left, comparators=others):
                return all(self.calm(v, variables) for v in (left, *others))
            case ast.Call(func=func, args=args, keywords=[]):
                name = ast.unparse(func).split(".")[-1]
                known = name in _PREDICATES and isinstance(func, ast.Name)
                if name.startswith("is_") and not self.names.of(func):  # torch.is_grad_enabled(), no method of a module
                    known = all(isinstance(a, ast.Constant) for a in args)
                return known and name not in self.local and all(self.calm(v, variables) for v in (func, *args))
        return False

    def value(self, e: ast.expr) -> Any:
        """What a name of the enclosing Python module, or one that it imported, stands for now; or None."""
        match e:
            case ast.Name(id=name) if name in (free := self.function.__code__.co_freevars):
                return contents((self.function.__closure__ or ())[free.index(name)])
            case ast.Name(id=name) if name not in self.local:
                return self.function.__globals__.get(name, getattr(builtins, name, None))
            case ast.Attribute(value=value, attr=attr):
                owner = self.value(value)
                return vars(owner).get(attr) if isinstance(owner, ModuleType) else None
        return None

    def is_plain(self, func: ast.expr) -> bool:
        """Whether what is called can be looked up without doing anything else."""
        self.calm(func)  # which notes it
        return isinstance(func, ast.Name) or bool(self.names.of(func)) or self.value(func) is not None

    def text(self, func: ast.expr) -> str:
        return ast.unparse(func).removeprefix(f"{self.self_}.")


_has_shape = lambda of, name: not (isinstance(of, dict) and isinstance(of[name], (Act, Halves)))


def _held(term: Term) -> Term | None:
    return term.held if isinstance(term, Variable) else term
