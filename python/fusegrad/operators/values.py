"""What stands for the values of a model whose source is read (source.py)."""

from dataclasses import dataclass
from typing import Any

from torch import Size

from .modules import parts_of

MOST = 5000  # expressions of a model, and parts of a list
PLAIN = bool, int, float, str, type(None)
NUMBER = int, float


class Unread(Exception):
    """The source says more than is known here."""


# Neither of these two is a tuple, which functions of Python would take for one.
@dataclass(frozen=True, eq=False)
class Register:
    at: int
    is_flat: bool = False  # of one feature, without the dimension of features


@dataclass(frozen=True, eq=False)
class Method:
    """What stands before the brackets in x.name(...)."""

    of: Any
    name: str


class List(list):
    """A list that the model makes in this call. While something goes through it, it stays as it is."""

    is_read = False


class Parts(list):
    """Some of the modules of a list of modules."""


class Once:
    """What zip, enumerate and reversed give: to be gone through once."""

    def __init__(self, items: list[Any]) -> None:
        self.items: list[Any] | None = items

    def taken(self) -> list[Any]:
        found, self.items = self.items, None
        if found is None:
            raise Unread
        return found


_LISTS = list, tuple, range, Size, List, Parts


def items_of(of: Any) -> list[Any]:
    """What a loop over a value goes through."""
    if type(of) is Once:
        return of.taken()
    found = of if type(of) in _LISTS else parts_of(of)
    if found is None or len(found) > MOST:
        raise Unread
    if type(of) is List:
        of.is_read = True
    return [*found]


def part_of(of: Any, at: Any) -> Any:
    """One of a list, or some."""
    if type(at) is int and type(of) is not Once:
        return (of if type(of) is List else items_of(of))[at]
    if type(at) is not slice or type(of) is Once:
        raise Unread
    if type(of) in (tuple, range, Size):
        return of[at]
    return List(of[at]) if type(of) in (list, List) else Parts(items_of(of)[at])


def is_plain(*values: Any) -> bool:
    return all(type(v) in PLAIN for v in values)
