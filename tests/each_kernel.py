"""Every Triton kernel, in sizes that end inside a tile, against float64: `python tests/each_kernel.py cuda`.

A plain program, short enough for compute-sanitizer. With FUSEGRAD_BACKEND=triton it runs on CPU tensors too.
"""

import itertools
import sys
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from fusegrad import backends, ops
from fusegrad.activations import REGISTRY
from fusegrad.benchmarks.harness import error
from fusegrad.kernels import act, act_streams, chain, choice, gated, gemm, interpreter, linear_act
from fusegrad.ops.chain_by_layers import plan

# the largest error, of the largest number
DTYPES = {torch.float32: 5e-6, torch.bfloat16: 2e-2, torch.float64: 1e-14}
# (m, k, n): by descriptors, and without, as 16 bytes are no whole number of rows
SIZES = ((130, 72, 40), (33, 19, 45))
ACTS = ("silu", "tanh")  # which save the input, and the output

Check = tuple[str, Callable[[], Sequence[Tensor]], Callable[[], Sequence[Tensor]]]  # name, ours, in float64


def checks(dtype: torch.dtype, sizes: tuple[int, int, int], name: str, device: str) -> Iterator[Check]:
    m, k, n = sizes
    generator = torch.Generator(device).manual_seed(0)
    fresh = lambda *shape: torch.randn(*shape, generator=generator, device=device).to(dtype)
    wide = lambda *tensors: [t.double() for t in tensors]
    x, w, b, gy, gz = fresh(m, k), fresh(n, k) / k**0.5, fresh(n), fresh(m, n), fresh(m, k)
    s = fresh(m, n).tanh()  # an output of tanh, or any input
    b_kn = w.mT.contiguous()
    columns = fresh(n, m).tanh().mT
    for order, kind, t in (*((order, "", s) for order in range(4)), (1, " of columns", columns)):
        g = gy if order else None
        yield (
            f"act {order}{kind}",
            lambda t=t, g=g, order=order: [act.act(t, g, name, 1.0, order)],
            lambda t=t, g=g, order=order: [
                ops.act.reference(t.double(), None if g is None else g.double(), name, 1.0, order)
            ],
        )
    for order in (1, 2):
        yield (
            f"act_vjp {order}",
            lambda order=order: act.act_vjp(gy, s, columns, name, 1.0, order, True, True, True),
            lambda order=order: ops.act_vjp.reference(*wide(gy, s, columns), name, 1.0, order, True, True, True),
        )
        yield (
            f"act_jvp {order}",
            lambda order=order: act.act_jvp(gy, s, columns, gy, name, 1.0, order, True),
            lambda order=order: ops.act_jvp.reference(*wide(gy, s, columns, gy), name, 1.0, order, True),
        )
    yield from of_streams(s, fresh, name)
    yield "mul_constant", lambda: [act.mul_constant(s, 0.5)], lambda: [s.double() * 0.5]
    for algorithm, (save, bias) in itertools.product(choice.ALGORITHMS[1:], ((False, b), (True, b), (True, None))):
        yield (
            f"linear_act by {algorithm}{', saved' * save}{', no bias' * (bias is None)}",
            lambda algorithm=algorithm, save=save, bias=bias: linear_act.compute(
                algorithm, x, w, bias, name, 1.0, save
            ),
            lambda save=save, bias=bias: ops.linear_act.reference(
                *wide(x, w), bias if bias is None else bias.double(), name, 1.0, save
            ),
        )
    for at, kind in ((gy, ""), (gy.sum().expand(m, n), " of a sum")):
        yield (
            f"linear_act_backward{kind}",
            lambda at=at: linear_act.linear_act_backward(at, x, w, s, name, 1.0, True, True, True),
            lambda at=at: ops.linear_act_backward.reference(*wide(at, x, w, s), name, 1.0, True, True, True),
        )

    w_up, up, none = fresh(n, k) / k**0.5, fresh(m, n), None
    for algorithm, save in itertools.product(choice.ALGORITHMS[1:], (False, True)):
        for b_gate, b_up in ((b, none), (none, b)):
            yield (
                f"gated by {algorithm}{', saved' * save}{', no bias of the gate' * (b_gate is none)}",
                lambda algorithm=algorithm, save=save, biases=(b_gate, b_up): gated.compute(
                    algorithm, x, w, w_up, *biases, name, 1.0, save
                ),
                lambda save=save, biases=(b_gate, b_up): ops.gated.reference(
                    *wide(x, w, w_up), *(t if t is none else t.double() for t in biases), name, 1.0, save
                ),
            )
    for needed in ((True,) * 5, (False, True, False, False, True)):
        yield (
            f"gated_backward {needed}",
            lambda needed=needed: gated.gated_backward(gy, x, w, w_up, s, up, name, 1.0, *needed),
            lambda needed=needed: ops.gated_backward.reference(*wide(gy, x, w, w_up, s, up), name, 1.0, *needed),
        )

    def mm_dact_reference() -> list[Tensor]:
        made = ops.act.reference(s.double(), gz.double() @ b_kn.double(), name, 1.0, 1)
        return [made, made.sum(0)]

    if dtype != torch.float64:
        yield "mm_dact", lambda: gemm.mm_dact(gz, b_kn, s, name, 1.0), mm_dact_reference


def of_streams(z: Tensor, fresh: Callable[..., Tensor], name: str) -> Iterator[Check]:
    """An activation with three tangents and a second-order part, and its gradients: by nested autograd."""
    given, cotangents = ([fresh(*shape, *z.shape) for shape in ((3,), (1,))] for _ in range(2))
    given, cotangents = [z, *given], [fresh(*z.shape), *cotangents]

    def truth() -> list[Tensor]:
        leaves = [s.double().requires_grad_() for s in given]
        a, (z, t, l) = REGISTRY[name], leaves  # noqa: E741  # as in the formulas
        y = a.value(z, 1.0)
        (first,) = torch.autograd.grad(y.sum(), z, create_graph=True)
        (second,) = torch.autograd.grad(first.sum(), z, create_graph=True)
        made = y, first * t, first * l + second * t.square().sum(0, keepdim=True)
        return [*made, *torch.autograd.grad(made, leaves, [c.double() for c in cotangents])]

    yield (
        "act_streams and its backward",
        lambda: [
            *act_streams.act_streams(*given, name, 1.0),
            *act_streams.act_streams_backward(*cotangents, *given, name, 1.0, 7),
        ],
        truth,
    )


def of_chains(dtype: torch.dtype, sizes: tuple[int, int, int], name: str, device: str) -> Iterator[Check]:
    """Networks of such widths in one kernel: y, y and all gradients."""
    rows, *widths = sizes
    widths += (16, 128, 3) if widths[0] % 8 == 0 else (100, 1)
    generator = torch.Generator(device).manual_seed(0)
    fresh = lambda *shape: torch.randn(*shape, generator=generator, device=device).to(dtype)
    x, gy, count = fresh(rows, widths[0]), fresh(rows, widths[-1]), len(widths) - 1
    for bias in (True, False):
        weights = [t for k, n in pairwise(widths) for t in (fresh(n, k) / k**0.5, fresh(n) if bias else None)]
        of = plan((name,) * (count - 1) + ("identity",), (1.0,) * count, (bias,) * count)
        if not chain.takes(x, widths[1:], of.names):
            return
        truth = lambda weights=weights, of=of: chain.compute(
            "stock", gy.double(), x.double(), [t if t is None else t.double() for t in weights], of
        )
        what = f"chain of {widths}{', no bias' * (not bias)}"
        yield (
            what,
            lambda weights=weights, of=of: chain.forward(x, weights, of, False)[:1],
            lambda truth=truth: truth()[:1],
        )
        yield f"{what}, gradients", lambda weights=weights, of=of: chain.compute("triton", gy, x, weights, of), truth


def main(device: str, *options: str) -> int:
    """Run all, or with --smoke those of one dtype, size and activation, whatever fails, and return the exit code."""
    if backends.INTERPRETED:
        interpreter.repair()
    wrong = count = 0
    few = slice(1 if "--smoke" in options else None)
    for dtype, sizes, name in itertools.product([*DTYPES][few], SIZES[few], ACTS[few]):
        for what, ours, truth in (*checks(dtype, sizes, name, device), *of_chains(dtype, sizes, name, device)):
            count += 1
            try:
                off = error(ours(), truth())
                said = "" if off <= DTYPES[dtype] else f"error {off:.1e}"
            except Exception as e:
                said = f"{type(e).__name__}: {str(e).strip().splitlines()[-1:]}"
            if said:
                wrong += 1
                print(f"{what}, {name}, {dtype}, {sizes}: {said}")
    if device == "cuda":
        torch.cuda.synchronize()
    print(f"{count - wrong} of {count} right")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
