"""The kernels of chain.py: a whole network in one, and its gradients in one and a small one that adds up.

y = act_n(... act_1(x w_1^T + b_1) ...), of layers up to 128 wide. A program takes a tile of rows through all layers:
what one makes stays in registers until the next multiplies it, and weights come from L2, which all programs share.
Widths are filled up to a power of two, and layers are written out one after the other by the compiler. Weights are a
tuple, so that nothing is packed: each is read where it is.

`saved` has, one after the other, an (m, n) matrix of each layer but the last: z or y, what its activation saves, and y
where it has none; and of the last if that saves its input. From these backward makes what else it needs.

Backward goes layer by layer, from the last: a program takes some rows, the same each time, and passes over them by
tiles, once for each layer

    gz = gy D_1(s),  gw += gz^T h,  gb += the sum of gz,  gh = gz w    with h the input of the layer

with gw in registers, and gh, the gy of the layer before, in memory that no other program reads: it stays in L2. Each
program's gw and gb go to a row of `sums`, which a second kernel adds up, always in the same order. To keep gw of all
layers in registers would need n^2 of them for each; to write gz, and multiply it later, a launch for each layer, and
more bytes, as h would have to be written too where z is saved.
"""

import triton.language as tl
from triton import jit


@jit
def weight(w, first: tl.constexpr, n: tl.constexpr, k: tl.constexpr, N: tl.constexpr, K: tl.constexpr):
    """Of a weight, (n, k), the columns from the first on, (N, K), zero beyond what there is."""
    j, i = tl.arange(0, N)[:, None], (first + tl.arange(0, K))[None, :]
    if n == N and k % K == 0:
        return tl.load(w + j * k + i)
    else:
        return tl.load(w + j * k + i, (j < n) & (i < k), other=0.0)


@jit
def parameter(high, low, A: tl.constexpr):
    """Of two parts, as numbers in a tuple are float32."""
    return tl.full([], high, A) + tl.full([], low, A)


@jit
def layer(
    h, w, b, high, low, saved, y, row, inside,
    D: tl.constexpr, n: tl.constexpr, k: tl.constexpr, N: tl.constexpr, K: tl.constexpr,
    KEEPS: tl.constexpr, LAST: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """What a layer makes of a tile of rows, zero beyond n. KEEPS says which of "z" and "y" is saved, if any."""
    T: tl.constexpr = h.dtype
    A: tl.constexpr = tl.float64 if T == tl.float64 else tl.float32
    z = tl.dot(h, weight(w, 0, n, k, N, K).T, out_dtype=A, input_precision=PRECISION)
    j = tl.arange(0, N)
    if b is not None:
        z += tl.load(b + j, j < n, other=0.0).to(A)[None, :]
    to = row * n + j[None, :]
    within = inside & (j < n)[None, :]
    if KEEPS == "z":
        tl.store(saved + to, z.to(T), within)
    made = D(z, parameter(high, low, A)).to(T)
    if KEEPS == "y":
        tl.store(saved + to, made, within)
    if LAST:
        tl.store(y + to, made, within)
    return made if n == N else tl.where((j < n)[None, :], made, 0.0)  # act(0) may be anything


@jit
def chain_kernel(
    x, weights, y, saved, scalars, m, x_row, x_column,
    D: tl.constexpr, SOURCES: tl.constexpr, WIDTHS: tl.constexpr, PADDED: tl.constexpr, KEEPS: tl.constexpr,
    SAVE: tl.constexpr, PRECISION: tl.constexpr, BLOCK_M: tl.constexpr,
):  # fmt: skip
    row = (tl.program_id(0).to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M))[:, None]
    inside = row < m
    column = tl.arange(0, PADDED[0])[None, :]
    h = tl.load(x + row * x_row + column * x_column, inside & (column < WIDTHS[0]), other=0.0)
    at = saved
    for i in tl.static_range(len(WIDTHS) - 1):
        h = layer(
            h, weights[2 * i], weights[2 * i + 1], scalars[2 * i], scalars[2 * i + 1], at, y, row, inside,
            D[i], WIDTHS[i + 1], WIDTHS[i], PADDED[i + 1], PADDED[i],
            KEEPS[i] if SAVE else "", i == len(WIDTHS) - 2, PRECISION,
        )  # fmt: skip
        if KEEPS[i] != "":
            at += tl.full([], m, tl.int64) * WIDTHS[i + 1]


@jit
def layer_backward(
    gy, gy_row, gy_column, s_ptr, high, low, h_ptr, h_row, h_column, high_before, low_before, w, gh_ptr, sums,
    first, m, part,
    FIRST: tl.constexpr, VALUE: tl.constexpr, n: tl.constexpr, k: tl.constexpr, N: tl.constexpr, K: tl.constexpr,
    NEED_H: tl.constexpr, NEED_W: tl.constexpr, PRECISION: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """The gradients of a layer, of `part` rows, for BLOCK_K of its inputs after the other, if there are more.

    Its input is h, or VALUE of that; FIRST and VALUE are None for no activation.
    """
    T: tl.constexpr = gy.dtype.element_ty
    A: tl.constexpr = tl.float64 if T == tl.float64 else tl.float32
    C: tl.constexpr = K if K < BLOCK_K else BLOCK_K
    j = tl.arange(0, N)
    for chunk in tl.static_range(K // C):
        i = chunk * C + tl.arange(0, C)
        if NEED_W:
            gw = tl.zeros((N, C), A)
            gb = tl.zeros((N,), A)
        for start in range(0, part, BLOCK_M):
            row = (first + start + tl.arange(0, BLOCK_M))[:, None]
            of_y, of_h = (row < m) & (j < n)[None, :], (row < m) & (i < k)[None, :]
            gz = tl.load(gy + row * gy_row + j[None, :] * gy_column, of_y, other=0.0)
            if FIRST is not None:
                s = tl.load(s_ptr + row * n + j[None, :], of_y, other=0.0)
                gz = FIRST(gz.to(A), s.to(A), parameter(high, low, A)).to(T)
                gz = tl.where(of_y, gz, 0.0)  # D may be no number where nothing was read
            if NEED_W:
                h = tl.load(h_ptr + row * h_row + i[None, :] * h_column, of_h, other=0.0)
                if VALUE is not None:
                    h = tl.where(of_h, VALUE(h.to(A), parameter(high_before, low_before, A)).to(T), 0.0)
                gw = tl.dot(gz.T, h, gw, out_dtype=A, input_precision=PRECISION)
                if chunk == 0:
                    gb += tl.sum(gz.to(A), 0)
            if NEED_H:
                of_w = weight(w, chunk * C, n, k, N, C)
                gh = tl.dot(gz, of_w, out_dtype=A, input_precision=PRECISION)
                tl.store(gh_ptr + row * k + i[None, :], gh.to(T), of_h)
        if NEED_W:
            tl.store(sums + j[:, None] * k + i[None, :], gw, (j < n)[:, None] & (i < k)[None, :])
            if chunk == 0:
                tl.store(sums + n * k + j, gb, j < n)


@jit
def chain_backward_kernel(
    gy, x, weights, y, saved, scalars, gx, g, sums, m, part, gy_row, gy_column, x_row, x_column,
    VALUES: tl.constexpr, FIRSTS: tl.constexpr, SOURCES: tl.constexpr, WIDTHS: tl.constexpr, PADDED: tl.constexpr,
    KEEPS: tl.constexpr, WIDEST: tl.constexpr, SIZE: tl.constexpr, LOWEST: tl.constexpr,
    NEED_X: tl.constexpr, NEED_W: tl.constexpr, PRECISION: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """Of `part` rows, and of the layers from LOWEST on. g has room for two gh, as one is read while one is written."""
    first = tl.program_id(0).to(tl.int64) * part
    to = sums + tl.program_id(0).to(tl.int64) * SIZE
    rows = tl.full([], m, tl.int64)
    at = saved
    for i in tl.static_range(len(KEEPS)):
        if KEEPS[i] != "":
            at += rows * WIDTHS[i + 1]
    for i in tl.static_range(len(KEEPS) - 1, LOWEST - 1, -1):
        if KEEPS[i] != "":
            at -= rows * WIDTHS[i + 1]
        last = i == len(KEEPS) - 1
        layer_backward(
            gy if last else g + (i % 2) * rows * WIDEST,
            gy_row if last else WIDTHS[i + 1],
            gy_column if last else 1,
            at if KEEPS[i] != "" else y,
            scalars[2 * i],
            scalars[2 * i + 1],
            x if i == 0 else at - rows * WIDTHS[i],
            x_row if i == 0 else WIDTHS[i],
            x_column if i == 0 else 1,
            scalars[2 * i - 2] if i > 0 else 0.0,
            scalars[2 * i - 1] if i > 0 else 0.0,
            weights[2 * i],
            gx if i == 0 else g + ((i + 1) % 2) * rows * WIDEST,
            to, first, m, part,
            FIRSTS[i], VALUES[i - 1] if i > 0 and KEEPS[i - 1] == "z" else None,
            WIDTHS[i + 1], WIDTHS[i], PADDED[i + 1], PADDED[i],
            i > LOWEST or NEED_X, NEED_W, PRECISION, BLOCK_M, BLOCK_K,
        )  # fmt: skip
        to += WIDTHS[i + 1] * WIDTHS[i] + WIDTHS[i + 1]
        if i > LOWEST:
            tl.debug_barrier()  # what some threads have written others read


@jit
def chain_sums_kernel(
    sums, outs, parts, STARTS: tl.constexpr, SIZE: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr
):
    """The sum of the rows of a contiguous matrix (parts, SIZE), in pieces: the i-th from column STARTS[i] on."""
    column = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    total = tl.full([BLOCK_M, BLOCK_N], 0.0, sums.dtype.element_ty)
    for start in range(0, parts, BLOCK_M):
        part = start + tl.arange(0, BLOCK_M)[:, None].to(tl.int64)
        inside = (part < parts) & (column < SIZE)[None, :]
        total += tl.load(sums + part * SIZE + column[None, :], inside, other=0.0)
    added = tl.sum(total, 0)
    for i in tl.static_range(len(STARTS) - 1):
        if outs[i] is not None:
            within = (column >= STARTS[i]) & (column < STARTS[i + 1])
            tl.store(outs[i] + (column - STARTS[i]), added.to(outs[i].dtype.element_ty), within)
