"""The torch internals that _autograd.py uses are there and do what it relies on. When one moves, this says what for."""

import ast
import pydoc
import re
from pathlib import Path

import pytest
import torch
from torch.autograd import forward_ad

import fusegrad.internals.autograd as internals

# name -> why it is needed, and what to do when it is gone
USED = {
    "torch._C._AutoDispatchBelowADInplaceOrView": "calls the backend kernel from the Autograd kernel, and keeps a view "
    "made there from being known as one; look for the guard that torch._library.custom_ops enters around a redispatch",
    "torch._C._will_engine_execute_node": "tells which gradients this backward pass uses (wanted); without it return "
    "ctx.needs_input_grad, which is right but computes more",
    "torch._C._dispatch_tls_is_dispatch_key_included": "tells whether torch's older vmap is on (VmapMode); without it "
    "look for what torch._vmap_internals._vmap sets",
    "torch._C._parse_dispatch_key": "names keys; torch._C.DispatchKey lacks VmapMode and some of autocast",
    "torch._C._functorch.is_functorch_wrapped_tensor": "tells tensors of torch.func, also those that outlived their "
    "level, which only the dispatcher unwraps; see torch._C._functorch.is_dead_tensor_wrapper",
    "torch._C._is_torch_function_mode_enabled": "tells whether a torch-function mode may be on",
    "torch.overrides._get_current_function_mode_stack": "tells which torch-function modes are on",
    "torch.utils._device.DeviceContext": "the mode of torch.set_default_device, which changes nothing here",
    "torch._C._len_torch_dispatch_stack": "tells whether a dispatch mode may be on",
    "torch.utils._python_dispatch._get_current_dispatch_mode_stack": "tells which dispatch modes are on",
    "torch.utils.checkpoint._CachedTorchDispatchMode": "the mode of a selective checkpoint in backward",
    "torch.utils.checkpoint._CachingTorchDispatchMode": "the mode of a selective checkpoint in forward",
    "torch._C._is_tracing": "tells whether torch.jit.trace records; torch.jit.is_tracing is the slower way to ask",
    "torch._C._nn": "has linear as torch.nn.functional has it until somebody replaces it",
    "torch._C._functorch.peek_interpreter_stack": "tells whether torch.func is on; see torch._functorch.pyfunctorch",
    "torch._functorch.utils.enable_single_level_autograd_function": "lets a Function run at the level that torch.func "
    "chose; see what torch._functorch.autograd_function uses in generate_single_level_function",
    "torch.autograd.forward_ad._current_level": "tells whether forward mode is on in eager mode",
    "torch.autograd.forward_ad._set_fwd_grad_enabled": "keeps outer forward-mode levels alive inside a Function",
    "torch.autograd.Function._compiled_autograd_key": "lets compiled autograd trace backward, which "
    "_SingleLevelFunction lacks",
    "torch.autograd.function._SingleLevelFunction": "the base of the Functions that functorch generates",
    "torch._C._is_any_autocast_enabled": "tells whether autocast is on, for any device",
    "torch._C._ExcludeDispatchKeyGuard": "switches autocast off inside the autocast kernels",
    "torch._C._ForceDispatchKeyGuard": "lets act_nth take derivatives inside a kernel (above_autograd)",
    "torch._C.DispatchKey": "what _parse_dispatch_key gives",
    "torch._C.DispatchKeySet": "names the keys of those guards",
    "torch._C._get_privateuse1_backend_name": "names the device of AutocastPrivateUse1",
    "torch._C._autograd": "tells whether saved-tensor hooks are forbidden (_saved_tensors_hooks_is_enabled)",
    "torch._C._dispatch_has_kernel_for_dispatch_key": "tells which backend serves an op; explain and info show it",
    "torch._C._dispatch_key_for_device": "names the key of a device there",
}


@pytest.mark.parametrize("name", USED)
def test_is_there(name):
    assert pydoc.locate(name) is not None, f"torch {torch.__version__} has no {name}. It {USED[name]}."


def test_the_list_is_whole():
    """Every private name that the file takes from torch is listed above."""
    tree = ast.parse(Path(internals.__file__).read_text())
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("torch"):
            private = "._" in (node.module or "")
            found |= {f"{node.module}.{a.name}" for a in node.names if private or a.name.startswith("_")}
        elif isinstance(node, ast.Attribute):
            text = ast.unparse(node)
            if re.fullmatch(r"torch\._C\.\w+|torch\.autograd\.Function\._\w+", text):
                found.add(text)
            elif text.startswith("forward_ad._"):
                found.add(f"torch.autograd.{text}")
    assert found == set(USED)


def test_no_other_file_uses_them():
    for path in Path(internals.__file__).parent.glob("*.py"):
        if path.name != "autograd.py":
            text = path.read_text()
            assert "torch._C" not in text and "_functorch" not in text, path.name


def test_every_op_has_its_kernels():
    for name in internals_ops():
        for key in ("Autograd", "CompositeExplicitAutograd"):
            assert torch._C._dispatch_has_kernel_for_dispatch_key(f"fusegrad::{name}", key), (name, key)


def internals_ops():
    from fusegrad.ops.schema import OPS

    return OPS


def test_wanted_knows_what_the_engine_will_run():
    seen = []

    class Two(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, w, b):
            return x * w

        @staticmethod
        def backward(ctx, g):
            seen.append(internals.wanted(ctx, 3))
            return g, g, None

    x, w = (torch.ones(2, requires_grad=True) for _ in range(2))
    y = Two.apply(x, w, None).sum()
    torch.autograd.grad(y, x, retain_graph=True)
    torch.autograd.grad(y, w, retain_graph=True)
    y.backward()
    assert seen == [[True, False, False], [False, True, False], [True, True, False]]


def test_plain_eager_is_seen_right():
    x = torch.ones(2)
    leaf = x.clone().requires_grad_()
    assert internals.in_plain_eager(x, None, leaf)
    assert internals.requires_grad(x, None, leaf) and not internals.requires_grad(x, None)
    with torch.no_grad():
        assert not internals.requires_grad(leaf)
    with forward_ad.dual_level():
        assert not internals.in_plain_eager(x)
    with torch.autocast("cpu"):
        assert not internals.in_plain_eager(x)
    seen = []
    torch.func.vmap(lambda t: seen.append(internals.in_plain_eager(t)) or t)(x)
    assert seen == [False]
