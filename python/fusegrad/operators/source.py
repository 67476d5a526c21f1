"""Goes through the source of a function, by the statements and expressions that are known here (reading.py)."""

import ast
import inspect
import operator
from collections.abc import Callable
from types import FunctionType, MethodType, ModuleType
from typing import Any, NamedTuple

from torch import Tensor, nn

from ..fusion.code import Definition, Unreadable, parse
from ..fusion.fused import method_before_fuse
from ..internals.module import reads_as_written
from .values import MOST, NUMBER, PLAIN, List, Method, Register, Unread, is_plain, items_of, part_of


class _Returned(NamedTuple):
    value: Any


_COMPARES: dict[type, Callable[[Any, Any], Any]] = {
    ast.Is: operator.is_, ast.IsNot: operator.is_not, ast.Eq: operator.eq, ast.NotEq: operator.ne,
    ast.Lt: operator.lt, ast.LtE: operator.le, ast.Gt: operator.gt, ast.GtE: operator.ge,
}  # fmt: skip
_IN_PLACE = ast.Add, ast.Sub, ast.Mult, ast.Div, ast.Pow
_MAKES = inspect.CO_GENERATOR | inspect.CO_COROUTINE | inspect.CO_ASYNC_GENERATOR  # what runs later
_AT_ONCE = sum, list, tuple  # what goes through a generator before anything else happens
_GETITEM = nn.ModuleDict.__getitem__
_DEFINITIONS: dict[Any, Definition | None] = {}  # of code, where its source can be read


def definition_of(f: FunctionType) -> Definition | None:
    """What the source of a function says, if it takes plain arguments and nothing is around it."""
    code = f.__code__
    if code not in _DEFINITIONS:
        _DEFINITIONS[code] = _definition(f)
    return _DEFINITIONS[code]


def _definition(f: FunctionType) -> Definition | None:
    try:
        made = parse(f, f.__code__)[1]
    except Unreadable:
        return None
    arguments = made.args
    if f.__code__.co_flags & _MAKES:
        return None
    if arguments.vararg or arguments.kwarg or arguments.kwonlyargs or arguments.posonlyargs:
        return None
    decorators = [ast.unparse(of) for of in getattr(made, "decorator_list", [])]
    return made if decorators in ([], ["property"]) else None


class Scope:
    """A call of a function: its variables, and what its names stand for."""

    def __init__(self, reader: Any, f: FunctionType, held: dict[str, Any], own: tuple[str, ...] = ()) -> None:
        self.reader, self.f, self.held = reader, f, held
        self.own = {*own, *f.__code__.co_varnames, *f.__code__.co_cellvars}  # names that are variables

    def run(self, body: list[ast.stmt]) -> _Returned | None:
        for s in body:
            match s:
                case ast.Expr(value=ast.Constant()) | ast.Pass():
                    pass
                case ast.Expr(value=ast.Call(func=ast.Attribute(value=of, attr="append"), args=[e], keywords=[])):
                    self.append(self.value(of), self.value(e))
                case ast.AnnAssign(target=ast.Name() as target, value=e) if e is not None:
                    self.assign(target, self.value(e))
                case ast.Assign(targets=targets, value=e):
                    made = self.value(e)
                    for target in targets:
                        self.assign(target, made)
                case ast.AugAssign(target=ast.Name(id=name), op=op, value=e) if type(op) in _IN_PLACE:
                    self.write(name, op, self.value(e))
                case ast.Assert(test=test):
                    if not self.truth(test):
                        raise Unread
                case ast.Return(value=e) if e is not None:
                    return _Returned(self.value(e))
                case ast.For(target=target, iter=over, body=inner, orelse=[]):
                    for one in items_of(self.value(over)):
                        self.assign(target, one)
                        if (found := self.run(inner)) is not None:
                            return found
                case ast.If(test=test, body=then, orelse=other):
                    if (found := self.run(then if self.truth(test) else other)) is not None:
                        return found
                case _:
                    raise Unread
        return None

    def assign(self, target: ast.expr, made: Any) -> None:
        match target:
            case ast.Name(id=name) if name in self.own:
                self.held[name] = made
            case ast.Tuple(elts=parts) | ast.List(elts=parts):
                several = items_of(made)
                if len(several) != len(parts):
                    raise Unread
                for part, one in zip(parts, several, strict=True):
                    self.assign(part, one)
            case _:
                raise Unread

    def write(self, name: str, op: ast.operator, by: Any) -> None:
        """name += by, and its like: whoever has that tensor under another name may not read it any more."""
        reader, before = self.reader, self.held.get(name)
        if not isinstance(before, Register) and type(before) not in NUMBER:
            raise Unread
        made = reader.binary(op, before, by)
        if isinstance(before, Register):
            if reader.shape(made) != reader.shape(before):
                raise Unread
            reader.written(before)
        self.held[name] = made

    @staticmethod
    def append(to: Any, one: Any) -> None:
        if type(to) is not List or to.is_read or len(to) >= MOST:
            raise Unread
        to.append(one)

    def each(self, one: ast.expr, generators: list[ast.comprehension]) -> list[Any]:
        """What a comprehension gives."""
        match generators:
            case [ast.comprehension(target=ast.Name(id=name) as target, iter=over, ifs=tests, is_async=0)]:
                names = [name]
            case [ast.comprehension(target=ast.Tuple(elts=parts) as target, iter=over, ifs=tests, is_async=0)]:
                names = [part.id for part in parts if isinstance(part, ast.Name)]
            case _:
                raise Unread
        inner, found = Scope(self.reader, self.f, {**self.held}, (*self.own, *names)), []
        for given in items_of(self.value(over)):
            inner.assign(target, given)
            if all(inner.truth(test) for test in tests):
                found.append(inner.value(one))
        return found

    def truth(self, e: ast.expr) -> bool:
        value = self.value(e)
        return bool(value) if is_plain(value) else self.refuse()

    def value(self, e: ast.expr) -> Any:
        reader = self.reader
        reader.count += 1
        if reader.count > MOST:
            raise Unread
        match e:
            case ast.Name(id=name):
                return self.name(name)
            case ast.Call(func=func, args=args, keywords=keywords):
                f = self.called(func)
                if any(isinstance(a, ast.Starred) for a in args) or any(_is_mangled(k.arg or "__") for k in keywords):
                    raise Unread
                if len(args) == 1 and isinstance(args[0], ast.GeneratorExp) and not keywords and f in _AT_ONCE:
                    return reader.call(f, [List(self.each(args[0].elt, args[0].generators))], {})
                return reader.call(f, [*map(self.value, args)], {k.arg or "": self.value(k.value) for k in keywords})
            case ast.Attribute(value=of, attr=name):
                return attribute(self.reader, self.value(of), name)
            case ast.Constant(value=constant) if type(constant) in PLAIN:
                return constant
            case ast.BinOp(left=left, op=op, right=right):
                return reader.binary(op, self.value(left), self.value(right))
            case ast.Tuple(elts=parts):
                return tuple(map(self.value, parts))
            case ast.List(elts=parts):
                return List(map(self.value, parts))
            case ast.ListComp(elt=one, generators=generators):
                return List(self.each(one, generators))
            case ast.JoinedStr(values=parts):
                return "".join(map(self.text, parts))
            case ast.UnaryOp(op=ast.USub(), operand=of):
                value = self.value(of)
                return reader.affine(value, -1.0, 0.0) if isinstance(value, Register) else _negative(value)
            case ast.UnaryOp(op=ast.Not(), operand=of):
                return not self.truth(of)
            case ast.BoolOp(op=op, values=values):
                return self.chosen(values, isinstance(op, ast.Or))
            case ast.Compare(left=left, ops=[op], comparators=[right]) if type(op) in _COMPARES:
                a, b = self.value(left), self.value(right)
                known = a is None or b is None if isinstance(op, (ast.Is, ast.IsNot)) else is_plain(a, b)
                return _COMPARES[type(op)](a, b) if known else self.refuse()
            case ast.IfExp(test=test, body=then, orelse=other):
                return self.value(then if self.truth(test) else other)
            case ast.Subscript(value=of, slice=key):
                return self.part(self.value(of), key)
        raise Unread

    def called(self, e: ast.expr) -> Any:
        """What stands before the brackets of a call."""
        if isinstance(e, ast.Attribute):
            of = self.value(e.value)
            return Method(of, e.attr) if isinstance(of, (Register, Tensor)) else attribute(self.reader, of, e.attr)
        return self.value(e)

    def chosen(self, values: list[ast.expr], ends: bool) -> Any:
        """The value of `a or b`, where it ends at what is true; or of `a and b`."""
        for e in values:
            value = self.value(e)
            if not is_plain(value):
                raise Unread
            if bool(value) is ends:
                break
        return value

    def text(self, e: ast.expr) -> str:
        match e:
            case ast.Constant(value=str() as constant):
                return constant
            case ast.FormattedValue(value=of, conversion=-1, format_spec=None):
                value = self.value(of)
                return str(value) if type(value) in (int, str) else self.refuse()
        raise Unread

    def part(self, of: Any, key: ast.expr) -> Any:
        at = self.key(key)
        if isinstance(of, Tensor):
            return of[at]
        if isinstance(of, Register):
            return self.reader.part(of, at)
        if isinstance(of, nn.ModuleDict):
            if type(of).__getitem__ is not _GETITEM or not reads_as_written(type(of)):
                raise Unread
            return of.__dict__["_modules"][at]
        return part_of(of, at)

    def key(self, e: ast.expr) -> Any:
        match e:
            case ast.Slice(lower=low, upper=high, step=step):
                return slice(*(None if b is None else self.number(b) for b in (low, high, step)))
            case ast.Tuple(elts=parts):
                return tuple(map(self.key, parts))
            case ast.Constant(value=constant) if constant is None or constant is ...:
                return constant
        value = self.value(e)
        return value if type(value) in (int, str) else self.refuse()

    def number(self, e: ast.expr) -> int:
        value = self.value(e)
        return value if type(value) is int else self.refuse()

    def refuse(self) -> Any:
        raise Unread

    def name(self, name: str) -> Any:
        if name in self.held:
            return self.held[name]
        code = self.f.__code__
        if name in code.co_varnames or name in code.co_cellvars or _is_mangled(name):
            raise Unread
        if name in code.co_freevars:
            return (self.f.__closure__ or ())[code.co_freevars.index(name)].cell_contents
        f: Any = self.f  # typeshed has no __builtins__ of functions, for some versions of Python
        for names in (f.__globals__, f.__builtins__):
            if name in names:
                return names[name]
        raise Unread


def _is_mangled(name: str) -> bool:
    """Whether this may be another name in a class."""
    return name.startswith("__") and not name.endswith("__")


def _negative(value: Any) -> Any:
    if isinstance(value, Tensor) or type(value) in NUMBER:
        return -value
    raise Unread


def attribute(reader: Any, of: Any, name: str) -> Any:
    """What of.name is, without running anything."""
    if isinstance(of, Register):
        return reader.attribute(of, name)
    if type(of) is ModuleType and name in vars(of):
        return vars(of)[name]
    if isinstance(of, Tensor) and name in ("T", "mT"):
        return getattr(of, name)
    if not isinstance(of, nn.Module) or _is_mangled(name):
        raise Unread
    cls, held = type(of), of.__dict__
    if not reads_as_written(cls):
        raise Unread
    found = next((vars(base)[name] for base in cls.__mro__ if name in vars(base)), Unread)
    if type(found) is property and isinstance(found.fget, FunctionType):
        return reader.function(found.fget, [of], {})
    if found is not Unread and hasattr(type(found), "__set__"):
        raise Unread
    if name in held:
        return held[name]
    if isinstance(found, FunctionType) and isinstance(live := method_before_fuse(cls, name), FunctionType):
        return MethodType(live, of)
    if found is not Unread:
        if is_plain(found):
            return found
        raise Unread
    for place in ("_parameters", "_buffers", "_modules"):
        if name in held[place]:
            return held[place][name]
    raise Unread
