"""What torch.utils.flop_counter counts: matrix products, as in stock; elementwise work is not counted there."""

import math

from torch.utils.flop_counter import register_flop_formula

from ..ops import OPS, chain, chain_derivatives, chain_streams


@register_flop_formula(OPS["mm"].overloadpacket)
def _(a_shape, b_shape, trans_a, trans_b, *args, out_shape, **kwargs) -> int:
    return 2 * math.prod(a_shape) * out_shape[1]


@register_flop_formula([OPS[name].overloadpacket for name in ("linear", "linear_act")])
def _(x_shape, w_shape, *args, **kwargs) -> int:
    return 2 * math.prod(x_shape) * w_shape[0]


@register_flop_formula(OPS["linear_act_backward"].overloadpacket)
def _(gy_shape, x_shape, w_shape, s_shape, act, param, need_x, need_w, *args, **kwargs) -> int:
    return 2 * math.prod(x_shape) * w_shape[0] * (need_x + need_w)


@register_flop_formula(OPS["mm_dact"].overloadpacket)
def _(a_shape, b_shape, *args, **kwargs) -> int:
    return 2 * math.prod(a_shape) * b_shape[1]


@register_flop_formula(OPS["mlp"].overloadpacket)
def _(x_shape, w1_shape, b1_shape, w2_shape, *args, **kwargs) -> int:
    return 2 * math.prod(x_shape[:-1]) * (math.prod(w1_shape) + math.prod(w2_shape))


@register_flop_formula(OPS["gated"].overloadpacket)
def _(x_shape, w_gate_shape, *args, **kwargs) -> int:
    return 4 * math.prod(x_shape) * w_gate_shape[0]


@register_flop_formula(OPS["gated_backward"].overloadpacket)
def _(gy_shape, x_shape, w_gate_shape, w_up_shape, s_shape, up_shape, act, param, *needed, **kwargs) -> int:
    need_x, need_w_gate, need_w_up = needed[:3]
    return 2 * math.prod(x_shape) * w_gate_shape[0] * (2 * need_x + need_w_gate + need_w_up)


@register_flop_formula(chain.FORWARD.overloadpacket)
def _(x_shape, weight_shapes, *args, **kwargs) -> int:
    return 2 * math.prod(x_shape[:-1]) * sum(math.prod(w) for w in weight_shapes[::2])


@register_flop_formula(chain.BACKWARD.overloadpacket)
def _(gy_shape, x_shape, weight_shapes, y_shape, saved_shape, acts, needed, **kwargs) -> int:
    """Each layer multiplies for gw, if needed, and for the gradient of its input, if that or one further on is."""
    sizes = [math.prod(w) for w in weight_shapes[::2]]
    need_w = [bool(needed >> (1 + 2 * layer) & 1) for layer in range(len(sizes))]
    through = sum(sizes if needed & 1 else sizes[(needed & -needed).bit_length() // 2 :])  # from the lowest bit on
    return 2 * math.prod(x_shape[:-1]) * (sum(n * s for n, s in zip(need_w, sizes, strict=True)) + through)


@register_flop_formula(chain_derivatives.SLOPE.overloadpacket)
def _(c_shape, x_shape, weight_shapes, *args, **kwargs) -> int:
    return 2 * math.prod(x_shape[:-1]) * sum(math.prod(w) for w in weight_shapes[::2])


@register_flop_formula(chain_derivatives.DERIVATIVES.overloadpacket)
def _(gy, t, f, gl, x_shape, weight_shapes, y, saved, cotangents, acts, needed, **kwargs) -> int:
    """Forward t, and tangents along all features if there are forms; back value, tangents and l, if that is not kept.

    The first layer multiplies values and t alone, the last not forward, unless l is asked for.
    """
    sizes = [math.prod(w) for w in weight_shapes[::2]]
    r, of_t = x_shape[-1] if f is not None else 0, t is not None
    forward = [size * (r + 1 if i else of_t) for i, size in enumerate(sizes)]
    of_w = [size * (r + 2 if i else 1 + of_t) for i, size in enumerate(sizes)]
    back = [size * (r + 2 - (cotangents is not None) if i else 1) for i, size in enumerate(sizes)]
    need_w = [needed >> (2 + 2 * layer) & 1 for layer in range(len(sizes))]
    lowest = (needed & ~1 & -(needed & ~1)).bit_length() - 1  # but for l
    through = back if lowest == 1 else back[lowest // 2 :] if lowest > 0 else []
    total = sum(forward if needed & 1 else forward[:-1]) + sum(through)
    return 2 * math.prod(x_shape[:-1]) * (total + sum(n * p for n, p in zip(need_w, of_w, strict=True)))


@register_flop_formula([chain_streams.STREAMS.overloadpacket, chain_streams.TAYLOR.overloadpacket])
def _(x_shape, t_shape, l_shape, weight_shapes, *args, **kwargs) -> int:
    """A layer multiplies r + 2 streams; the first no l that is zero, and one row of each t that is the same for all."""
    m, streams, of_first = _streams(x_shape, t_shape)
    sizes = [math.prod(w) for w in weight_shapes[::2]]
    first = m * (of_first - (of_first > 1 and l_shape is None)) + (streams - 2 if of_first == 1 else 0)
    return 2 * (first * sizes[0] + m * streams * sum(sizes[1:]))


@register_flop_formula([chain_streams.STREAMS_BACKWARD.overloadpacket, chain_streams.TAYLOR_BACKWARD.overloadpacket])
def _(gy_shape, gty_shape, gly_shape, x_shape, t_shape, l_shape, weight_shapes, saved_shape, acts, needed, **kw) -> int:
    """As of a chain, of r + 2 streams; in the first layer of x alone, where t is the same for all rows."""
    m, streams, of_first = _streams(x_shape, t_shape)
    sizes = [math.prod(w) for w in weight_shapes[::2]]
    products = [m * size * (streams if i else of_first) for i, size in enumerate(sizes)]
    need_w = [bool(needed >> (3 + 2 * layer) & 1) for layer in range(len(sizes))]
    lowest = (needed & -needed).bit_length() - 1
    through = products if lowest < 3 else products[(lowest - 3) // 2 + 1 :]
    return 2 * (sum(n * p for n, p in zip(need_w, products, strict=True)) + sum(through))


def _streams(x_shape, t_shape) -> tuple[int, int, int]:
    """Rows, streams, and of how many of them the first layer is multiplied for each row."""
    alike = len(t_shape) == 2 and len(x_shape) != 1
    return math.prod(x_shape[:-1]), t_shape[0] + 2, 1 if alike else t_shape[0] + 2
