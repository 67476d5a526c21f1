"""The Triton kernels, on a GPU, or by Triton's interpreter, in which the other tests run on them too."""

import itertools
from pathlib import Path

import pytest
import torch

import fusegrad as fg
from fusegrad import backends, ops
from fusegrad.activations import REGISTRY
from fusegrad.kernels import SERVED
from fusegrad.ops import OPS

from cases import CASES, DEFAULTS, DEVICE, DTYPES, Case
from processes import TRITON, python

pytest.importorskip("triton")
SERVING = backends.INTERPRETED or DEVICE == "cuda"
TESTS = Path(__file__).parent

# the tests that run in the interpreter, and which of them: those whose numbers a kernel makes. Rules, transforms and
# what fuse does are the same on every backend; what a rule may hand to a kernel, test_layouts.py draws. A launch takes
# some 10 ms there.
INTERPRETED = {
    "chains": {"triton_chain": "", "triton_streams": ""},
    "products": {"triton": "not registry and not torch.float16", "bytes_moved": ""},
    "calls": {
        "activations": "not numerically and not below and not torch.float16",
        "precision": "third",
        "layouts": "not second_gradients and not mlp",  # of which the parts are there
        "ops": "opcheck",
        "errors": "",
        "backward": "leaves or bits or output",
        "mlp": "error or empty or saved",
        "gated": "(error and (silu or tanh)) or empty or saved",
        "transforms": "linear_act and silu and (leading or batched or vmap or hessian or output_gradients)",
    },
}


@pytest.mark.skipif(SERVING, reason="the tests run on the kernels already")
@pytest.mark.parametrize("part", INTERPRETED)
def test_in_the_interpreter(part):
    chosen = " or ".join(f"(test_{name}.py and ({some or 'test'}))" for name, some in INTERPRETED[part].items())
    files = [str(TESTS / f"test_{name}.py") for name in INTERPRETED[part]]
    done = python("-m", "pytest", "-n0", "--hypothesis-profile=few", *files, "-k", chosen, **TRITON)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]


served = pytest.mark.skipif(not SERVING, reason="runs in the interpreter, by the test above")
on_gpu = pytest.mark.skipif(DEVICE != "cuda", reason="needs a GPU")


def fresh(*shape, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, dtype=torch.float64, generator=generator).to(DEVICE, dtype)


def assert_near(y, truth, stock, roundings=1):
    """At most twice as far from the truth as stock is, and some roundings."""
    error, of_stock = ((t.double() - truth).abs().max().item() for t in (y, stock))
    if y.dtype == torch.float64:  # of which there is no truth
        of_stock, roundings = 0, 100
    assert y.shape == truth.shape
    assert error <= 2 * of_stock + roundings * torch.finfo(y.dtype).eps * truth.abs().max().item()


@served
def test_every_op_has_a_kernel():
    """But for products alone, which are cuBLAS's, and orders above the third."""
    assert {op for op in OPS if backends.serving(op, DEVICE) == "reference"} == {"act_reference", "linear", "mm"}
    assert set(SERVED) | {"act_reference", "linear", "mlp", "mm"} == set(OPS)  # mlp is made of others


def test_the_kernels_know_the_registry():
    code = "from fusegrad.kernels.activations import ACTIVATIONS; print(*ACTIVATIONS)"
    assert python("-c", code).stdout.split() == [*REGISTRY]


@served
def test_an_activation_without_a_kernel_goes_to_the_reference(monkeypatch):
    monkeypatch.setitem(REGISTRY, "gelu_of_a_user", REGISTRY["gelu"])
    x, w, b = fresh(5, 3), fresh(4, 3, seed=1), fresh(4, seed=2)
    for op, args in (("act", (x, None)), ("linear_act", (x, w, b))):
        rest = (0.0, 0) if op == "act" else (0.0, True)
        made, known = (OPS[op](*args, name, *rest) for name in ("gelu_of_a_user", "gelu"))
        torch.testing.assert_close(made, known)


# rows that end inside a tile, and inside 16 bytes or, in the last two, not: those go to products with an epilogue
SIZES = ((5, 3, 130), (130, 70, 9), (1, 1, 1), (33, 64, 136), (130, 72, 24))


@pytest.fixture(params=("stock", "cublas", "triton"))
def algorithm(request, monkeypatch):
    from fusegrad.kernels import linear_act, mm_dact

    for module in (linear_act, mm_dact):
        monkeypatch.setattr(module, "algorithm_for", lambda *args: request.param)
    return request.param


@pytest.fixture
def products(monkeypatch):
    """The shapes that go to the product with an epilogue."""
    from fusegrad.kernels import gemm

    seen, run = [], gemm.linear_act
    monkeypatch.setattr(gemm, "linear_act", lambda x, w, *rest: seen.append((*x.shape, len(w))) or run(x, w, *rest))
    return seen


def layer(size, dtype):
    """x, whose rows do not follow one another, w and b."""
    m, k, n = size
    return fresh(m, k + 8, dtype=dtype)[:, :k], fresh(n, k, dtype=dtype, seed=1), fresh(n, dtype=dtype, seed=2)


# one that saves its input in all sizes, one that saves its output in one of each kind
LAYERS = [*(("gelu", size) for size in SIZES), ("tanh", SIZES[1]), ("tanh", SIZES[4])]


@served
@pytest.mark.parametrize("act, size", LAYERS, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_algorithms_of_a_layer(algorithm, products, act, dtype, size):
    """y and what is saved, with and without a bias. What "triton" has no product for is as "cublas": once is enough."""
    x, w, b = layer(size, dtype)
    fused = algorithm == "triton" and size in SIZES[-2:] and dtype != torch.float64
    ways = list(itertools.product((b, None), (True, False)))[: 1 if algorithm == "triton" and not fused else 4]
    for bias, save in ways:
        args = x, w, bias
        wide = [None if t is None else t.double() for t in args]
        made = OPS["linear_act"](*args, act, 0.0, save)
        truth = ops.linear_act.reference(*wide, act, 0.0, save)
        stock = ops.linear_act.reference(*args, act, 0.0, save)
        for t in zip(made, truth, stock, strict=True):
            if t[1].numel():
                assert_near(*t)
    assert products == [size] * 4 * fused


@served
@pytest.mark.parametrize("act, size", LAYERS, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_gradients_of_a_layer(act, dtype, size):
    x, w, _ = layer(size, dtype)
    z = ops.linear.reference(x, w, None)
    args = fresh(*z.shape, dtype=dtype, seed=3), x, w, z if REGISTRY[act].saves_input else z.tanh()
    made = OPS["linear_act_backward"](*args, act, 0.0, True, True, True)
    truth = ops.linear_act_backward.reference(*(t.double() for t in args), act, 0.0, True, True, True)
    stock = ops.linear_act_backward.reference(*args, act, 0.0, True, True, True)
    for t in zip(made, truth, stock, strict=True):
        assert_near(*t)


@served
@pytest.mark.parametrize("case", DEFAULTS, ids=str)
def test_epilogues(case):
    """Every activation in both products with an epilogue, which is in float32 whatever is loaded and stored."""
    from fusegrad.kernels import gemm

    m, k, n = 70, 33, 40
    for dtype in (torch.float32, torch.bfloat16) if case.name in ("silu", "tanh") else (torch.float32,):
        x, w, b = fresh(m, k, dtype=dtype), fresh(n, k, dtype=dtype, seed=1), fresh(n, dtype=dtype, seed=2)
        y, saved = gemm.linear_act(x, w, b, case.name, case.value, True)
        truth, stock = (ops.linear_act.reference(*(t.to(d) for t in (x, w, b)), case.name, case.value, False)[0]
                        for d in (torch.float64, dtype))  # fmt: skip
        assert_near(y, truth, stock)
        z = ops.linear.reference(x, w, b)
        assert_near(saved, ops.linear.reference(x.double(), w.double(), b.double()), z)
        s = z if REGISTRY[case.name].saves_input else stock
        gz, sums = gemm.mm_dact(x, w.T.contiguous(), s, case.name, case.value)
        truth, stock = (ops.act.reference(s.to(d), x.to(d) @ w.to(d).T, case.name, case.value, 1)
                        for d in (torch.float64, dtype))  # fmt: skip
        assert_near(gz, truth, stock)
        assert_near(sums, gz.double().sum(0), gz.sum(0), 4)  # the interpreter adds them one by one


@served
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", ((1, 1), (40, 5), (3, 2.5), (40, 1.1)), ids=str)
def test_passes(shape, dtype):
    """Of rows, and columns: so many, or times those of a tile. A sum is of 32 rows, or those that are left."""
    from fusegrad.kernels import passes

    m, n = shape
    n = n if isinstance(n, int) else int(n * passes.ROW_BYTES / dtype.itemsize)
    z, b, s = fresh(m, n, dtype=dtype), fresh(n, dtype=dtype, seed=1), fresh(m, n, dtype=dtype, seed=2)
    sum_of = z.double() + b.double()
    y = passes.bias_act(z.clone(), b, "silu", 0.0)
    assert_near(y, torch.nn.functional.silu(sum_of), torch.nn.functional.silu(z + b))
    for gy in (z, fresh(1, dtype=dtype, seed=3).expand(m, n), fresh(n, m, dtype=dtype, seed=4).T):
        stock = ops.act.reference(s, gy, "silu", 0.0, 1)
        gz, sums = passes.gz_and_sum(gy, s, "silu", 0.0, True)
        assert_near(gz, ops.act.reference(s.double(), gy.double(), "silu", 0.0, 1), stock)
        assert_near(sums, gz.double().sum(0), stock.sum(0), 4)
        assert torch.equal(sums, passes.gz_and_sum(gy, s, "silu", 0.0, True)[1])  # the same bits
        same, sums = passes.gz_and_sum(gy, None, "identity", 0.0, True)
        assert same is gy
        assert_near(sums, gy.double().sum(0), gy.sum(0), 4)


@served
def test_sums_leave_out_what_is_no_number_elsewhere():
    """exp and its like are not 0 where nothing was read."""
    from fusegrad.kernels import gemm, passes

    s, gy = fresh(3, 5), fresh(3, 5, seed=1)
    for name in ("exp", "sigmoid", "softplus"):
        _, sums = passes.gz_and_sum(gy, s, name, 1.0, True)
        torch.testing.assert_close(sums, ops.act.reference(s, gy, name, 1.0, 1).sum(0))
        a, b = fresh(3, 8, dtype=torch.float32), fresh(8, 5, dtype=torch.float32, seed=1)
        gz, sums = gemm.mm_dact(a, b, s.float(), name, 1.0)
        torch.testing.assert_close(sums, gz.sum(0))


@served
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_algorithms_of_mm_dact(algorithm, dtype, size, monkeypatch):
    from fusegrad.kernels import gemm

    seen, run = [], gemm.mm_dact
    monkeypatch.setattr(gemm, "mm_dact", lambda *args: seen.append(args) or run(*args))
    m, k, n = size
    a = fresh(m, k + 8, dtype=dtype)[:, :k]
    b, s = fresh(k, n, dtype=dtype, seed=1), fresh(m, n, dtype=dtype, seed=2).sigmoid()
    aligned = n * a.element_size() % 16 == a.stride(0) * a.element_size() % 16 == 0
    fused = algorithm == "triton" and aligned and dtype != torch.float64
    # what "triton" has no product for is as "cublas": once is enough
    for act in ("gelu",) if algorithm == "triton" and not fused else ("gelu", "tanh", "identity"):
        for need_sum in (True, False) if act == "gelu" else (True,):
            made = OPS["mm_dact"](a, b, s, act, 0.0, need_sum)
            truths = ops.mm_dact.reference(a.double(), b.double(), s.double(), act, 0.0, need_sum)
            stocks = ops.mm_dact.reference(a, b, s, act, 0.0, need_sum)
            for y, truth, stock in zip(made, truths, stocks, strict=True):
                assert y.shape == truth.shape and y.dtype == dtype
                if y.numel() > 0:
                    assert_near(y, truth, stock, 2)
    assert len(seen) == 3 * fused


@served
@pytest.mark.parametrize("allowed, precision", ((True, "tf32"), (False, "ieee")))
def test_products_use_tf32_where_torch_may(allowed, precision):
    from fusegrad.kernels import gemm

    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = allowed
    try:
        assert gemm.precision("sm_90", torch.float32) == precision
        assert gemm.config_of("sm_90", torch.float32) == gemm.CONFIGS["sm_90"][precision]
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


def test_the_table_decides(tmp_path, monkeypatch):
    """The nearest measurement of the dtype speaks, up to a factor of two in each size; else cuBLAS and a pass."""
    from fusegrad.kernels import choice

    (tmp_path / "sm_90.csv").write_text(
        "op,dtype,m,k,n,algorithm\nlinear_act,bfloat16,1024,256,1024,triton\nlinear_act,bfloat16,16,256,64,stock\n"
    )
    monkeypatch.setattr(choice, "TABLES", tmp_path)
    choice.table.cache_clear(), choice.algorithm_for.cache_clear()
    try:
        algorithm = lambda dtype, *size: choice.algorithm_for("linear_act", "sm_90", dtype, *size)
        assert algorithm(torch.bfloat16, 1024, 256, 1024) == algorithm(torch.bfloat16, 2048, 200, 600) == "triton"
        assert algorithm(torch.bfloat16, 10, 300, 64) == "stock"
        assert algorithm(torch.bfloat16, 4096, 256, 1024) == algorithm(torch.float16, 1024, 256, 1024) == "cublas"
        assert choice.algorithm_for("linear_act", "sm_80", torch.bfloat16, 1024, 256, 1024) == "cublas"
        assert choice.algorithm_for("mm_dact", "sm_90", torch.bfloat16, 1024, 256, 1024) == "cublas"
    finally:
        choice.table.cache_clear(), choice.algorithm_for.cache_clear()


@on_gpu
@pytest.mark.parametrize("case", CASES[:3], ids=str)
def test_cuda_graphs(case: Case):
    """Forward and backward are captured, and replayed on other numbers."""
    x, w, b = fresh(64, 32), fresh(16, 32, seed=1), fresh(16, seed=2)
    x, w, b = (t.float().requires_grad_() for t in (x, w, b))
    step = lambda: torch.autograd.grad(case.linear_act(x, w, b).square().sum(), (x, w, b))
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            step()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        grads = step()
    with torch.no_grad():
        x.mul_(0.5)
    graph.replay()
    torch.testing.assert_close(grads, step())


@on_gpu
def test_streams_and_no_synchronisation():
    """Work goes to the current stream, and nothing waits for it."""
    x, w, b = (t.float().requires_grad_() for t in (fresh(64, 32), fresh(16, 32, seed=1), fresh(16, seed=2)))
    fg.linear_act(x, w, b, act="gelu").sum().backward()
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):  # cuBLAS sets aside memory for each stream when it first works there
        fg.linear_act(x, w, b, act="gelu")
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        with torch.cuda.stream(stream):
            torch.cuda._sleep(10**7)
            y = fg.linear_act(x * 2, w, b, act="gelu")
            assert not stream.query()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    stream.synchronize()
    torch.testing.assert_close(y, torch.nn.functional.gelu(torch.nn.functional.linear(x * 2, w, b)))


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_another_device_than_the_current_one():
    x, w, b = (t.to("cuda:1").float().requires_grad_() for t in (fresh(64, 32), fresh(16, 32, seed=1), fresh(16)))
    y = fg.linear_act(x, w, b, act="gelu")
    torch.testing.assert_close(y, torch.nn.functional.gelu(torch.nn.functional.linear(x, w, b)))
    torch.autograd.grad(y.sum(), (x, w, b))


def test_a_gpu_that_triton_cannot_serve_goes_to_the_reference(monkeypatch):
    """Without a C compiler, say."""
    import importlib

    def fails(name):
        raise RuntimeError("Failed to find C compiler")

    monkeypatch.setattr(importlib, "import_module", fails)
    backends._runs_triton.cache_clear()
    with pytest.warns(UserWarning, match="Triton does not run here .Failed to find C compiler.; on cuda:0"):
        assert not backends._runs_triton(torch.device("cuda:0"))
    backends._runs_triton.cache_clear()
