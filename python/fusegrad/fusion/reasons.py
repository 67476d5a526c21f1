"""Why a layer whose result is stored is not fused, in words that its author can act on."""

import ast
from collections.abc import Callable, Iterator

from torch import Tensor, nn

from ..internals.module import children
from .code import reads_of, stored_by
from .recognise import METHOD

WHEN_CALLED = "decided when it is called"
_MOST = 60  # letters of a statement
# methods that are no activations, of whatever they are
_OF_CONTAINERS = {name for cls in (dict, list, set, str, Tensor) for name in dir(cls)} - METHOD.keys()


def blocks(node: ast.AST) -> Iterator[list[ast.stmt]]:
    """The blocks of a function in which no exception can be caught: those of loops and branches."""
    for body in (getattr(node, "body", []), getattr(node, "orelse", [])):
        if isinstance(body, list):
            yield body
            for statement in body:
                if isinstance(statement, (ast.If, ast.For, ast.While)):
                    yield from blocks(statement)


def why_stored_is_alone(definition: ast.AST, stored: ast.Assign, may_hold: Callable[[str], bool]) -> str:
    """Why what `stored` computes is not fused with what comes next."""
    match stored.targets:
        case [ast.Name(id=name)]:
            if not may_hold(name):
                return f"an inner function, or what looks at all variables, may read {name}"
        case [ast.Attribute() as target]:
            return f"kept as {ast.unparse(target)}, where others may read it"
        case _:
            return f"its result is taken apart: {text_of(stored)}"
    block = next((body for body in blocks(definition) if any(s is stored for s in body)), None)
    if block is None:
        return "called in a try or with block: to fuse it, write it and its activation as one expression"
    after = block[1 + next(i for i, s in enumerate(block) if s is stored) :]
    if not after:
        return f"no activation follows in its block: {text_of(stored)} is the last statement"
    next_, *others = after
    if not reads_of(next_, name):
        if not any(reads_of(s, name) for s in others):
            return f"{name} is not read in its block"
        return f"{text_of(next_)} comes between it and what reads {name}: an activation is fused if it comes first"
    again = (
        [next_] if stored_by(next_) == name or isinstance(next_, ast.Return) else [next_, *_until_stored(others, name)]
    )
    if sum(reads_of(s, name) for s in again) > 1:
        reads = [s for s in again if reads_of(s, name)]
        texts = map(text_of, [s for s in reads if not _applies(s, name)] or reads)
        return f"not only an activation reads {name}: {', '.join(texts)}"
    return f"read by {text_of(next_)}, which does not begin with an activation of it"


def _applies(statement: ast.stmt, name: str) -> bool:
    """Whether a statement looks like an activation of a variable, which takes its place: `h = self.act(h)`."""
    match statement:
        case ast.Assign(value=ast.Call(func=func, args=[ast.Name(id=of)], keywords=[])):
            return of == stored_by(statement) == name and not is_of_containers(func)
        case ast.Return(value=ast.Call(func=func, args=[ast.Name(id=of)], keywords=[])):
            return of == name and not is_of_containers(func)
    return False


def is_of_containers(func: ast.expr) -> bool:
    """Whether a method is called that lists, and their like, or tensors have: outputs.append."""
    return isinstance(func, ast.Attribute) and func.attr in _OF_CONTAINERS


def why_adapted(m: nn.Module, layer: nn.Module) -> str | None:
    """Why a layer is not fused in a module of peft's, where adapters add to the result of a layer; or None."""
    base = children(m).get("base_layer")
    if base is None or not type(m).__module__.startswith("peft."):
        return None
    part = "an adapter adds to its result" if layer is base else "of an adapter"
    return f"{part}: merge it, by merge_and_unload of peft"


def why_cut_is_alone(cut: str) -> str:
    return f"cut in parts by {cut}: fused is act(a) * b or a * act(b), where `a, b = z.chunk(2, dim=-1)` comes before"


def _until_stored(statements: list[ast.stmt], name: str) -> Iterator[ast.stmt]:
    for statement in statements:
        yield statement
        if stored_by(statement) == name:
            return


def text_of(node: ast.AST) -> str:
    """The first line of a statement or an expression."""
    line = ast.unparse(node).partition("\n")[0]
    return f"`{line if len(line) <= _MOST else line[: _MOST - 3] + '...'}`"
