"""Companding formats: values spread over each block's own range, smallest to largest, so that nothing becomes zero."""

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

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
