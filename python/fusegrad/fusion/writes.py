"""Whether a model may write in place to what one of its activations returned, as far as its authors' code shows.

Looked at is what its forwards reach: methods, by name, whichever module they are called on, and functions of the same
package. A write to what may be a tensor counts; so does what cannot be told.
"""

import ast
import dis
import functools
import inspect
import textwrap
from collections import defaultdict, deque
from collections.abc import Iterator
from dataclasses import dataclass
from types import CodeType, FunctionType, ModuleType
from typing import Any

import torch
from torch import nn

from ..internals.module import children
from .classes import original_class
from .code import Definition, Unreadable, contents, nested, parse, self_name
from .find import author_of_forward, is_torchs, methods

_HARMLESS = {"requires_grad_", "_coalesced_"}  # write no values
_NEW = {"zeros", "ones", "empty", "full", "rand", "randn", "arange", "eye", "linspace", "tensor", "cat", "stack"}
_NEW |= {f"{name}_like" for name in _NEW} | {"clone"}
_NEW_BY_METHOD = {"new_zeros", "new_ones", "new_empty", "new_full", "new_tensor", "clone"}
_NO_TENSORS = {"int", "float", "bool", "str", "list", "dict", "tuple", "set", "List", "Dict", "Tuple", "Set"}
_MADE = (ast.Constant, ast.JoinedStr, ast.List, ast.Tuple, ast.Dict, ast.Set, ast.ListComp, ast.DictComp, ast.SetComp)
_MAKERS = {"dict", "list", "set", "len", "int", "float", "bool", "str", "defaultdict", "OrderedDict", "Counter"}
_SCOPES = ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda
_CONTAINERS = dict, list, tuple, set, frozenset, deque
_PLAIN = int, float, complex, str, bytes


@dataclass(frozen=True)
class _Facts:
    """What the code of a function says."""

    writes: str | None  # what may write to a tensor, whatever its module holds
    self_: str  # what it calls its module
    augments: frozenset[str]  # attributes of that that it writes to by self.n += 1, if they hold tensors
    fills: frozenset[str]  # or by self.history[k] = x, if they are no containers
    calls: frozenset[str]  # or by self.add_(x), if they are neither modules nor functions
    names: frozenset[str]  # that it mentions, and so may call
    functions: tuple[FunctionType, ...]  # that it may call


def writes_in_place(model: nn.Module) -> str | None:
    """What of a model may write in place to a tensor, told as the reason of something; None if nothing does."""
    modules: dict[type, list[nn.Module]] = defaultdict(list)
    for path, m in model.named_modules():
        if vars(m).get("inplace"):
            return f"{path or type(m).__name__} works in place"
        modules[original_class(type(m))].append(m)
    names = {"forward", "__call__"}
    root = original_class(type(model))
    if author_of_forward(root) is nn.Module:  # it is called by its methods
        names |= {name for name, _ in methods(root)}
    seen: set[tuple[type, FunctionType]] = set()
    while todo := [(cls, f) for cls in modules for f in _functions(cls, modules[cls], names) if (cls, f) not in seen]:
        while todo:
            cls, function = todo.pop()
            if (cls, function) not in seen:
                seen.add((cls, function))
                facts = read(function, function.__code__)
                found = (_writes(m, facts) for m in modules[cls])
                if written := facts.writes or next(filter(None, found), None):
                    return f"{written} of {function.__qualname__} may write in place"
                names |= facts.names
                todo += [(cls, f) for f in facts.functions]
    return None


def _functions(cls: type, modules: list[nn.Module], names: set[str]) -> Iterator[FunctionType]:
    """The functions that modules of a class, or the class, have under these names."""
    for base in cls.__mro__:
        if not is_torchs(base):
            for name, value in vars(base).items():
                if name in names:
                    # of a static or class method, a property, a cached property
                    value = getattr(value, "__func__", getattr(value, "fget", getattr(value, "func", value)))
                    if isinstance(value, FunctionType):
                        yield value
    for m in modules:
        held = (f for name, f in vars(m).items() if name in names and isinstance(f, FunctionType))
        yield from (f for f in held if not is_torchs(f))  # F.relu, which writes where it is told to


def _writes(m: nn.Module, facts: _Facts) -> str | None:
    """Where a module's code writes to what it holds, and that may be tensors."""
    tensors = [name for name in facts.augments if not _is_plain(_held(m, name))]
    tensors += [name for name in facts.fills if not isinstance(_held(m, name), _CONTAINERS)]
    tensors += [name for name in facts.calls if not isinstance(_held(m, name), (nn.Module, FunctionType))]
    return f"`{facts.self_}.{min(tensors)}`" if tensors else None


def _held(m: nn.Module, name: str) -> Any:
    """What a module or its class has under a name; None if that cannot be told without running it."""
    for held in (vars(m), children(m)):
        if name in held:
            return held[name]
    return inspect.getattr_static(type(m), name, None)


def _is_plain(value: Any) -> bool:
    """Whether this is a number or text, or holds nothing else."""
    if isinstance(value, _CONTAINERS):
        return all(map(_is_plain, value.values() if isinstance(value, dict) else value))
    return isinstance(value, _PLAIN)


# --- what a function does -----------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=4096)
def read(function: FunctionType, code: CodeType) -> _Facts:
    """Reads a function, whose code is `code`: its source where its code has the look of a write."""
    codes = [code, *nested(code)]
    names = frozenset(name for c in codes for name in (*c.co_names, *c.co_consts) if isinstance(name, str))
    functions = tuple(_called(function, names))
    if not any(map(_looks_like_writing, codes)):
        return _Facts(None, "", frozenset(), frozenset(), frozenset(), names, functions)
    try:
        _, tree = parse(function, code)
    except Unreadable:
        return _Facts("the code", "", frozenset(), frozenset(), frozenset(), names, functions)
    found = _Reader(function, tree)
    kinds = frozenset(found.augments), frozenset(found.fills), frozenset(found.calls)
    return _Facts(found.writes, found.self_, *kinds, names, functions)


def _called(function: FunctionType, names: frozenset[str]) -> Iterator[FunctionType]:
    """The function that a function wraps, and those of its package that it may call."""
    if isinstance(wrapped := vars(function).get("__wrapped__"), FunctionType):
        yield wrapped
    known = [*map(function.__globals__.get, names), *map(contents, function.__closure__ or ())]
    known += [vars(file).get(name) for file in known if isinstance(file, ModuleType) for name in names]
    yield from (f for f in known if isinstance(f, FunctionType) and _package(f) == _package(function))


def _package(function: FunctionType) -> str:
    return function.__globals__.get("__name__", "").split(".")[0]


def _looks_like_writing(code: CodeType) -> bool:
    if any(name.endswith("_") and not name.endswith("__") for name in {*code.co_names} - _HARMLESS):
        return True  # x.mul_(2)
    if any(isinstance(c, tuple) and ("inplace" in c or "out" in c) for c in code.co_consts):
        return True  # F.relu(x, inplace=True)
    return any(
        i.opname.startswith(("INPLACE_", "STORE_SUBSCR", "STORE_SLICE"))
        or (i.opname == "BINARY_OP" and i.argrepr.endswith("="))
        for i in dis.get_instructions(code)
    )  # x += 1, x[0] = 1


class _Reader:
    """The writes in the source of a function."""

    def __init__(self, function: FunctionType, tree: Definition) -> None:
        self.writes: str | None = None  # the first of them
        self.augments, self.fills, self.calls = set[str](), set[str](), set[str]()
        self.function, self.self_ = function, _first_argument(tree)
        everything = list(ast.walk(tree))
        self.parents = {child: node for node in everything for child in ast.iter_child_nodes(node)}
        self.shared = {name for n in everything if isinstance(n, (ast.Nonlocal, ast.Global)) for name in n.names}
        self.values: dict[str, list[ast.expr | None]] = defaultdict(list)  # that names are given, None if not known
        self.containers: set[str] = set()  # parameters that are said to be no tensors
        self._bind(tree, everything)
        augmented = {n.target for n in everything if isinstance(n, ast.AugAssign)}
        for node in everything:
            match node:
                case ast.AugAssign(target=ast.Subscript(value=base) | base):
                    self._may_write(node, base, self.augments, made=isinstance(node.target, ast.Name))
                case ast.Subscript(value=base, slice=key, ctx=ast.Store()) if node not in augmented:
                    if not (isinstance(key, ast.JoinedStr) or isinstance(getattr(key, "value", None), str)):
                        self._may_write(node, base, self.fills, made=True)  # no tensor has text for an index
                case ast.Call(func=func, keywords=keywords):
                    self._call(node, func)
                    said = {k.arg: getattr(k.value, "value", True) for k in keywords if not self._is_handed_on(k)}
                    if said.get("inplace", False) is not False or said.get("out") is not None:
                        self._note(node)

    def _note(self, node: ast.AST) -> None:
        self.writes = self.writes or f"`{textwrap.shorten(ast.unparse(node), 60, placeholder=' ...')}`"

    def _is_handed_on(self, given: ast.keyword) -> bool:
        """Whether this is `out=out` of a parameter: a caller says it, and torch refuses it where it derives."""
        return given.arg == "out" and isinstance(given.value, ast.Name) and self.values.get("out") == [None]

    def _bind(self, tree: Definition, everything: list[ast.AST]) -> None:
        given: dict[ast.AST, ast.expr] = {}
        for node in everything:
            if isinstance(node, (ast.Assign, ast.AnnAssign)):
                for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
                    given |= _given(target, node.value)
        # what is made stays what it is when it is augmented: 0 + tensor is a new one
        augmented = {node.target for node in everything if isinstance(node, ast.AugAssign)}
        for node in everything:
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store) and node not in augmented:
                self.values[node.id].append(given.get(node))
            elif isinstance(node, ast.arg):
                self.values[node.arg].append(None)
                if node is tree.args.kwarg or _is_no_tensor(node.annotation):
                    self.containers.add(node.arg)

    def _may_write(self, node: ast.AST, base: ast.expr, attributes: set[str], made: bool) -> None:
        """A write to what an expression gives, or to an item of it; `made`: harmless if it is a number or container."""
        match base:
            case ast.Attribute(value=ast.Name(id=self.self_), attr=name):
                attributes.add(name)
            case ast.Name(id=name) if made and name in self.containers:
                pass
            case ast.Name(id=name):
                values = self.values.get(name)
                is_made = made and values and all(value is not None and _is_made(value) for value in values)
                if not (is_made or self._is_new(base)):
                    self._note(node)
            case _ if not self._is_new(base):
                self._note(node)

    def _last_given(self, read: ast.Name) -> ast.expr | None:
        """What a name was given last, whichever way led to where it is read; None if that may differ."""
        at: ast.AST = read
        while not isinstance(at, _SCOPES) and read.id not in self.shared:
            within = self.parents[at]
            block = next((b for _, b in ast.iter_fields(within) if isinstance(b, list) and at in b), [])
            for before in reversed(block[: block.index(at)] if isinstance(at, ast.stmt) else []):
                match before:
                    case ast.Assign(targets=[ast.Name(id=read.id)], value=value):
                        return value
                if _stores(before, read.id):
                    return None
            at = within
            if not isinstance(at, _SCOPES) and any(_stores(part, read.id) for part in _before_stored(at)):
                return None
        return None

    def _is_new(self, e: ast.expr | None, seen: frozenset[str] = frozenset()) -> bool:
        """Whether an expression makes a tensor, or is a view of one that was made here: no activation returned it."""
        match e:
            case ast.Name(id=name):
                if name in seen:
                    return True
                if (last := self._last_given(e)) is not None:
                    return self._is_new(last, seen)
                values = self.values.get(name)
                return bool(values and all(self._is_new(value, seen | {name}) for value in values))
            case ast.BinOp() | ast.Compare() | ast.Constant():
                return True
            case ast.Call(func=ast.Attribute(value=ast.Name(id=owner), attr=name)) if owner not in self.values:
                return name in _NEW and self.function.__globals__.get(owner) is torch
            case ast.Call(func=ast.Attribute(value=owner, attr=name)):
                return name in _NEW_BY_METHOD or (hasattr(torch.Tensor, name) and self._is_new(owner, seen))
            case ast.Subscript(value=of):
                return self._is_new(of, seen)
        return False

    def _call(self, node: ast.Call, func: ast.expr) -> None:
        match func:
            case ast.Attribute(value=owner, attr=name) if _writes_by_name(name):
                if self._is_new(owner):
                    return
                of_self = isinstance(owner, ast.Name) and owner.id == self.self_
                if of_self or ast.unparse(owner) == "super()":
                    self.calls.add(name)
                else:
                    self._note(node)
            case ast.Name(id=name) if _writes_by_name(name):
                if not isinstance(self.function.__globals__.get(name), FunctionType):
                    self._note(node)


def _stores(node: ast.AST, name: str) -> bool:
    """Whether a statement, or what is in it, gives a name a value."""
    augmented = {n.target for n in ast.walk(node) if isinstance(n, ast.AugAssign)}  # which stays what it was
    return any(
        isinstance(n, ast.Name) and n.id == name and not isinstance(n.ctx, ast.Load) and n not in augmented
        for n in ast.walk(node)
    )


def _before_stored(node: ast.AST) -> list[ast.AST]:
    """What is evaluated before an assignment stores anything, or all of another node."""
    match node:
        case ast.Assign(targets=targets, value=value):
            return [value, *(t for t in targets if not isinstance(t, ast.Name))]
        case ast.AugAssign(target=target, value=value):
            return [value] if isinstance(target, ast.Name) else [value, target]
    return [node]


def _given(target: ast.expr, value: ast.expr | None) -> dict[ast.AST, ast.expr]:
    """What the names of an assignment are given, as far as it is written there."""
    match target, value:
        case ast.Name(), ast.expr():
            return {target: value}
        case ast.Tuple(elts=targets), ast.Tuple(elts=values) if len(targets) == len(values):
            return {name: v for pair in zip(targets, values, strict=True) for name, v in _given(*pair).items()}
    return {}


def _is_no_tensor(annotation: ast.expr | None) -> bool:
    """Whether a parameter is said to be a number, text or a container, or perhaps None."""
    match annotation:
        case ast.Subscript(value=ast.Name(id="Optional") | ast.Attribute(attr="Optional"), slice=of):
            return _is_no_tensor(of)
        case ast.Subscript(value=of):
            return _is_no_tensor(of)
        case ast.BinOp(left=left, op=ast.BitOr(), right=ast.Constant(value=None)):
            return _is_no_tensor(left)
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return name in _NO_TENSORS
    return False


def _writes_by_name(name: str) -> bool:
    return name.endswith("_") and not name.endswith("__") and name not in _HARMLESS


def _first_argument(tree: Definition) -> str:
    """What a method calls its module; "" where it gives that name to something else too."""
    try:
        return self_name(tree)
    except Unreadable:
        return ""


def _is_made(value: ast.expr) -> bool:
    """Whether an expression makes a number, text or a container."""
    match value:
        case ast.Call(func=ast.Name(id=name)):
            return name in _MAKERS
        case ast.UnaryOp(operand=operand):
            return _is_made(operand)
        case ast.BinOp(left=left, right=right):
            return _is_made(left) and (isinstance(left, ast.List) or _is_made(right))
    return isinstance(value, _MADE)
