"""Scaling: what a group of numbers is divided by, and which code each of them gets.

Quotients are rounded as IEEE says (`div_rn`) and nothing is contracted, so that codes and scales are those of
`Cast.write` bit for bit. The launches say `enable_fp_fusion=False`.
"""

from pennyweight.kernels.gpu.language import constexpr, jit, tl

TINY = tl.constexpr(2.0**-126)  # as numerics/grids.py: a group whose scale would lie below is written as zeros
INFINITY_BITS = tl.constexpr(0x7F800000)
# Adding and subtracting 1.5 * 2^23 leaves the nearest integer, ties to even, of anything up to 2^22.
WHOLE = tl.constexpr(1.5 * 2.0**23)


@jit
def magnitude_bits(y):
    """The bits of |y|, which sort as magnitudes do, NaN above all numbers."""
    return y.to(tl.int32, bitcast=True) & 0x7FFFFFFF


@jit
def scale_of(bits, LIMIT: constexpr):
    """A group's scale from the bits of its largest magnitude: 0 for zeros, NaN for one that is not finite."""
    largest = tl.where(bits < INFINITY_BITS, bits, 0).to(tl.float32, bitcast=True)
    scale = tl.where(largest < LIMIT * TINY, 0.0, tl.div_rn(largest, LIMIT * 1.0))
    return tl.where(bits < INFINITY_BITS, scale, float("nan"))


@jit
def divided(y, scale):
    """y / scale; 0 in groups of zeros and in those that are not finite."""
    live = scale > 0.0
    return tl.where(live, tl.div_rn(tl.where(live, y, 0.0), tl.where(live, scale, 1.0)), 0.0)


@jit
def int8_code(y, scale):
    """The nearest of -127 .. 127, ties to even."""
    return ((divided(y, scale) + WHOLE) - WHOLE).to(tl.int8)


@jit
def float8_code(y, scale, MANTISSA: constexpr, LEAST: constexpr):
    """The nearest number of a float8 format with `MANTISSA` bits and `LEAST` as its smallest normal, as float32."""
    y = divided(y, scale)
    power = tl.maximum((y.to(tl.int32, bitcast=True) & INFINITY_BITS).to(tl.float32, bitcast=True), LEAST)
    shift = power * (1.5 * 2.0 ** (23 - MANTISSA))  # the last bit of the sum weighs one step: it rounds by itself
    return (y + shift) - shift
