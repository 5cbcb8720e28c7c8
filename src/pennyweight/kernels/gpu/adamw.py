"""AdamW: one step on moments written as int8 and log8 in blocks, read, averaged, used and written in one kernel.

The reference is optim/update.py. log2 and exp2 are the GPU's own (2^-22), so that a code may differ by one step where
a value lies between two; everything else is rounded as there.
"""

from torch import Tensor

from pennyweight.kernels.gpu.language import blocks, constexpr, jit, tl
from pennyweight.kernels.gpu.noise import halves, risen
from pennyweight.kernels.gpu.scaling import INFINITY_BITS, TINY, WHOLE, divided, magnitude_bits, scale_of

TOGETHER = 1024  # elements of one program: 8 a thread of 4 warps
MOST = tl.constexpr(3.4028234663852886e38)  # the largest float32
NO_BITS = tl.constexpr(0x7FFFFFFF)


@jit
def _most(bits, SMALL: constexpr):
    """[U, R, C] -> the largest of each block: of C elements if `SMALL`, else of R C."""
    most = tl.max(bits, 2, keep_dims=True)
    return most if SMALL else tl.max(most, 1, keep_dims=True)


@jit
def _least(bits, SMALL: constexpr):
    least = tl.min(bits, 2, keep_dims=True)
    return least if SMALL else tl.min(least, 1, keep_dims=True)


@jit
def _m_code(m, scale, u, NOISE: constexpr):
    y = divided(m, scale)
    if NOISE:
        lower = tl.floor(y)
        y = tl.minimum(tl.maximum(risen(lower, y - lower, u), -127.0), 127.0)
    else:
        y = (y + WHOLE) - WHOLE
    return y.to(tl.int8)


@jit
def _less_one(x):
    """e^x - 1 for x in [-88, 0]."""
    series = x * (1.0 + x * 0.5 * (1.0 + x * (1 / 3) * (1.0 + x * 0.25 * (1.0 + x * 0.2 * (1.0 + x * (1 / 6))))))
    return tl.where(x > -0.25, series, tl.exp2(x * 1.4426950408889634) - 1.0)


@jit
def _v_code(v, high, span, u, OCTAVES: constexpr, NOISE: constexpr):
    """Steps above the block's least value: companding.py's `LogRange.index`, counted from below."""
    flat = span <= 0.0
    wide = tl.where(flat, 1.0, span)
    y = tl.minimum(tl.maximum(divided(v, tl.where(flat, 1.0, high)), 2.0**-OCTAVES), 1.0)
    down = tl.log2(y) * tl.div_rn(-255.0, wide)
    if NOISE:
        step = wide / 255.0
        snap = 4e-7 / step + 1e-4
        factor = (1.0 + 2.0 * snap) / _less_one(step * -0.6931471805599453)
        lower = tl.floor(down)
        part = tl.exp2((down - lower) * -step)
        down = risen(lower, part * factor - (factor + snap), u)
    else:
        down = (down + WHOLE) - WHOLE
    return tl.where(flat, 255.0, 255.0 - tl.minimum(down, 255.0)).to(tl.int32).to(tl.uint8)


@jit(do_not_specialize=["size", "m_low", "m_high", "v_low", "v_high", "start"])
def _adamw_kernel(
    weights_ptr, gradient_ptr, m_ptr, m_scales_ptr, v_ptr, v_scales_ptr, spans_ptr, size,
    decay, rise_m, keep_v, rise_v, correction, step_size, eps, m_low, m_high, v_low, v_high, start,
    UNITS: constexpr, RATIO: constexpr, SMALL: constexpr, M_SMALL: constexpr, V_SMALL: constexpr,
    M_NOISE: constexpr, V_NOISE: constexpr, OCTAVES: constexpr,
):  # fmt: skip
    unit = (tl.program_id(0).to(tl.int64) * UNITS + tl.arange(0, UNITS))[:, None, None]
    small = unit * RATIO + tl.arange(0, RATIO)[None, :, None]
    place = small * SMALL + tl.arange(0, SMALL)[None, None, :]
    inside = place < size
    m_block, v_block = small if M_SMALL else unit, small if V_SMALL else unit
    m_there = m_block * (SMALL if M_SMALL else SMALL * RATIO) < size
    v_there = v_block * (SMALL if V_SMALL else SMALL * RATIO) < size

    g = tl.load(gradient_ptr + place, mask=inside, other=0.0).to(tl.float32)
    m = tl.load(m_ptr + place, mask=inside, other=0).to(tl.float32)
    m = m * tl.load(m_scales_ptr + m_block, mask=m_there, other=0.0)
    below = 255.0 - tl.load(v_ptr + place, mask=inside, other=0).to(tl.float32)
    spread = tl.load(spans_ptr + v_block, mask=v_there, other=0.0) * (-1.0 / 255.0)
    v = tl.exp2(below * spread) * tl.load(v_scales_ptr + v_block, mask=v_there, other=0.0)

    m = m + (g - m) * rise_m
    v = tl.where(inside, v * keep_v + g * rise_v * g, 0.0)
    v = tl.where(v > MOST, MOST, v)  # g^2 overflows from |g| = 1.8e19; an infinity would take its block along
    w = tl.load(weights_ptr + place, mask=inside, other=0.0) * decay
    w = w - tl.div_rn(m * step_size, tl.sqrt_rn(v) * correction + eps)
    tl.store(weights_ptr + place, w, mask=inside)

    m_scale = scale_of(_most(tl.where(inside, magnitude_bits(m), 0), M_SMALL), 127.0)
    m_u = halves(place + start, m_low, m_high) if M_NOISE else 0.0
    tl.store(m_ptr + place, _m_code(m, m_scale, m_u, M_NOISE), mask=inside)
    tl.store(m_scales_ptr + m_block, m_scale, mask=m_there)

    bits = magnitude_bits(v)
    most, least = _most(bits, V_SMALL), _least(tl.where(bits > 0, bits, NO_BITS), V_SMALL)
    finite = most < INFINITY_BITS
    high = tl.where(finite, most, 0).to(tl.float32, bitcast=True)
    high = tl.where(high < TINY, 0.0, high)
    live = high > 0.0
    low = tl.where(live, tl.minimum(least, most), INFINITY_BITS - 1).to(tl.float32, bitcast=True)
    span = tl.minimum(tl.log2(tl.div_rn(tl.where(live, high, low), low)), OCTAVES)
    v_u = halves(place + start, v_low, v_high) if V_NOISE else 0.0
    tl.store(v_ptr + place, _v_code(v, high, span, v_u, OCTAVES, V_NOISE), mask=inside)
    tl.store(v_scales_ptr + v_block, tl.where(finite, high, float("nan")), mask=v_there)
    tl.store(spans_ptr + v_block, span, mask=v_there)


def step(
    weights: Tensor, gradient: Tensor, m_codes: Tensor, m_scales: Tensor, m_block: int,
    v_codes: Tensor, v_scales: Tensor, v_spans: Tensor, v_block: int,
    scalars: list[float], m_key: int | None, v_key: int | None, start: int,
) -> None:  # fmt: skip
    """In place, on flat tensors; blocks are powers of two. The arguments are those of cpu/operators.cpp's `adamw_step`.

    scalars: decay, rise of m, what is kept of v, rise of v, correction, size, eps, octaves of v's format.
    """
    large, small = max(m_block, v_block), min(m_block, v_block)
    units = max(1, TOGETHER // large)
    *numbers, octaves = scalars
    _adamw_kernel[(blocks(weights.numel(), units * large),)](
        weights, gradient, m_codes, m_scales, v_codes, v_scales, v_spans, weights.numel(), *numbers,
        *_halves(m_key), *_halves(v_key), start,
        UNITS=units, RATIO=large // small, SMALL=small, M_SMALL=m_block == small, V_SMALL=v_block == small,
        M_NOISE=m_key is not None, V_NOISE=v_key is not None, OCTAVES=octaves,
        num_warps=4, enable_fp_fusion=False,
    )  # fmt: skip


def _halves(key: int | None) -> tuple[int, int]:
    """The lower and the upper 32 bits of a 64-bit key, as signed numbers."""
    return tuple((((key or 0) >> shift & 0xFFFFFFFF) ^ 1 << 31) - (1 << 31) for shift in (0, 32))  # type: ignore[return-value]
