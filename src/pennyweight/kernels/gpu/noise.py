"""Noise: the counted uniform numbers of numerics/noise.py, the same bits in Triton."""

from pennyweight.kernels.gpu.language import jit, tl


@jit
def mixed(x):
    """The 32-bit hash "lowbias32"."""
    x = x ^ (x >> 16)
    x = x * 0x7FEB352D
    x = x ^ (x >> 15)
    x = x * 0x846CA68B
    return x ^ (x >> 16)


@jit
def uniform(index, key_low, key_high):
    """Uniform float32 in [0, 1), multiples of 2^-24, of the elements `index` (int64) under a key in two halves."""
    low, high = index.to(tl.uint32), (index >> 32).to(tl.uint32)
    once = mixed(low ^ key_low.to(tl.uint32))
    twice = mixed(once + (high * 0x9E3779B9 + key_high.to(tl.uint32)))
    return (twice >> 8).to(tl.float32) * (2.0**-24)


@jit
def risen(lower, up, u):
    """The whole number below, or the one above where the noise says so: with probability `up`."""
    return lower + tl.where(u < up, 1.0, 0.0)
