"""Bad input gets a ValueError or TypeError that names the op, the shapes and the dtypes."""

import pytest
import torch

import fusegrad as fg
from fusegrad import backends, ops
from fusegrad.ops import OPS

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
    "mlp, first layer": (
        lambda: fg.mlp(x, w.mT, None, w, act="relu"),
        ValueError,
        r"mlp: w1 has shape \(4, 5\), x has shape \(2, 4\); need w1.shape\[1\] == x.shape\[-1\]",
    ),
    "mlp, second layer": (lambda: fg.mlp(x, w, b, w, act="relu"), ValueError, r"mlp: w2 .*\(5, 4\), w1 .*\(5, 4\)"),
    "mlp, second bias": (lambda: fg.mlp(x, w, b, w.mT, b, act="relu"), ValueError, r"mlp: b2 .*\(5,\), w2 .*\(4, 5\)"),
    "mlp, dtypes": (lambda: fg.mlp(x, w, b, w.mT.double(), act="relu"), TypeError, "w2 .*float64"),
    "mlp, no tensor": (lambda: fg.mlp(x, w, b, None, act="relu"), TypeError, "mlp: w2 must be a tensor, got NoneType"),
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


LAYER_CALLS = {  # what fits neither us nor torch
    "inner size": (torch.ones(2, 3, device=DEVICE), ValueError, r"w has shape \(5, 4\), x has shape \(2, 3\); need"),
    "integers": (torch.ones(2, 4, device=DEVICE).long(), TypeError, r"x has dtype torch.int64, shape \(2, 4\)"),
    "a list": ([1.0] * 4, TypeError, "x must be a tensor, got list"),
}


@pytest.mark.parametrize("case", LAYER_CALLS)
@pytest.mark.parametrize("act", (None, "relu"))
def test_module_call(act, case):
    input, error, says = LAYER_CALLS[case]
    for model in (fg.Linear(4, 5, act=act, device=DEVICE), fg.fuse(torch.nn.Linear(4, 5, device=DEVICE))):
        with pytest.raises(error, match=f"linear{'' if model._fusegrad_act is None else '_act'}: {says}") as raised:
            model(input)
        if model._fusegrad_act is None and error is ValueError:
            assert isinstance(raised.value, RuntimeError)  # as torch raises: who catches that goes on as before


def test_autocast_accepts_mixed_dtypes():
    with torch.autocast(DEVICE, torch.bfloat16):
        assert fg.linear_act(x.bfloat16(), w, b, act="relu").dtype == torch.bfloat16


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


# --- the raw ops, by every backend ------------------------------------------------------------------------------------

REST = {  # the arguments after the tensors
    "act": ("tanh", 0.0, 1),
    "act_reference": ("tanh", 0.0, 4),
    "act_vjp": ("tanh", 0.0, 1, True, True, True),
    "act_jvp": ("tanh", 0.0, 1, True),
    "mm": (False, False),
    "linear": (),
    "linear_act": ("tanh", 0.0, True),
    "linear_act_backward": ("tanh", 0.0, True, True, True),
    "mm_dact": ("tanh", 0.0, True),
    "mlp": ("tanh", 0.0, True),
    "mul_constant": (2.0,),
    "gated": ("tanh", 0.0, True),
    "gated_backward": ("tanh", 0.0, True, True, True, True, True),
}
FITS = {  # shapes that fit
    "act": ((2, 3), (2, 3)),
    "act_reference": ((2, 3), (2, 3)),
    "act_vjp": ((2, 3),) * 3,
    "act_jvp": ((2, 3),) * 4,
    "mm": ((2, 4), (4, 5)),
    "linear": ((2, 4), (5, 4), (5,)),
    "linear_act": ((2, 4), (5, 4), (5,)),
    "linear_act_backward": ((2, 5), (2, 4), (5, 4), (2, 5)),
    "mm_dact": ((2, 4), (4, 5), (2, 5)),
    "mlp": ((2, 4), (6, 4), (6,), (5, 6), (5,)),
    "mul_constant": ((2, 3),),
    "gated": ((2, 4), (5, 4), (5, 4), (5,), (5,)),
    "gated_backward": ((2, 5), (2, 4), (5, 4), (5, 4), (2, 5), (2, 5)),
}
# for each operand shapes that don't: another rank, another order, sizes that would broadcast
MISFITS = {
    "act": [[(3, 2), (2, 3, 1)], [(6,), (1, 3), ()]],
    "act_reference": [[(3, 2)], [(1, 3)]],
    "act_vjp": [[(3, 2), (6,)], [(1, 3), ()], [(2, 1)]],
    "act_jvp": [[(3, 2)], [(2, 1)], [(6,)], [()]],
    "mm": [[(1, 2, 4), (4,), (4, 2)], [(4, 5, 1), (5, 4), (1, 5)]],
    "linear": [[(), (2, 3)], [(4, 5), (5, 4, 1), (4,)], [(1,), (1, 5), ()]],
    "linear_act": [[(), (4, 2)], [(4, 5), (1, 5, 4), (4,)], [(1,), (1, 5), ()]],
    "linear_act_backward": [
        [(5, 2), (1, 2, 5), (10,), (2, 1)],
        [(4, 2), (1, 4)],
        [(4, 5), (20,)],
        [(5, 2), (10,), (5,)],
    ],
    "mm_dact": [[(4, 2), (1, 2, 4)], [(5, 4), (4, 5, 1)], [(5, 2), (10,), (1, 5)]],
    "mlp": [[(), (2, 6)], [(4, 6), (24,)], [(5,), (1,)], [(6, 5), (30,)], [(6,), (1,)]],
    "mul_constant": [[]],
    "gated": [[(), (4, 2)], [(4, 5), (1, 5, 4)], [(6, 4), (5, 5), (4,)], [(1,), (1, 5)], [(4,), ()]],
    "gated_backward": [
        [(5, 2), (1, 2, 5), (2, 1)],
        [(4, 2), (1, 4)],
        [(4, 5), (20,)],
        [(6, 4), (5, 1)],
        [(5, 2), (5,)],
        [(1, 5), (10,)],
    ],
}
CALLERS = {
    "op": lambda op: OPS[op],  # by C++, or in the interpreter by Triton
    "reference": lambda op: (lambda o: o.checked(o.reference))(getattr(ops, op)),
    "meta": lambda op: lambda *args: OPS[op](*(a.to("meta") if isinstance(a, torch.Tensor) else a for a in args)),
}


def operands(op):
    return [torch.ones(shape, device=DEVICE) for shape in FITS[op]]


def assert_refuses(way, op, tensors, error, says, rest=None):
    """By an error that begins with the op; those of C++ are RuntimeErrors."""
    with pytest.raises((error, RuntimeError), match=f"^{op}: ") as raised:
        CALLERS[way](op)(*tensors, *(REST[op] if rest is None else rest))
    assert says in str(raised.value)


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("way", CALLERS)
def test_raw_ops_refuse(way, op):
    CALLERS[way](op)(*operands(op), *REST[op])
    for i, shapes in enumerate(MISFITS[op]):
        for shape in shapes:
            tensors = operands(op)
            tensors[i] = torch.ones(shape, device=DEVICE)
            assert_refuses(way, op, tensors, ValueError, f" {shape} float32")
        tensors = operands(op)
        tensors[i] = tensors[i].double()
        if len(tensors) > 1:
            assert_refuses(way, op, tensors, TypeError, f" {FITS[op][i]} float64")
        if len(tensors) > 1 and way == "op":
            tensors[i] = tensors[i].float().to("meta")
            assert_refuses(way, op, tensors, TypeError, " on meta")
    assert_refuses(way, op, [t.long() for t in operands(op)], TypeError, "; need ")
    if isinstance((REST[op] or (None,))[0], str):
        assert_refuses(way, op, operands(op), ValueError, "unknown act 'nope'", ("nope", *REST[op][1:]))


@pytest.mark.parametrize("way", CALLERS)
def test_orders_that_do_not_exist(way):
    x = torch.ones(2, 3, device=DEVICE)
    for op, tensors, orders in (
        ("act", (x, None), (-1,)),
        ("act", (x, x), (-1, 0)),
        ("act_vjp", (x, x, x), (0, 3)),
        ("act_jvp", (x, x, x, x), (0, 3)),
    ):
        for order in orders:
            assert_refuses(
                way,
                op,
                tensors,
                ValueError,
                f"got {'order ' * (op == 'act')}{order}",
                ("tanh", 0.0, order, *REST[op][3:]),
            )
    assert_refuses("reference", "act_reference", (x, x), ValueError, "order", ("tanh", 0.0, 0))


@pytest.mark.parametrize("trans_a", (False, True))
@pytest.mark.parametrize("trans_b", (False, True))
@pytest.mark.parametrize("way", CALLERS)
def test_products_of_transposed_factors_refuse(way, trans_a, trans_b):
    a = torch.ones((4, 2) if trans_a else (2, 4), device=DEVICE)
    b = torch.ones((5, 4) if trans_b else (4, 5), device=DEVICE)
    assert CALLERS[way]("mm")(a, b, trans_a, trans_b).shape == (2, 5)
    assert_refuses(way, "mm", (a.mT, b), ValueError, "; need a ", (trans_a, trans_b))
    assert_refuses(way, "mm", (a, b.mT), ValueError, "; need a ", (trans_a, trans_b))


@pytest.mark.skipif(backends.extension is None, reason="no C++ extension")
@pytest.mark.parametrize(
    "op", [op for op in OPS if backends.serving(op) == "cpu" and len(FITS[op]) > 1 and op != "mlp"]
)
def test_cpp_and_python_say_the_same(op):
    """Each has a text of its own of what an op needs."""
    said = []
    for way in ("op", "reference"):
        with pytest.raises((TypeError, RuntimeError)) as raised:
            CALLERS[way](op)(*operands(op)[:-1], operands(op)[-1].double(), *REST[op])
        said.append(str(raised.value))
    assert said[0] == said[1]
