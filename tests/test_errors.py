"""Bad input gets a ValueError or TypeError that names the op, the shapes and the dtypes."""

import pytest
import torch

import fusegrad as fg

from cases import DEVICE

x, w, b = (torch.ones(s, device=DEVICE) for s in ((2, 4), (5, 4), (5,)))
meta = torch.ones(5, 4, device="meta")

LINEAR = {
    "inner size": ((x, torch.ones(5, 3, device=DEVICE)), ValueError, [r"\(5, 3\)", r"\(2, 4\)", "w.shape"]),
    "bias length": ((x, w, torch.ones(4, device=DEVICE)), ValueError, [r"b has shape \(4,\)", r"\(5, 4\)"]),
    "bias rank": ((x, w, torch.ones(1, 5, device=DEVICE)), ValueError, [r"b has shape \(1, 5\)"]),
    "weight rank": ((x, torch.ones(4, device=DEVICE)), ValueError, [r"w has shape \(4,\)"]),
    "weight of three": ((x, w[None]), ValueError, [r"w has shape \(1, 5, 4\)"]),
    "scalar input": ((torch.tensor(1.0, device=DEVICE), w), ValueError, [r"x has shape \(\)", r"\(\.\.\., 4\)"]),
    "mixed dtypes": ((x.double(), w), TypeError, ["float64", "float32", r"\(2, 4\)"]),
    "mixed bias dtype": ((x, w, b.bfloat16()), TypeError, ["bfloat16", "float32"]),
    "mixed devices": ((x, meta), TypeError, ["meta", DEVICE]),
    "integers": ((x.long(), w.long()), TypeError, ["int64", r"\(2, 4\)"]),
    "complex": ((x.to(torch.complex64), w.to(torch.complex64)), TypeError, ["complex64"]),
    "a list": (([[1.0] * 4], w), TypeError, ["x must be a tensor", "list"]),
    "no weight": ((x, None), TypeError, ["w must be a tensor", "NoneType"]),
    "a number as bias": ((x, w, 0.0), TypeError, ["b must be a tensor", "float"]),
}


@pytest.mark.parametrize("case", LINEAR)
@pytest.mark.parametrize("op", ("linear", "linear_act"))
def test_linear(op, case):
    args, error, says = LINEAR[case]
    call = fg.linear if op == "linear" else lambda *a: fg.linear_act(*a, act="tanh")
    with pytest.raises(error, match=f"^{op}: ") as raised:
        call(*args)
    for pattern in says:
        raised.match(pattern)


many = torch.randn(3, 2, 4, device=DEVICE).transpose(0, 1)  # torch converts the bias for such an input
learnt = w.clone().requires_grad_()
CALLS = {
    "bias of integers": (
        lambda: fg.linear(many, learnt, torch.arange(5, device=DEVICE)),
        TypeError,
        "b has dtype torch.int64",
    ),
    "bias of another dtype": (lambda: fg.linear_act(many, learnt, b.double(), act="relu"), TypeError, "float64"),
    "op of two shapes": (lambda: torch.ops.fusegrad.act(x, b, "relu", 0.0, 1), RuntimeError, "s and g differ in shape"),
    "backward of two shapes": (
        lambda: torch.ops.fusegrad.act_backward(x, b, x, "relu", 0.0, 1, True, True, True),
        RuntimeError,
        "gy, s and g differ in shape",
    ),
    "jvp of two shapes": (
        lambda: torch.ops.fusegrad.act_jvp(x, b, x, x, "relu", 0.0, 1, True),
        RuntimeError,
        "ts, tg, s and g differ in shape",
    ),
    "mlp, first layer": (
        lambda: fg.mlp(x, w.mT, None, w, act="relu"),
        ValueError,
        r"mlp: w1 has shape \(4, 5\), x has shape \(2, 4\); need w1.shape\[1\] == x.shape\[-1\]",
    ),
    "mlp, second layer": (lambda: fg.mlp(x, w, b, w, act="relu"), ValueError, r"mlp: w2 .*\(5, 4\), w1 .*\(5, 4\)"),
    "mlp, second bias": (lambda: fg.mlp(x, w, b, w.mT, b, act="relu"), ValueError, r"mlp: b2 .*\(5,\), w2 .*\(4, 5\)"),
    "mlp, dtypes": (lambda: fg.mlp(x, w, b, w.mT.double(), act="relu"), TypeError, "w2 .*float64"),
    "mlp, no tensor": (lambda: fg.mlp(x, w, b, None, act="relu"), TypeError, "mlp: w2 must be a tensor, got NoneType"),
    "mm_gz of two shapes": (
        lambda: torch.ops.fusegrad.mm_gz(x, w.mT, x, "relu", 0.0, True),
        RuntimeError,
        "mm_gz: the shapes do not fit",
    ),
    "unknown act": (lambda: fg.linear_act(x, w, act="geluu"), ValueError, "unknown act 'geluu'; known: .*gelu"),
    "act is no name": (lambda: fg.act(x, ["relu"]), ValueError, r"act: unknown act \['relu'\]"),
    "param for none": (lambda: fg.linear_act(x, w, act="tanh", param=1.0), ValueError, "'tanh' takes no param"),
    "param for identity": (lambda: fg.linear_act(x, w, act=None, param=1.0), ValueError, "takes no param"),
    "negative slope": (lambda: fg.act(x, "leaky_relu", -1.0), ValueError, "negative_slope .* >= 0, got -1.0"),
    "beta of 0": (lambda: fg.act(x, "softplus", 0), ValueError, "beta .* > 0, got 0"),
    "infinite alpha": (lambda: fg.act(x, "celu", float("inf")), ValueError, "alpha .* finite"),
    "nan omega": (lambda: fg.act(x, "sin", float("nan")), ValueError, "omega .* finite, got nan"),
    "param as text": (lambda: fg.act(x, "elu", "1"), TypeError, "param .* must be a number, got '1'"),
    "act of integers": (lambda: fg.act(x.int(), "relu"), TypeError, r"act: z has dtype torch.int32, shape \(2, 4\)"),
    "act of a list": (lambda: fg.act([1.0], "relu"), TypeError, "act: z must be a tensor, got list"),
    "mm of vectors": (lambda: fg.mm(b, b), ValueError, r"mm: a has shape \(5,\)"),
    "mm inner size": (lambda: fg.mm(x, w), ValueError, r"\(2, 4\).*\(5, 4\).*trans_a=False"),
    "mm dtypes": (lambda: fg.mm(x, w.double(), trans_b=True), TypeError, "float32.*float64"),
    "constant tensor": (lambda: fg.mul_constant(x, b), TypeError, "c must be a real number, got Tensor"),
    "complex constant": (lambda: fg.mul_constant(x, 1j), TypeError, "c must be a real number, got complex"),
    "constant times ints": (lambda: fg.mul_constant(x.int(), 1.0), TypeError, "x has dtype torch.int32"),
    "module act": (lambda: fg.Linear(2, 2, act="nope"), ValueError, "Linear: unknown act 'nope'"),
    "module param": (lambda: fg.Linear(2, 2, act="celu", param=-1.0), ValueError, "Linear: param"),
    "module param alone": (lambda: fg.Linear(2, 2, param=1.0), ValueError, "Linear: .* takes no param"),
    "module device": (
        lambda: fg.Linear(2, 2, True, "cpu", torch.float64),
        TypeError,
        "act='cpu'.* device and dtype by",
    ),
    "module dtype": (
        lambda: fg.Linear(2, 2, True, None, torch.float64),
        TypeError,
        "float64; give device and dtype by",
    ),
    "Act": (lambda: fg.Act("nope"), ValueError, "Act: unknown act 'nope'"),
    "fuse no module": (lambda: fg.fuse(x), TypeError, "fuse: model must be a torch.nn.Module, got Tensor"),
}


@pytest.mark.parametrize("case", CALLS)
def test_call(case):
    call, error, says = CALLS[case]
    with pytest.raises(error, match=says):
        call()


def test_module_call():
    with pytest.raises(ValueError, match=r"linear_act: w has shape \(5, 4\), x has shape \(2, 3\)"):
        fg.Linear(4, 5, act="relu", device=DEVICE)(torch.ones(2, 3, device=DEVICE))


def test_autocast_accepts_mixed_dtypes():
    with torch.autocast(DEVICE, torch.bfloat16):
        assert fg.linear_act(x.bfloat16(), w, b, act="relu").dtype == torch.bfloat16


def test_orders_that_do_not_exist():
    with pytest.raises((ValueError, RuntimeError), match="order"):  # an op of C++ can only raise the second
        torch.ops.fusegrad.act(x, None, "tanh", 0.0, 4)


def test_an_adapter_around_a_layer_with_an_activation_is_refused():
    """It would add after the activation, and merge before it."""

    class Adapter(torch.nn.Module):
        __module__ = "peft.tuners.lora.layer"

        def __init__(self, base_layer):
            super().__init__()
            self.base_layer = base_layer

    assert Adapter(fg.Linear(4, 5)).base_layer is not None
    with pytest.raises(TypeError, match=r"Adapter of peft .* after act='gelu'"):
        Adapter(fg.Linear(4, 5, act="gelu"))
