"""The dispatcher: keys, what is registered under them, and contexts that leave some of them out."""

import sys
from collections.abc import Callable
from functools import reduce
from operator import or_

import torch
from torch import SymInt, Tensor
from torch._C import _parse_dispatch_key
from torch._library.utils import get_layout_constraint_tag
from torch.utils._python_dispatch import TorchDispatchMode as TorchDispatchMode  # a mode that sees each op

without_dispatch_modes = torch._C._DisableTorchDispatch
Overload = torch._ops.OpOverload


def key(name: str) -> torch._C.DispatchKey:
    """The dispatch key of a name; torch._C.DispatchKey does not list all of them."""
    found = _parse_dispatch_key(name)
    assert found is not None
    return found


def keys(*names: str) -> torch._C.DispatchKeySet:
    return reduce(or_, (torch._C.DispatchKeySet(key(name)) for name in names))


# the devices that torch.autocast knows, by their dispatch keys
AUTOCAST = {
    f"Autocast{name}": name.lower() for name in ("CPU", "CUDA", "HPU", "IPU", "MAIA", "MPS", "MTIA", "XLA", "XPU")
} | {"AutocastPrivateUse1": torch._C._get_privateuse1_backend_name()}
_DEFAULT_ON = keys("BackendSelect", "ADInplaceOrView")
_DEFAULT_OFF = keys(*AUTOCAST)


def above_autograd():
    """A context for the inside of a kernel: what is computed in it can be differentiated.

    It gives the thread the dispatch keys that it has outside of all kernels, modes and autocast.
    """
    return torch._C._ForceDispatchKeyGuard(_DEFAULT_ON, _DEFAULT_OFF)


def under_autocast(library: torch.library.Library, op: Overload, name: str, cast: Callable[..., Callable]) -> None:
    """Where `op` is called under the autocast of a key, call what `cast` makes of its arguments, with autocast off."""
    off = keys(name)

    def kernel(*args):
        call = cast(*args)
        with torch._C._ExcludeDispatchKeyGuard(off):
            return call()

    library.impl(unqualified(op), kernel, name)


def autocasts_to_float32(name: str) -> bool:
    """Whether the autocast of a dispatch key runs torch's softplus, and all that it treats alike, in float32."""
    return torch._C._dispatch_has_kernel_for_dispatch_key("aten::softplus", name)


def decomposes(op: Overload, into: Callable) -> None:
    """Let an exported program that is to run without fusegrad, ONNX say, be made of torch's own ops instead of `op`."""
    torch._decomp.register_decomposition(op)(into)


def stays_whole(op: Overload) -> None:
    """Let Inductor call an op that has a decomposition.

    It does so of itself, but raises where CI is set in the environment, as on GitHub's runners. It is told once it is
    there: an op is traced before it is compiled.
    """
    inductor = sys.modules.get("torch._inductor.lowering")
    if inductor is not None and op not in inductor.lowerings:
        layout = inductor.tag_to_layout_constraint(get_layout_constraint_tag(op, with_default=True))
        inductor.make_fallback(op, layout_constraint=layout, warn=False)


def has_kernel(op: str, device: str) -> bool:
    """Whether the op has a kernel of its own for a device, rather than the reference."""
    name = torch._C._dispatch_key_for_device(device)
    return torch._C._dispatch_has_kernel_for_dispatch_key(f"fusegrad::{op}", name)


def unqualified(op: Overload) -> str:
    """fusegrad::act -> act."""
    return op.name().split("::")[1]


def count_tensors(op: Overload) -> int:
    """How many arguments of an op are tensors, or may be."""
    return sum("Tensor" in str(a.type) for a in op._schema.arguments)


def view_of(t: Tensor) -> Tensor | None:
    """The tensor that t is a view of."""
    return t._base


def is_one_size(a: int, b: int) -> bool:
    """Whether two sizes are equal. Where torch.export cannot know, it takes them to be, and checks it at run time."""
    if isinstance(a, SymInt) or isinstance(b, SymInt):
        torch._check_value(a == b, lambda: f"the sizes {a} and {b} must be one")
        return True
    return a == b
