"""Every pass over memory moves the least it can: it reads each operand once and writes each result once. What comes
on top, partial sums and the bias that rows share, is an eighth at most. Counted in Triton's interpreter.
"""

import math

import numpy as np
import pytest
import torch

from fusegrad import backends

pytestmark = pytest.mark.skipif(not backends.INTERPRETED, reason="runs in the interpreter, by test_triton.py")
M, N = 64, 256


class Traffic:
    """The addresses that kernels load from and store to, one of each element moved."""

    def __init__(self, monkeypatch):
        from triton.runtime.interpreter import InterpreterBuilder

        self.moved = {"create_masked_load": [], "create_masked_store": []}
        for name in self.moved:
            monkeypatch.setattr(InterpreterBuilder, name, self.counting(name, getattr(InterpreterBuilder, name)))

    def counting(self, name, method):
        # of both, the first arguments are pointers, the last of three the mask of a store, the second that of a load
        place = 1 if name == "create_masked_load" else 2

        def counted(builder, *args, **options):
            pointers, mask = args[0], args[place]
            addresses = np.asarray(pointers.data)[np.asarray(mask.data)]
            self.moved[name].append((addresses, pointers.get_element_ty().primitive_bitwidth // 8))
            return method(builder, *args, **options)

        return counted

    def times(self, name, t):
        """How often each element of a contiguous tensor was moved."""
        addresses = np.concatenate([a for a, _ in self.moved[name]]).astype(np.int64) - t.data_ptr()
        inside = addresses[(addresses >= 0) & (addresses < t.numel() * t.itemsize)]
        return np.bincount(inside // t.itemsize, minlength=t.numel())

    def bytes(self):
        return sum(a.size * size for moved in self.moved.values() for a, size in moved)


@pytest.fixture
def traffic(monkeypatch):
    return Traffic(monkeypatch)


def assert_least(traffic, operands, results):
    for t in operands:
        assert traffic.times("create_masked_load", t).max() <= 1
    for t in results:
        assert (traffic.times("create_masked_store", t) == 1).all()
    least = sum(t.numel() * t.itemsize for t in (*operands, *results))
    assert least * 0.5 < traffic.bytes() <= least * (1 + 1 / 8)


def fresh(*shape, dtype, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


# name: of matrices s, g, gy and a row b, the operands and what makes the results of them; the row is an operand too.
# Of the orders of a derivative the first stands for all: they differ in the function of what was loaded.
def act(order, has_g):
    from fusegrad.kernels import act

    return lambda s, g, gy, b: ((s, g) if has_g else (s,), [act.act(s, g if has_g else None, "gelu", 1.0, order)])


def act_vjp(order, needed):
    from fusegrad.kernels import act

    def run(s, g, gy, b):
        needs_gy, needs_g = needed[0] or needed[1], needed[0] or needed[2]
        operands = s, *([gy] * needs_gy), *([g] * needs_g)
        return operands, act.act_vjp(gy, s, g, "gelu", 1.0, order, *needed)

    return run


def act_jvp(order, need_y):
    from fusegrad.kernels import act

    def run(s, g, gy, b):
        tg = fresh(M, N, dtype=s.dtype, seed=3)
        return (s, g, gy, tg), act.act_jvp(gy, tg, s, g, "gelu", 1.0, order, need_y)

    return run


def streams(dtype, seed):
    """A value, its tangents, and its second-order part."""
    shapes = (M, N), (3, M, N), (1, M, N)
    return tuple(fresh(*shape, dtype=dtype, seed=seed + i) for i, shape in enumerate(shapes))


def act_streams(act):
    from fusegrad.kernels import act_streams

    return lambda s, g, gy, b: ((of := streams(s.dtype, 5)), act_streams.act_streams(*of, act, 1.0))


def act_streams_backward(act):
    """A piecewise linear activation needs no more than z for the slopes."""
    from fusegrad.kernels import act_streams

    def run(s, g, gy, b):
        z, *others = streams(s.dtype, 5)
        cotangents = streams(s.dtype, 8)
        operands = (*cotangents, z) if act == "relu" else (*cotangents, z, *others)
        return operands, act_streams.act_streams_backward(*cotangents, z, *others, act, 1.0, 7)

    return run


def mul_constant():
    from fusegrad.kernels import act

    return lambda s, g, gy, b: ((s,), [act.mul_constant(s, 2.0)])


def bias_act():
    from fusegrad.kernels import passes

    return lambda s, g, gy, b: ((s,), [passes.bias_act(s, b, "gelu", 1.0)])


def gz_and_sum(act, need_sum):
    from fusegrad.kernels import passes

    def run(s, g, gy, b):
        gz, gb = passes.gz_and_sum(gy, None if act == "identity" else s, act, 1.0, need_sum)
        return ((gy,), [gb]) if act == "identity" else ((gy, s), [gz, gb])

    return run


def gate(act, save):
    from fusegrad.kernels import gated

    return lambda s, g, gy, b: ((s, g), list(gated.gate(s, g, act, 1.0, save)[: 1 + (save and act == "tanh")]))


def gate_and_sums(act, sums):
    from fusegrad.kernels import gated

    return lambda s, g, gy, b: ((s, g, gy), list(gated.gate_and_sums(gy, s, g, act, 1.0, (True, True), sums)))


PASSES = {
    "act 0": (act, 0, False),
    **{f"act 1{' of g' * has_g}": (act, 1, has_g) for has_g in (False, True)},
    **{
        f"act_vjp {needed}": (act_vjp, 1, needed)
        for needed in ((True, True, True), (True, False, False), (False, True, False), (False, False, True))
    },
    **{f"act_jvp{', y' * y}": (act_jvp, 1, y) for y in (False, True)},
    **{f"act_streams {act}": (act_streams, act) for act in ("gelu", "relu")},
    **{f"act_streams_backward {act}": (act_streams_backward, act) for act in ("gelu", "relu")},
    "mul_constant": (mul_constant,),
    "bias_act": (bias_act,),
    "gz": (gz_and_sum, "gelu", False),
    "gz and sum": (gz_and_sum, "gelu", True),
    "sum of gy": (gz_and_sum, "identity", True),
    **{f"gate {act}{', saved' * save}": (gate, act, save) for act in ("gelu", "tanh") for save in (False, True)},
    "gz and gu": (gate_and_sums, "gelu", (False, False)),
    "gz, gu and their sums": (gate_and_sums, "tanh", (True, True)),
}


# tiles are as wide as a dtype allows; in the second a few of the passes stand for all
CASES = [(name, torch.bfloat16) for name in PASSES]
CASES += [(name, torch.float64) for name in ("act 1 of g", "act_jvp, y", "act_streams gelu", "bias_act", "gz and sum")]


@pytest.mark.parametrize("name, dtype", CASES, ids=str)
def test_passes(traffic, name, dtype):
    make, *args = PASSES[name]
    s, g, gy = (fresh(M, N, dtype=dtype, seed=seed) for seed in range(3))
    operands, results = make(*args)(s, g, gy, fresh(N, dtype=dtype))
    assert_least(traffic, operands, [t for t in results if t.numel() > 0])


@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16), ids=str)
@pytest.mark.parametrize("save", (False, True))
def test_product_with_act(traffic, save, dtype):
    """y, and z if it is saved, are written as they are made; x and w are read once by each row or column of tiles."""
    from fusegrad.kernels import gemm

    x, w, b = fresh(M, 64, dtype=dtype), fresh(N, 64, dtype=dtype), fresh(N, dtype=dtype)
    results = [t for t in gemm.linear_act(x, w, b, "gelu", 1.0, save) if t.numel() > 0]
    assert len(results) == 1 + save
    assert_tiles(traffic, gemm.config_of("sm_90", dtype), x, w, [b], results)


@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16), ids=str)
def test_product_with_derivative(traffic, dtype):
    """gz is written as it is made, s read once; of gz, that is never read again, come the sums."""
    from fusegrad.kernels import gemm

    a, b, s = fresh(M, 64, dtype=dtype), fresh(64, N, dtype=dtype), fresh(M, N, dtype=dtype)
    results = gemm.mm_dact(a, b, s, "gelu", 1.0)
    assert traffic.times("create_masked_load", s).max() <= 1
    assert traffic.times("create_masked_load", results[0]).max() == 0
    assert_tiles(traffic, gemm.tile_of_dact("sm_90", dtype, "gelu"), a, b, [], results)


@pytest.mark.parametrize("act", ("gelu", "tanh"))
@pytest.mark.parametrize("save", (False, True))
def test_product_with_gate(traffic, save, act):
    """y, and what is saved, are written as they are made; x is read once for both layers."""
    from fusegrad.kernels import gemm_gated

    dtype = torch.bfloat16
    x, w_gate, w_up = (fresh(rows, 64, dtype=dtype, seed=rows) for rows in (M, N, N))
    b_gate, b_up = fresh(N, dtype=dtype), fresh(N, dtype=dtype, seed=1)
    results = [t for t in gemm_gated.gated(x, w_gate, w_up, b_gate, b_up, act, 1.0, save) if t.numel() > 0]
    assert len(results) == 1 + 2 * save
    tile = gemm_gated.tile_of_gated("sm_90", dtype)
    assert_tiles(traffic, tile, x, w_gate, [b_gate, b_up], results)
    assert_tiles(traffic, tile, x, w_up, [], [])


def assert_tiles(traffic, tile, a, b, rows, results):
    down, across = math.ceil(M / tile.block_m), math.ceil(N / tile.block_n)
    for t, times in ((a, across), (b, down), *((t, down) for t in rows)):
        assert (traffic.times("create_masked_load", t) == times).all()
    for t in results:
        assert (traffic.times("create_masked_store", t) == 1).all()


def test_a_chain_moves_what_it_must(traffic, monkeypatch):
    """Forward x, y and what is saved, once. Backward gy and gx once, and what is saved twice: as s, and as h."""
    from fusegrad.kernels import chain
    from fusegrad.ops.chain_by_layers import plan

    monkeypatch.setattr(chain, "tile_of", lambda *args: chain.Tile((16, 4), (16, 4)))
    of = plan(("gelu", "tanh", "identity"), (1.0,) * 3, (True,) * 3)
    x, gy = fresh(M, 32, dtype=torch.float32), fresh(M, 16, dtype=torch.float32, seed=1)
    weights = [t for k, n in ((32, 64), (64, 20), (20, 16)) for t in (fresh(n, k, dtype=torch.float32), None)]
    y, saved = chain.forward(x, weights, of, True)
    assert traffic.times("create_masked_load", x).max() == 1
    assert all((traffic.times("create_masked_store", t) == 1).all() for t in (y, saved))
    for moved in traffic.moved.values():
        moved.clear()
    gx = chain.backward(gy, x, weights, y, saved, of, (True,) * 7)[0]
    assert all(traffic.times("create_masked_load", t).max() == 1 for t in (gy, x))
    assert traffic.times("create_masked_load", saved).max() == 2
    assert (traffic.times("create_masked_store", gx) == 1).all()
