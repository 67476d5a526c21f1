"""Finds, in the forward of a module, each activation that is the only reader of a Linear, and proves it.

torch.fx traces one path through `forward`. That the path is the only one, and that the trace shows all it does, is
what has to be proved. So:

- all Python that forward runs, itself and what it calls, must be free of branches and of assignments to anything but
  local names; loops are fine. It may call submodules, torch functions and functions of the same kind, nothing else.
- what forward reads from modules (self.scale, self.training) is read anew on each call, not frozen into the trace;
  a loop or a branch on such a value fails the trace.
- what a loop runs over, the modules in a container, is compared on each call with what was traced.

Names of the enclosing Python modules count as constants. Whatever is not proved is left alone.
"""

import dis
import math
import os
import sys
from collections.abc import Callable, Hashable
from contextlib import contextmanager
from dataclasses import dataclass
from types import CodeType, FrameType
from typing import Any

import torch
from torch import Tensor, fx, nn

from . import _recognise
from ._recognise import Spec
from .nn import Linear

CONTAINERS = (nn.ModuleList, nn.ModuleDict, nn.Sequential)


class NotProved(Exception):
    """Why a forward is left alone."""


@dataclass(frozen=True)
class Pair:
    """A call of a Linear that is read by an activation only."""

    linear: str  # its path from the module whose forward was traced
    act: str  # the path of the activation module or attribute, or "" where it is a function
    spec: Spec | None  # the activation where it is a function


@dataclass(frozen=True)
class Traced:
    forward: Callable  # (self, ...), with each pair as one call
    key: Hashable  # equal for equal forwards
    pairs: tuple[Pair, ...]
    alone: dict[str, str]  # path of a Linear -> why a call of it is not part of a pair


def trace(module: nn.Module, original: type[nn.Module], fused_call: Callable) -> Traced:
    """The forward of `original`, run on `module`, with `fused_call(linear, x, act)` for each pair found.

    Raises NotProved with the reason.
    """
    forward = original.forward
    code = getattr(forward, "__code__", None)
    if code is None or hasattr(forward, "__wrapped__") or "forward" in vars(module):
        raise NotProved("its forward is wrapped or replaced")
    _check_code(code)
    tracer = _Tracer()
    try:
        with _as_class(module, original), _live_attributes(tracer), _watched(code):
            graph = tracer.trace(module)
    except NotProved:
        raise
    except Exception as e:
        lines = str(e).strip().splitlines() or [type(e).__name__]
        raise NotProved(f"its forward cannot be traced: {lines[0]}") from e
    pairs, alone = _pair(graph, module, fused_call)
    return Traced(*_compile(graph, module, original), pairs, alone)


# --- the trace ----------------------------------------------------------------------------------------------------


class _Tracer(fx.Tracer):
    proxy_buffer_attributes = True

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return True

    def create_arg(self, a: Any) -> Any:
        known = isinstance(a, nn.Parameter) or any(a is b for b in self.root.buffers())
        if isinstance(a, Tensor) and not known:
            raise NotProved("its forward makes a tensor from constants")
        return super().create_arg(a)


@contextmanager
def _as_class(module: nn.Module, cls: type[nn.Module]):
    before = type(module)
    module.__class__ = cls
    try:
        yield
    finally:
        module.__class__ = before


@contextmanager
def _live_attributes(tracer: _Tracer):
    """What forward reads from a module becomes a read in the graph: self.training is not frozen as it is now."""

    def read(self, name):
        value = object.__getattribute__(self, name)
        if name.startswith("__") or isinstance(value, type) or _trusted(sys._getframe(1).f_code):
            return value
        if callable(value) and name not in object.__getattribute__(self, "__dict__"):
            return value  # a method
        path = "" if self is tracer.root else tracer.path_of_module(self) + "."
        return tracer.create_proxy("get_attr", path + name, (), {})

    nn.Module.__getattribute__ = read  # type: ignore[method-assign]  # as fx does with __getattr__ and __call__
    try:
        yield
    finally:
        del nn.Module.__getattribute__


# --- the proof that the trace is the whole of it ------------------------------------------------------------------

_TORCH = os.path.dirname(torch.__file__)
# torch's Python that records a call of a Proxy, or only hands out modules
_TRUSTED = tuple(
    os.path.join(_TORCH, *path.split("/"))
    for path in (
        "fx/", "functional.py", "nn/functional.py", "nn/modules/module.py", "nn/modules/container.py",
        "overrides.py", "_jit_internal.py", "_ops.py",
    )
)  # fmt: skip
_BUILTINS = (len, getattr, iter, next, range, enumerate, zip, reversed, tuple, list, dict, super, isinstance, slice)
_NAMESPACES: tuple[Any, ...] = (torch._C._VariableFunctions, torch._C._nn, math)


def _trusted(code: CodeType) -> bool:
    return code.co_filename.startswith(_TRUSTED) or code.co_filename == __file__


def _check_code(code: CodeType) -> None:
    for i in dis.get_instructions(code):
        name = i.opname
        if "JUMP" in name and "IF" in name:
            raise NotProved(f"its forward branches ({_place(code, i)})")
        if name.startswith(("STORE_ATTR", "STORE_SUBSCR", "STORE_GLOBAL", "STORE_DEREF", "DELETE_", "SETUP_")):
            if name not in ("DELETE_FAST", "SETUP_ANNOTATIONS"):
                raise NotProved(f"its forward assigns to more than local names ({_place(code, i)})")


def _place(code: CodeType, i: dis.Instruction) -> str:
    lines = [line for at, line in dis.findlinestarts(code) if at <= i.offset and line is not None]
    return f"{os.path.basename(code.co_filename)}:{lines[-1] if lines else code.co_firstlineno}"


@contextmanager
def _watched(forward: CodeType):
    """Check all that forward calls, before it runs."""
    checked = {forward}

    def watch(frame: FrameType, event: str, arg: Any) -> None:
        if event == "call" and frame.f_back is not None and frame.f_back.f_code in checked:
            code = frame.f_code
            if not _trusted(code) and code not in checked:
                _check_code(code)
                checked.add(code)
        elif event == "c_call" and frame.f_code in checked and not _harmless(arg):
            raise NotProved(f"its forward calls {getattr(arg, '__qualname__', arg)}")

    before = sys.getprofile()
    sys.setprofile(watch)
    try:
        yield
    finally:
        sys.setprofile(before)


def _harmless(fn: Any) -> bool:
    if fn in _BUILTINS or type(getattr(fn, "__self__", None)) in (str, tuple):
        return True
    return any(getattr(namespace, fn.__name__, None) is fn for namespace in _NAMESPACES)


# --- the pairs ----------------------------------------------------------------------------------------------------


def _pair(graph: fx.Graph, module: nn.Module, fused_call: Callable) -> tuple[tuple[Pair, ...], dict[str, str]]:
    pairs, alone = [], {}
    for node in list(graph.nodes):
        if node.op != "call_module" or type(module.get_submodule(node.target)) is not Linear:
            continue
        readers = list(node.users)
        pair = _read_by(node, readers[0], module) if len(readers) == 1 else None
        if pair is None or len(node.args) != 1 or node.kwargs:
            alone[node.target] = _why_alone(readers)
            continue
        reader = readers[0]
        with graph.inserting_before(reader):
            linear = graph.get_attr(pair.linear)
            act = pair.spec or graph.get_attr(pair.act)
            call = graph.call_function(fused_call, (linear, node.args[0], act))
        reader.replace_all_uses_with(call)
        graph.erase_node(reader)
        graph.erase_node(node)
        pairs.append(pair)
    return tuple(pairs), alone


def _read_by(node: fx.Node, reader: fx.Node, module: nn.Module) -> Pair | None:
    """The pair of the Linear `node` and its reader, if that is an activation of it and of nothing else."""
    linear = str(node.target)
    if reader.op == "call_module" and reader.args == (node,) and not reader.kwargs:
        return Pair(linear, str(reader.target), None) if _is_act(module, reader.target) else None
    if reader.op == "call_method" and reader.target == "__call__" and reader.args[1:] == (node,):
        held = reader.args[0]
        if isinstance(held, fx.Node) and held.op == "get_attr" and not reader.kwargs:
            return Pair(linear, str(held.target), None) if _is_act(module, held.target) else None
    if reader.op in ("call_function", "call_method") and reader.args[:1] == (node,):
        spec = _recognise.of_call(reader.target, reader.args[1:], dict(reader.kwargs))
        return spec and Pair(linear, "", spec)
    return None


def _is_act(module: nn.Module, path: Any) -> bool:
    owner, _, name = str(path).rpartition(".")
    return _recognise.of(getattr(module.get_submodule(owner), name)) is not None


def _why_alone(readers: list[fx.Node]) -> str:
    if len(readers) != 1:
        return f"read in {len(readers)} places"
    reader = readers[0]
    target = getattr(reader.target, "__name__", reader.target)
    return "returned as it is" if reader.op == "output" else f"read by {target}"


# --- the new forward ----------------------------------------------------------------------------------------------


def _compile(graph: fx.Graph, module: nn.Module, original: type[nn.Module]) -> tuple[Callable, Hashable]:
    source = graph.python_code("self")
    names = dict(source.globals)
    containers = tuple(_containers(module))
    seen = _contents(module, containers)
    key = source.src, tuple(sorted((k, id(v)) for k, v in names.items())), containers, tuple(seen)
    exec(compile(source.src, f"<{original.__name__}.forward, fused>", "exec"), names)
    fused = names["forward"]
    if not containers:
        return fused, key

    def forward(self, *args, **kwargs):
        if _contents(self, containers) != seen:  # a layer was added or removed: run what the author wrote
            return original.forward(self, *args, **kwargs)
        return fused(self, *args, **kwargs)

    return forward, key


def _containers(module: nn.Module, path: tuple[str, ...] = ()):
    for name, child in module._modules.items():
        if isinstance(child, CONTAINERS):
            yield (*path, name)
            yield from _containers(child, (*path, name))


def _contents(module: nn.Module, containers: tuple[tuple[str, ...], ...]) -> list[tuple[str, ...]]:
    contents = []
    for path in containers:
        m = module
        for name in path:
            m = m._modules[name]  # type: ignore[assignment]
        contents.append(tuple(m._modules))
    return contents
