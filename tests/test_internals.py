"""The private parts of torch that internals/ uses are there, and do what it relies on. This says what each is for.

And the rooms of the package: nothing else uses private parts, and no import runs from a lower room up.
"""

import ast
import pydoc
from pathlib import Path

import pytest
import torch
from torch.autograd import forward_ad

from fusegrad.internals import call, engine
from fusegrad.ops import OPS

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
    "torch._C._DisableTorchDispatch": "keeps a mode that looks at ops out of what it need not see",
    "torch._C._set_grad_enabled": "is what a torch-function mode sees of torch.no_grad and its like",
    "torch._C.DisableTorchFunction": "lets a mode switch gradients without another one seeing it",
    "torch._C._len_torch_dispatch_stack": "tells whether a dispatch mode may be on",
    "torch.utils._python_dispatch._get_current_dispatch_mode_stack": "tells which dispatch modes are on",
    "torch.utils._python_dispatch.TorchDispatchMode": "sees the ops that run, for explain",
    "torch.utils.checkpoint._CachedTorchDispatchMode": "the mode of a selective checkpoint in backward",
    "torch.utils.checkpoint._CachingTorchDispatchMode": "the mode of a selective checkpoint in forward",
    "torch.compiler._is_compiling_flag": "tells whether torch.export is at work; torch.compiler.is_compiling is the "
    "slower way to ask",
    "torch._C._is_tracing": "tells whether torch.jit.trace records; torch.jit.is_tracing is the slower way to ask",
    "torch._C._nn.linear": "is linear as torch.nn.functional has it until somebody replaces it",
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
    "torch._C._ForceDispatchKeyGuard": "lets act_reference take derivatives inside a kernel (above_autograd)",
    "torch._C.DispatchKey": "what _parse_dispatch_key gives",
    "torch._C.DispatchKeySet": "names the keys of those guards",
    "torch._C._get_privateuse1_backend_name": "names the device of AutocastPrivateUse1",
    "torch._C._autograd._top_saved_tensors_default_hooks": "tells whether a model opens a checkpoint",
    "torch._C._autograd._saved_tensors_hooks_is_enabled": "tells whether saved-tensor hooks are forbidden",
    "torch._VF._unpack_dual": "takes the tangents off what a rule saved; torch.autograd.forward_ad.unpack_dual does "
    "nothing inside a compiled graph",
    "torch.compiler.config._config": "tells all threads with which rules a graph was compiled; else it is set for one",
    "torch._check_value": "tells torch.export that two sizes are one",
    "torch._decomp.register_decomposition": "lets ONNX export what the ops are made of",
    "torch._library.utils.get_layout_constraint_tag": "tells Inductor the strides of an op's operands",
    "torch._ops.OpOverload": "what torch.ops gives, for type checkers",
    "torch.nn.utils.parametrizations._WeightNorm": "tells which parametrizations only compute a weight",
    "torch.nn.utils.parametrize._inject_property": "tells whether reading a weight is torch's parametrization",
    "torch.nn.modules.module._global_forward_hooks": "tells whether a hook of all modules is set",
    "torch.nn.modules.module._global_forward_pre_hooks": "the same, before forward",
    "torch.nn.modules.module._global_backward_hooks": "the same, of backward",
    "torch.nn.modules.module._global_backward_pre_hooks": "the same, before backward",
    "torch._C._dispatch_has_kernel_for_dispatch_key": "tells which backend serves an op; explain and info show it",
    "torch._C._dispatch_key_for_device": "names the key of a device there",
}


ROOT = Path(call.__file__).parents[1]
FILES = {path.relative_to(ROOT): ast.parse(path.read_text()) for path in ROOT.rglob("*.py")}
# a file imports from its own room and from those before it
ROOMS = (
    "internals", "activations", "ops", "modes", "backends", "memory", "routing", "at_once", "chained", "functional",
    "functional_chain", "functional_gated", "nn", "nn_gated", "nn_mlp", "fusion", "operators", "own", "check", "cli",
    "__init__", "__main__",
)  # fmt: skip


def private(tree: ast.Module) -> set[str]:
    """The names of torch that a file uses and that begin with an underscore, or come from a file that does."""
    found, alias = set(), {"torch": "torch"}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("torch"):
            alias |= {a.asname or a.name: f"{node.module}.{a.name}" for a in node.names}
            found |= {f"{node.module}.{a.name}" for a in node.names if "._" in f"{node.module}.{a.name}"}
    inner = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and id(node) not in inner:
            first, *rest = ast.unparse(node).split(".")
            if first in alias and any(name.startswith("_") and not name.startswith("__") for name in rest):
                found.add(".".join((alias[first], *rest)))
    return found


def own_names() -> set[str]:
    """All names that the package gives to anything."""
    names = set()
    for tree in FILES.values():
        for node in ast.walk(tree):
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
                names.add(node.name)
            elif isinstance(node, (ast.Name, ast.Attribute)) and isinstance(node.ctx, ast.Store):
                names.add(node.id if isinstance(node, ast.Name) else node.attr)
    return names


@pytest.mark.parametrize("name", USED)
def test_is_there(name):
    assert pydoc.locate(name) is not None, f"torch {torch.__version__} has no {name}. It {USED[name]}."


def test_the_list_is_whole():
    """Every private name of torch that internals/ uses is listed above."""
    found = set().union(*(private(tree) for path, tree in FILES.items() if path.parts[0] == "internals"))
    assert found == set(USED)


def test_no_other_room_uses_private_parts():
    ours = own_names()
    for path, tree in FILES.items():
        if path.parts[0] == "internals":
            continue
        assert not private(tree), path
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and node.attr.startswith("_") and not node.attr.startswith("__"):
                assert node.attr in ours, f"{path}:{node.lineno}: {ast.unparse(node)}"


def room(path: Path) -> int:
    return ROOMS.index(path.parts[0].removesuffix(".py"))


def test_no_import_runs_from_a_lower_room_up():
    for path, tree in FILES.items():
        for node in ast.walk(tree):
            if not isinstance(node, ast.ImportFrom) or node.level == 0:
                continue
            base = path.parent
            for _ in range(node.level - 1):
                base = base.parent
            base = base / (node.module or "").replace(".", "/")
            for name in node.names:
                place = base if node.module and base.parts else base / name.name
                if place.parts[:1] and place.parts[0] in ROOMS:
                    assert room(place) <= room(path), f"{path}:{node.lineno}: {ast.unparse(node)}"


def test_every_file_fits_on_a_few_screens():
    source = Path(__file__).parents[1]
    for folder in ("python", "kernels", "csrc", "benchmarks", "tests", "examples"):
        for path in (source / folder).rglob("*"):
            if path.suffix in (".py", ".h", ".cpp"):
                assert len(path.read_text().splitlines()) <= 350, path


def test_every_op_has_its_kernels():
    for name in OPS:
        for key in ("Autograd", "CompositeExplicitAutograd"):
            assert torch._C._dispatch_has_kernel_for_dispatch_key(f"fusegrad::{name}", key), (name, key)


def test_wanted_knows_what_the_engine_will_run():
    seen = []

    class Two(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, w, b):
            return x * w

        @staticmethod
        def backward(ctx, g):
            seen.append(engine.wanted(ctx, 3))
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
    assert call.in_plain_eager(x, None, leaf)
    assert call.requires_grad(x, None, leaf) and not call.requires_grad(x, None)
    with torch.no_grad():
        assert not call.requires_grad(leaf)
    with forward_ad.dual_level():
        assert not call.in_plain_eager(x)
    with torch.autocast("cpu"):
        assert not call.in_plain_eager(x)
    seen = []
    torch.func.vmap(lambda t: seen.append(call.in_plain_eager(t)) or t)(x)
    assert seen == [False]
