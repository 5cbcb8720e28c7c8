"""Noise: the counted uniform numbers of numerics/noise.py, the same bits in Triton."""

from pennyweight.kernels.gpu.language import jit, tl


@jit
def halves(index, key_low, key_high):
    """noise.py's `halves`, float32 in (0, 1), of the elements `index` (int64) under a key in two halves."""
    word = index >> 1
    low, high = word.to(tl.uint32), (word >> 32).to(tl.uint32)
    x = low ^ key_low.to(tl.uint32)
    x = (x ^ (x >> 16)) * 0x7FEB352D
    x = x ^ (x >> 15)
    x = (x + (high * 0x9E3779B9 + key_high.to(tl.uint32))) * 0x846CA68B
    x = x ^ (x >> 16)
    half = tl.where((index & 1) == 1, x >> 16, x & 0xFFFF)
    return (half.to(tl.float32) + 0.5) * (2.0**-16)


@jit
def risen(lower, up, u):
    """The whole number below, or the one above where the noise says so: with probability `up`."""
    return lower + tl.where(u < up, 1.0, 0.0)
