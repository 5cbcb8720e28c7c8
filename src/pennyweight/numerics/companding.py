"""Companding formats: values spread over each block's own range, smallest to largest, so that nothing becomes zero."""

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from pennyweight.numerics.minifloats import MINIFLOATS
from pennyweight.numerics.rounding import up_


@dataclass(frozen=True)
class LogRange:
    """Zero-free numbers 2^(-span (1 - code/N)), N = 2^bits - 1, spread evenly in log2 over the block's own range.

    For the second moment, which spans decades and must never become 0. A block keeps its largest value (the scale) and
    `span`, octaves from it down to its smallest positive value, at most `octaves`; what lies below is raised to there.
    Nearest means nearest in log2; stochastic rounding is linear in value.
    """

    name: str
    bits: int
    octaves: float

    signed = False
    has_zero = False
    max = 1.0

    @property
    def steps(self) -> int:
        return 2**self.bits - 1

    @cached_property
    def values(self) -> tuple[float, ...]:
        """The values at full span."""
        return tuple(2.0 ** (-self.octaves * (1 - code / self.steps)) for code in range(self.steps + 1))

    def index(self, y: Tensor, u: Tensor | None = None, span: Tensor | None = None) -> Tensor:
        """Steps below the top (0 .. N, as floats) for y = x / scale in [0, 1]; changes y; `span` broadcasts over y."""
        span = y.new_full((1,), self.octaves) if span is None else span
        flat = span <= 0  # a block of one value
        w = y.clamp_(2.0**-self.octaves, 1.0).log2_().mul_((-self.steps / span).masked_fill_(flat, 0.0))
        if u is None:
            return w.round_().clamp_(max=self.steps)
        # down = (1 - 2^(-f d)) / (1 - 2^-d) for the fraction f of a step of d octaves. Representable values must stay
        # where they are though log2 rounds: probabilities nearer than `snap` to 0 or 1 become 0 or 1.
        d = (span / self.steps).masked_fill_(flat, 1.0)
        snap = 4e-7 / d + 1e-4
        factor = (1 + 2 * snap) / torch.expm1(d * -math.log(2))
        lower = w.floor()
        down = w.sub_(lower).mul_(-d).exp2_().mul_(factor).sub_(factor + snap)
        return up_(down, u).add_(lower).clamp_(max=self.steps)

    def spread(self, index: Tensor, span: Tensor | None = None) -> Tensor:
        """What `index` steps below the top stand for, as a share of the scale; changes index."""
        return index.mul_(-self.octaves / self.steps if span is None else span * (-1 / self.steps)).exp2_()

    def round(self, y: Tensor, u: Tensor | None = None) -> Tensor:
        """`y` as a share of the scale -> nearest value in log2 or, with uniform `u`, stochastic, at full span."""
        return self.spread(self.index(y.clone(), u))

    def encode(self, v: Tensor) -> Tensor:
        """Values on the full-span grid -> uint8 codes."""
        return self.index(v.clone()).neg_().add_(self.steps).to(torch.uint8)

    def decode(self, codes: Tensor) -> Tensor:
        """uint8 codes -> float32 values at full span."""
        return self.spread(self.steps - codes.to(torch.float32))


_E4M3 = MINIFLOATS["e4m3"]


@dataclass(frozen=True)
class Expanded:
    """e4m3 of 448 |x / scale|^k with the sign of x: the power k stretches a block's range over all that e4m3 can hold.

    k = floor(16 log2(448^2 / 2) / log2(largest / smallest)) / 16, from the block's non-zero magnitudes, none of which
    becomes zero. Stochastic rounding is linear in value.

    Source: Xi et al. 2024 (COAT), arXiv:2410.19313. There a block keeps three floats; the geometric mean that COAT
    divides by cancels against its scale, so that the largest magnitude and k are enough.
    Ancestor: k = 1 is e4m3 under an absmax scale.
    """

    name: str

    bits = 8
    signed = True
    has_zero = False  # only zero becomes zero
    max = 1.0
    stored = _E4M3  # what the codes are

    @cached_property
    def values(self) -> tuple[float, ...]:
        """The values at k = 1."""
        return tuple(value / _E4M3.max for value in _E4M3.values)

    def index(self, y: Tensor, u: Tensor | None = None, power: Tensor | None = None) -> Tensor:
        """The e4m3 number, -448 .. 448, that y = x / scale becomes; changes y; `power` k broadcasts over y."""
        power = y.new_ones((1,)) if power is None else power
        r = y.abs().clamp_(max=1.0)
        z = (r.log2() * power).exp2_().mul_(_E4M3.max)
        if u is None:
            return _E4M3.round_(z).copysign_(y)
        lower = z.clamp(max=_E4M3.max)
        step = _E4M3.step(lower)
        lower = lower.div_(step).floor_().mul_(step)
        low, high = self.spread(lower.clone(), power), self.spread(lower + step, power)
        snap = power * 2e-6 + 1e-4  # representable values must stay though the powers round, as in LogRange
        p = r.sub_(low).div_(high.sub_(low)).mul_(1 + 2 * snap).sub_(snap)
        return up_(p, u).mul_(step).add_(lower).clamp_(max=_E4M3.max).copysign_(y)

    def spread(self, index: Tensor, power: Tensor | None = None) -> Tensor:
        """What an e4m3 number stands for, as a share of the scale."""
        size = index.abs().div_(_E4M3.max)
        return (size if power is None else size.log2_().div_(power).exp2_()).copysign_(index)

    def round(self, y: Tensor, u: Tensor | None = None) -> Tensor:
        """`y` as a share of the scale -> nearest value (ties to even) or, with uniform `u`, stochastic, at k = 1."""
        return self.spread(self.index(y, u))

    def encode(self, v: Tensor) -> Tensor:
        """Values on the grid of k = 1 -> uint8 codes, those of e4m3."""
        return _E4M3.encode(v * _E4M3.max)

    def decode(self, codes: Tensor) -> Tensor:
        """uint8 codes -> float32 values at k = 1."""
        return _E4M3.decode(codes).div_(_E4M3.max)

    @staticmethod
    def power(largest: Tensor, smallest: Tensor) -> Tensor:
        """k of a block from its largest and smallest non-zero magnitude; 1 where they are equal."""
        span = (largest / smallest).log2_()
        k = (16 * math.log2(_E4M3.max**2 / 2) / span).clamp_(max=2.0**16).floor_().div_(16).clamp_(min=1 / 16)
        return k.masked_fill_(~(span > 0), 1.0)
