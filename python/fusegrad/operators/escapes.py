"""Sees what is computed past the rules of a run: by torch.jit.script, say, which no torch-function mode sees."""

from typing import Any

from ..internals.dispatcher import TorchDispatchMode
from .calls import tensors
from .run import ByNested, Run


class Escapes(TorchDispatchMode):
    """Looks for ops that no rule calls, of what has streams: rules leave this mode. On in the first run of a model."""

    def __init__(self, run: Run) -> None:
        super().__init__()
        self.run = run
        self.found = False

    def check(self) -> None:
        if self.found:
            raise ByNested("it computes something by code that is not Python's, as torch.jit.script does")

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = {} if kwargs is None else kwargs
        if any(self.run.entry(t) for t in tensors((*args, *kwargs.values()))):
            self.found = True  # not raised here: TorchScript makes an error of its own of it
        return func(*args, **kwargs)
