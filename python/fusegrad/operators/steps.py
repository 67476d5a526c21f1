"""What a model that is read does to its tensors, as steps of a program."""

import math
from collections.abc import Sequence
from typing import Any

from torch import Size, Tensor

from ..activations import REGISTRY
from ..ops.arguments import is_strided
from ..routing import fits
from .program import MOST_LAYERS, Program
from .values import NUMBER, Register, Unread


class Steps:
    """Those of one reading, of x (..., k)."""

    def __init__(self, x: Tensor) -> None:
        self.dtype, self.lead, self.dims = x.dtype, tuple(x.shape[:-1]), x.dim()
        self.program = Program(x.shape[-1])
        self.shown_by: dict[int, int] = {}  # of a register that is a part of another one: that one
        self.gone: set[int] = set()  # registers that were written to, as these and their parts

    # --- registers ------------------------------------------------------------------------------------------------

    def width(self, a: Register) -> int:
        return self.program.widths[a.at]

    def shape(self, a: Register) -> Size:
        return Size(self.lead if a.is_flat else (*self.lead, self.width(a)))

    def whole(self, a: Register) -> int:
        """The register whose numbers these are."""
        return self.shown_by.get(a.at, a.at)

    def used(self, *given: Register) -> None:
        """Asked of all that is read: what was written to is no longer what it was."""
        if self.gone and any(self.whole(a) in self.gone for a in given):
            raise Unread

    def written(self, a: Register) -> None:
        """Note that somebody writes to a tensor; x itself is the caller's."""
        if self.whole(a) == 0:
            raise Unread
        self.gone.add(self.whole(a))

    # --- steps ----------------------------------------------------------------------------------------------------

    def act(self, a: Register, name: str, param: float | None) -> Register:
        self.used(a)
        if name == "identity":
            return a
        value = REGISTRY[name].default if param is None else param
        return Register(self.program.add("act", a.at, a.at, name, float(value or 0.0)), a.is_flat)

    def cos(self, a: Register) -> Register:
        return self.act(self.affine(a, 1.0, math.pi / 2), "sin", 1.0)

    def affine(self, a: Register, alpha: float, beta: float) -> Register:
        self.used(a)
        return Register(self.program.add("affine", a.at, a.at, alpha, beta), a.is_flat)

    def linear(self, a: Register, weight: Any, bias: Any = None) -> Register:
        self.used(a)
        if a.is_flat or not isinstance(weight, Tensor) or not isinstance(bias, (Tensor, type(None))):
            raise Unread
        if not fits(weight, bias, self.dtype, self.width(a)) or 0 in weight.shape:
            raise Unread
        self.one_more()
        return Register(self.program.layer(a.at, weight, bias))

    def one_more(self) -> None:
        if len(self.program.weights) >= 2 * MOST_LAYERS:
            raise Unread

    def joined(self, kind: str, a: Any, b: Any) -> Register:
        """a + b, a - b, a b."""
        if isinstance(a, Register) and isinstance(b, Register):
            self.used(a, b)
            if a.is_flat is not b.is_flat:
                raise Unread
            width = max(self.width(a), self.width(b))
            a, b = self.widened(a, width), self.widened(b, width)
            return Register(self.program.add(kind, a.at, b.at), a.is_flat)
        of, c = (a, b) if isinstance(a, Register) else (b, a)
        if isinstance(c, Tensor):
            return self.with_tensor(kind, of, c, of is a)
        if type(c) not in NUMBER or not math.isfinite(c):
            raise Unread
        if kind == "mul":
            return self.affine(of, float(c), 0.0)
        if of is a:
            return self.affine(of, 1.0, float(c if kind == "add" else -c))
        return self.affine(of, 1.0 if kind == "add" else -1.0, float(c))

    def with_tensor(self, kind: str, a: Register, t: Tensor, a_is_first: bool) -> Register:
        """The same of a tensor and a number, or one for each feature, that does not depend on x."""
        self.used(a)
        n = t.numel()
        if t.dtype is not self.dtype or not t.is_cpu or not is_strided(t) or n == 0 or (n > 1 and a.is_flat):
            raise Unread
        if t.dim() > len(self.shape(a)) or (t.dim() and t.shape[-1] != n):
            raise Unread
        self.one_more()
        a = self.widened(a, max(n, self.width(a)))
        if n not in (1, self.width(a)):
            raise Unread
        if kind == "mul":
            return Register(self.program.of_features("scale", a.at, t), a.is_flat)
        if kind == "sub":
            a, t = (a, -t) if a_is_first else (self.affine(a, -1.0, 0.0), t)
        return Register(self.program.of_features("shift", a.at, t), a.is_flat)

    def widened(self, a: Register, width: int) -> Register:
        """Of one feature, as many that are alike."""
        if self.width(a) == width:
            return a
        if self.width(a) != 1 or a.is_flat:
            raise Unread
        return Register(self.program.add("take", a.at, a.at, 0, 0, width, width=width))

    # --- features -------------------------------------------------------------------------------------------------

    def is_last(self, dim: Any, a: Register) -> bool:
        """Whether this dimension is that of the features."""
        return type(dim) is int and dim in (-1, self.dims - 1) and not a.is_flat

    def taken(self, a: Register, of: range | int) -> Register:
        """Features of a, which are a view of it; of a number without the dimension of features."""
        self.used(a)
        one = isinstance(of, int)
        places = range(of, of + 1) if isinstance(of, int) else of
        width = self.width(a)
        if a.is_flat or len(places) == 0 or not all(0 <= p < width for p in (places[0], places[-1])):
            raise Unread
        if len(places) == width:
            return Register(a.at, one)
        by = places.step if len(places) > 1 else 1
        made = self.program.add("take", a.at, a.at, places.start, by, len(places), width=len(places))
        self.shown_by[made] = self.whole(a)
        return Register(made, one)

    def part(self, a: Register, key: Any) -> Register:
        """a[key]."""
        *lead, last = key if type(key) is tuple else (key,)
        is_new = last is None  # a new dimension at the end
        if is_new and lead and not a.is_flat and type(lead[-1]) is int:  # a[..., 2, None]
            return self.unsqueezed(self.part(a, tuple(lead)))
        dims = self.dims - 1
        if lead != [...] and not (len(lead) == dims and all(type(k) is slice and k == slice(None) for k in lead)):
            raise Unread
        if is_new:
            return self.unsqueezed(a)
        width = self.width(a)
        if type(last) is slice and (last.step or 1) > 0:
            return self.taken(a, range(width)[last])
        if type(last) is int and -width <= last < width:
            return self.taken(a, last % width)
        raise Unread

    def squeezed(self, a: Register, *dim: Any) -> Register:
        self.used(a)
        if a.is_flat or (dim and not self.is_last(dim[0], a)) or (not dim and 1 in self.lead):
            raise Unread
        return Register(a.at, True) if self.width(a) == 1 else a

    def unsqueezed(self, a: Register, dim: Any = -1) -> Register:
        self.used(a)
        if not a.is_flat or type(dim) is not int or dim not in (-1, self.dims - 1):
            raise Unread
        return Register(a.at)

    def split(self, a: Register, sizes: Any, dim: Any = 0) -> tuple[Register, ...]:
        width = self.width(a)
        if type(sizes) is int and sizes > 0:
            sizes = [min(sizes, width - i) for i in range(0, width, sizes)]
        if not self.is_last(dim, a) or not all(type(n) is int and n > 0 for n in sizes) or sum(sizes) != width:
            raise Unread
        ends = [sum(sizes[: i + 1]) for i in range(len(sizes))]
        return tuple(self.taken(a, range(end - n, end)) for n, end in zip(sizes, ends, strict=True))

    def chunk(self, a: Register, chunks: Any, dim: Any = 0) -> tuple[Register, ...]:
        if type(chunks) is not int or chunks < 1:
            raise Unread
        return self.split(a, -(-self.width(a) // chunks), dim)

    def unbound(self, a: Register, dim: Any = 0) -> tuple[Register, ...]:
        if not self.is_last(dim, a):
            raise Unread
        return tuple(self.taken(a, i) for i in range(self.width(a)))

    def cat(self, parts: Any, dim: Any = 0) -> Register:
        if not parts or not all(isinstance(p, Register) and self.is_last(dim, p) for p in parts):
            raise Unread
        return self.beside(parts)

    def stack(self, parts: Any, dim: Any = 0) -> Register:
        at_end = type(dim) is int and dim in (-1, self.dims - 1)
        if not parts or not at_end or not all(isinstance(p, Register) and p.is_flat for p in parts):
            raise Unread
        return self.beside(parts)

    def beside(self, parts: Sequence[Register]) -> Register:
        self.used(*parts)
        made = parts[0].at
        for p in parts[1:]:
            width = self.program.widths[made] + self.width(p)
            made = self.program.add("cat", made, p.at, width=width)
        return Register(made)
