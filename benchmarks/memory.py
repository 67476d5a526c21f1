"""How many bytes does a computation keep for its backward pass?"""

import weakref
from collections import Counter
from collections.abc import Callable

import torch
from torch import Tensor


class _Saved:
    """What autograd holds in place of a tensor: that it lets go can be seen."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor


def bytes_saved(fn: Callable[[], object], *ignore: Tensor) -> int:
    """The most bytes that autograd holds for backward passes at any one time while fn() runs.

    Each storage counts once, at its full size, however many tensors saved are views of it; it counts until autograd
    lets go of the last of them. If fn is a forward pass this is what it keeps; if it runs backward too, what was
    kept when most was. What a rule hides from save_for_backward is not seen.

    Args:
        fn: the computation; what it returns lives until the bytes are read.
        ignore: tensors whose storage does not count: parameters and inputs, which live anyway.

    >>> import torch
    >>> from fusegrad.benchmarks.memory import bytes_saved
    >>> x = torch.ones(10, requires_grad=True)
    >>> bytes_saved(lambda: x.exp().sin(), x)  # exp keeps its output, which is sin's input: one storage
    40
    """
    ignored = {t.untyped_storage().data_ptr() for t in ignore}
    users: Counter[int] = Counter()  # by address of the storage, which is alive as long as it has users
    held = most = 0

    def pack(tensor: Tensor) -> _Saved:
        nonlocal held, most
        saved = _Saved(tensor.detach())  # the tensor itself would keep its own graph alive, in a cycle
        storage = tensor.untyped_storage()
        address, size = storage.data_ptr(), storage.nbytes()
        if address not in ignored:
            if not users[address]:
                held += size
                most = max(most, held)
            users[address] += 1
            weakref.finalize(saved, let_go, address, size)
        return saved

    def let_go(address: int, size: int) -> None:
        nonlocal held
        users[address] -= 1
        if not users[address]:
            held -= size

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda saved: saved.tensor):
        fn()
    return most
