"""The kinds of terms that an expression may be (terms.py reads them), and what they are made of."""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from .paths import Path


@dataclass(frozen=True, eq=False)
class Term:
    """An expression that may be put off."""

    node: ast.expr


@dataclass(frozen=True, eq=False)
class Layer(Term):
    """A call of what may be a linear layer."""

    node: ast.Call
    paths: tuple[Path, ...]  # where the module may hold it, () if it is torch's function


@dataclass(frozen=True, eq=False)
class Product(Term):
    """x @ w, torch.mm(x, w), torch.matmul(x, w), torch.addmm(b, x, w)."""

    node: ast.BinOp | ast.Call
    paths: tuple[Path, ...] = ()


@dataclass(frozen=True, eq=False)
class Viewed(Term):
    """T.view(shape), T.reshape(shape)."""

    node: ast.Call
    of: Term


@dataclass(frozen=True, eq=False)
class Variable(Term):
    node: ast.Name
    held: Term | None  # what it was given; None if that is the caller's


@dataclass(frozen=True, eq=False)
class Scaled(Term):
    """A term times, or plus, what the module holds or a constant."""

    node: ast.BinOp
    of: Term


@dataclass(frozen=True, eq=False)
class Act(Term):
    """A call of what may be an activation."""

    node: ast.Call
    of: Term
    paths: tuple[Path, ...]  # where the module may hold it
    target: Any  # the function, or the name of a method of the tensor; None if that is known only when it is called
    args: tuple  # after the tensor: constants, and what the module holds
    kwargs: dict[str, Any]
    method: bool
    text: str  # as it is written
    looked_up: tuple[tuple[Path, ...], ...] | None  # of the module, to find what is called; None if more is done
    through: "Act | None" = None  # what comes before it, and has to be an identity


@dataclass(frozen=True, eq=False)
class Halves(Term):
    """T.chunk(2, dim), torch.split(T, n, dim), T.tensor_split(2, dim)."""

    node: ast.Call
    of: Term
    method: bool


@dataclass(frozen=True, eq=False)
class Half(Term):
    """One of the two variables that were given halves."""

    node: ast.Name
    of: Halves


@dataclass(frozen=True, eq=False)
class Gate(Term):
    """The product of two terms."""

    node: ast.BinOp
    left: Term
    right: Term


class Held(NamedTuple):
    """An argument that the module holds."""

    paths: tuple[Path, ...]


class Constant(NamedTuple):
    value: Any


Variables = dict[str, Term | None]  # the variables that hold a term


def layers(read: Term) -> Iterator[Layer | Product]:
    """The layers that a term reads."""
    match read:
        case Layer() | Product():
            yield read
        case Act(of=of) | Scaled(of=of) | Viewed(of=of) | Halves(of=of):
            yield from layers(of)
        case Variable(held=held) if held is not None:
            yield from layers(held)
        case Gate(left=left, right=right):
            yield from layers(left)
            yield from layers(right)
        case _ if hasattr(read, "of"):  # a half
            yield from layers(read.of)


def is_scaled(term: Term) -> bool:
    """Whether a term is a layer times something."""
    match term:
        case Scaled(node=ast.BinOp(op=ast.Mult())):
            return True
        case Scaled(of=of) | Viewed(of=of):
            return is_scaled(of)
        case Variable(held=held) if held is not None:
            return is_scaled(held)
    return False


def calls_of(term: Term) -> Iterator[ast.expr]:
    """What is called where a term stands, for its layers."""
    match term:
        case Layer(node=e):
            yield e.func
        case Act(of=of) | Scaled(of=of) | Viewed(of=of) | Halves(of=of):
            yield from calls_of(of)


def variables_of(term: Term) -> Iterator[Any]:
    """The variables that are read by a term as it is written."""
    match term:
        case Gate(left=left, right=right):
            yield from variables_of(left)
            yield from variables_of(right)
        case Act(of=of) | Scaled(of=of) | Viewed(of=of) | Halves(of=of):
            yield from variables_of(of)
        case Layer() | Product():
            pass
        case _:
            yield term
