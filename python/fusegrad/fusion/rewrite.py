"""Finds, in the source of a method, each place that applies an activation to a Linear, and rewrites those two calls.

Two shapes are taken; in both the activation is the very next operation, so that nothing stands between the two calls:

    torch.tanh(self.fc(x))           one expression, with any activation of the registry
    x = self.fc(x)                   two statements, one directly after the other: the activation is what the second
    x = self.drop(F.relu(x))         computes first, and all that ever reads what the first stores

Both become `self._fusegrad_apply(F.relu, self._fusegrad_defer(self.fc, x))`. Every other part of the method stays as it
was: branches, loops, random numbers, side effects and the meaning of names are the author's, on each call. `defer` and
`apply` do as written wherever they are not given a Linear and its activation (runtime.py), so nothing has to be proved
of the rest of the method.
"""

import ast
import builtins
import functools
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from types import CodeType, FunctionType, ModuleType
from typing import Any

from . import recognise
from .code import Unreadable, contents, parse, remake, self_name
from .paths import Names, Path

DEFER, APPLY = "_fusegrad_defer", "_fusegrad_apply"  # methods that the class of the rewritten method must have
_SEE_LOCALS = {"locals", "vars", "dir", "eval", "exec", "breakpoint"}


@dataclass(frozen=True, eq=False)
class Site:
    """Where an activation may be applied to a Linear: that depends on what the module holds."""

    linear: tuple[Path, ...]  # where it may hold the Linear
    act: tuple[Path, ...]  # where it may hold the activation, or ()
    target: Any  # the activation where it is a function, or the name of a method of the tensor
    args: tuple  # of the activation after the tensor, constants
    kwargs: dict[str, Any]
    passed: tuple[tuple[Path, ...], ...]  # what is looked up between the calls, which must be plain attributes
    text: str  # the activation as it is written
    nodes: tuple[ast.Call, ast.Call]  # of the Linear and of the activation
    method: bool  # the activation is a method of the tensor


@dataclass(frozen=True)
class Method:
    """What the source of a method says of the calls of what its module holds."""

    sites: tuple[Site, ...]
    alone: tuple[tuple[tuple[Path, ...], str], ...]  # the other calls, and what reads their result


@functools.lru_cache(maxsize=1024)
def read(function: FunctionType, code: CodeType) -> Method:
    """Reads a method, whose code is `code`. Raises Unreadable."""
    if hasattr(function, "__wrapped__"):
        raise Unreadable("it is wrapped by a decorator")
    reader = _Reader(function, code, parse(function, code)[1])
    return Method(tuple(reader.sites), tuple(reader.alone()))


def rewrite(function: FunctionType, chosen: frozenset[int]) -> FunctionType:
    """The method with the chosen of its sites, by their number, run as one call. Raises Unreadable."""
    code = function.__code__
    module, method = parse(function, code)
    sites = _Reader(function, code, method).sites
    taken: set[ast.Call] = set()
    for k, site in enumerate(sites):
        if k in chosen and taken.isdisjoint(site.nodes):
            taken.update(site.nodes)
            _replace(site, self_name(method))
    return remake(function, module)


def _replace(site: Site, self_: str) -> None:
    def helper(name: str) -> ast.Attribute:
        return ast.Attribute(ast.Name(self_, ast.Load()), name, ast.Load())

    linear, act = site.nodes
    if site.method:
        assert isinstance(act.func, ast.Attribute)
        act.args = [ast.Constant(act.func.attr), act.func.value, *act.args]
    else:
        act.args = [act.func, *act.args]
    linear.args = [linear.func, *linear.args]
    act.func, linear.func = ast.copy_location(helper(APPLY), act), ast.copy_location(helper(DEFER), linear)


# --- sites --------------------------------------------------------------------------------------------------------


class _Reader:
    """The sites of one method."""

    def __init__(self, function: FunctionType, code: CodeType, method: ast.FunctionDef) -> None:
        self.function, self.code, self.method = function, code, method
        self.names = Names(method, self_name(method), function.__qualname__.split(".")[-2:][0])
        everything = list(ast.walk(method))
        names = [n for n in everything if isinstance(n, ast.Name)]
        self.loads = Counter(n.id for n in names if isinstance(n.ctx, ast.Load))
        self.loads.update(
            n.target.id for n in everything if isinstance(n, ast.AugAssign) if isinstance(n.target, ast.Name)
        )
        self.local = {n.id for n in names if not isinstance(n.ctx, ast.Load)}
        self.local |= {n.arg for n in everything if isinstance(n, ast.arg)} | {*code.co_varnames, *code.co_cellvars}
        self.calls = [n for n in everything if isinstance(n, ast.Call)]
        self.sites = [*self._nested(), *self._in_two_statements()]

    def alone(self) -> Iterator[tuple[tuple[Path, ...], str]]:
        parents = {child: parent for parent in ast.walk(self.method) for child in ast.iter_child_nodes(parent)}
        in_sites = {site.nodes[0] for site in self.sites}
        for call in self.calls:
            if call not in in_sites and (paths := self.names.of(call.func)):
                yield paths, self._why(call, parents[call])

    def _why(self, call: ast.Call, parent: ast.AST) -> str:
        if not self._is_linear(call):
            return "called with more than its input"
        match parent:
            case ast.Return():
                return "returned as it is"
            case ast.Assign():
                return "the next statement does not begin with an activation of it, or others read it too"
            case ast.Call(func=func) if call in parent.args:
                return f"read by {self._text(func)}"
        return "read by what is no activation"

    def _is_linear(self, call: ast.Call) -> bool:
        """Whether that may be a call of a Linear, which takes its input and nothing else."""
        if len(call.args) != 1 or call.keywords or isinstance(call.args[0], ast.Starred):
            return False
        return any(self.names.of(call.func))

    def _nested(self) -> Iterator[Site]:
        for call in self.calls:
            for read in (call.args[:1], [call.func.value] if isinstance(call.func, ast.Attribute) else []):
                linear = read[0] if read else None
                if isinstance(linear, ast.Call) and self._is_linear(linear):
                    if site := self._site(linear, call, linear, ()):
                        yield site

    def _in_two_statements(self) -> Iterator[Site]:
        if not _SEE_LOCALS.isdisjoint(self.loads):
            return
        for body in _bodies(self.method):
            for first, second in pairwise(body):
                match first, second:
                    case (
                        ast.Assign(targets=[ast.Name(id=name)], value=ast.Call() as linear),
                        ast.Assign(value=expr) | ast.Return(value=ast.expr() as expr),
                    ) if self._is_linear(linear) and self._is_last_read(name, second):
                        if site := self._begins(expr, linear, name):
                            yield site

    def _is_last_read(self, name: str, statement: ast.stmt) -> bool:
        """Whether the statement reads a variable once, and nothing reads it later."""
        if name not in self.code.co_varnames or name in self.code.co_cellvars:
            return False
        reads = sum(isinstance(n, ast.Name) and n.id == name for n in ast.walk(statement))
        match statement:
            case ast.Return():
                return reads == 1
            case ast.Assign(targets=[ast.Name(id=target)]) if target == name:
                return reads == 2  # once to store it
            case ast.Assign():
                return reads == self.loads[name] == 1
        return False

    def _begins(self, expr: ast.expr, linear: ast.Call, name: str) -> Site | None:
        """The site, if the first that `expr` does, but for looking up names, is an activation of the variable."""
        passed: list[tuple[Path, ...]] = []
        while True:
            match expr:
                case ast.Call(func=ast.Attribute(value=ast.Name(id=read)) as func) if read == name:
                    return self._site(linear, expr, func.value, tuple(passed))
                case ast.Call(args=[ast.Name(id=read), *_]) if read == name:
                    return self._site(linear, expr, expr.args[0], tuple(passed))
                case ast.Call(func=func, args=[first, *_]) if self._is_plain(func):
                    passed.append(self.names.of(func))
                    expr = first
                case ast.Call(func=ast.Attribute(value=first)) | ast.Attribute(value=first):
                    expr = first
                case ast.BinOp(left=first) | ast.Subscript(value=first) | ast.UnaryOp(operand=first):
                    expr = first
                case _:
                    return None

    def _is_plain(self, func: ast.expr) -> bool:
        return bool(self.names.of(func)) or self._global(func) is not None

    def _site(self, linear: ast.Call, act: ast.Call, read: ast.expr, passed: tuple) -> Site | None:
        is_method = act.args[:1] != [read]
        try:
            args = tuple(ast.literal_eval(a) for a in (act.args if is_method else act.args[1:]))
            kwargs = {k.arg or "**": ast.literal_eval(k.value) for k in act.keywords}
        except ValueError:
            return None  # only constants may be evaluated between the two calls
        paths, target = (), None  # type: tuple[Path, ...], Any
        if is_method:
            assert isinstance(act.func, ast.Attribute)
            target = act.func.attr
        elif not any(paths := self.names.of(act.func)):
            target = self._global(act.func)
        if not any(paths) and recognise.of_call(target, args, kwargs) is None:
            return None
        text = self._text(act.func)
        return Site(self.names.of(linear.func), paths, target, args, kwargs, passed, text, (linear, act), is_method)

    def _text(self, func: ast.expr) -> str:
        return ast.unparse(func).removeprefix(f"{self_name(self.method)}.")

    def _global(self, expr: ast.expr) -> Any:
        """What a name of the enclosing Python module, or one that it imported, stands for now; or None."""
        match expr:
            case ast.Name(id=name) if name in self.code.co_freevars:
                return contents((self.function.__closure__ or ())[self.code.co_freevars.index(name)])
            case ast.Name(id=name) if name not in self.local:
                return self.function.__globals__.get(name, getattr(builtins, name, None))
            case ast.Attribute(value=value, attr=attr):
                owner = self._global(value)
                return vars(owner).get(attr) if isinstance(owner, ModuleType) else None
        return None


def _bodies(node: ast.AST) -> Iterator[list[ast.stmt]]:
    """The blocks of a method in which no exception can be caught: those of loops and branches."""
    for body in (getattr(node, "body", []), getattr(node, "orelse", [])):
        yield body
        for statement in body:
            if isinstance(statement, (ast.If, ast.For, ast.While)):
                yield from _bodies(statement)
