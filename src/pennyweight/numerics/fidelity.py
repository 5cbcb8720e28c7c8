"""Fidelity: how much of a tensor is left after it was written, in decibels and by the ways that writing goes wrong."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from pennyweight.numerics.casts import Cast, Quantized
from pennyweight.numerics.companding import Expanded, LogRange
from pennyweight.numerics.integers import Shifted


@dataclass(frozen=True)
class Fidelity:
    """What writing did to a tensor.

    db:              10 log10(sum x^2 / sum (x - x_hat)^2); inf where nothing was lost
    cosine:          of the angle between x and x_hat
    bias:            sum (x_hat - x) / sum |x|
    codes_used:      distinct codes; None where only the rounded tensor is known, or the format has more than 8 bits
    zero_share:      numbers that became 0 and were not
    saturated_share: numbers beyond the format's largest value under their scale, by more than float rounding;
                     0 where only the rounded tensor is known
    nonfinite:       NaN and Inf in x; the other figures leave out the groups that hold them
    """

    db: float
    cosine: float
    bias: float
    codes_used: int | None
    zero_share: float
    saturated_share: float
    nonfinite: int


@torch.no_grad()
def fidelity(x: Tensor, written: Cast | Tensor, *, key: int | None = None) -> Fidelity:
    """Compares x with what a cast makes of it (`key`: its noise), or with an already rounded tensor of the same shape.

    An empty tensor, and one of zeros that stays zeros, has lost nothing. Raises ValueError for another shape.
    """
    if isinstance(written, Cast):
        quantized = written.write(x, key)
        rounded = quantized.read(torch.float64)
        codes_used = None if written.native else distinct(quantized.codes_matrix())
        saturated = _saturated(x, quantized)
    else:
        rounded, codes_used, saturated = written.to(torch.float64), None, 0.0
    if rounded.shape != x.shape:
        raise ValueError(f"fidelity compares tensors of one shape, got {tuple(x.shape)} and {tuple(rounded.shape)}")
    x = x.to(torch.float64)
    nonfinite = int((~x.isfinite()).sum())
    if nonfinite:
        kept = x.isfinite() & rounded.isfinite()
        x, rounded = x[kept], rounded[kept]
    error = rounded - x
    signal, noise = float(x.square().sum()), float(error.square().sum())
    total = float(x.abs().sum())
    lengths = math.sqrt(signal) * float(rounded.norm())
    return Fidelity(
        db=10 * math.log10(signal / noise) if noise and signal else (-math.inf if noise else math.inf),
        cosine=float((x * rounded).sum()) / lengths if lengths else float(noise == 0),
        bias=float(error.sum()) / total if total else 0.0,
        codes_used=codes_used,
        zero_share=float(((rounded == 0) & (x != 0)).sum()) / max(x.numel(), 1),
        saturated_share=saturated,
        nonfinite=nonfinite,
    )


def distinct(codes: Tensor) -> int:
    """How many different codes there are among int8 or uint8 ones. Ancestor: `codes.unique().numel()`, which sorts."""
    return int(torch.bincount(codes.view(torch.uint8).flatten()).count_nonzero())


def _saturated(x: Tensor, quantized: Quantized) -> float:
    """The share of numbers that lie beyond the largest value of the format under their group's scale."""
    cast = quantized.cast
    if cast.native or isinstance(cast.format, Shifted | LogRange | Expanded) or x.numel() == 0:
        return 0.0
    C = x.shape[-1] if x.dim() else 1
    matrix = x.to(torch.float64).reshape(-1, C)
    if cast.rotation:
        matrix = cast.rotation(matrix)
    scales = quantized.scale_values().to(torch.float64)
    if cast.scale.number == "one":
        scales = matrix.new_ones(1, 1)
    if cast.scale.block is not None:
        scales = scales.repeat_interleave(cast.scale.block, 1)[:, :C]
    if cast.scale.granularity == "square":
        scales = scales.repeat_interleave(cast.scale.size, 0)[: matrix.shape[0]]
    bound = cast.format.max * scales * (1 + 2.0**-20)  # in float32, a / (a / 127) may exceed 127 by an ulp
    return float(((matrix.abs() > bound) & (scales > 0)).sum()) / x.numel()
