"""Integer formats: evenly spaced numbers, symmetric about zero or shifted by a zero point."""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from pennyweight.numerics.rounding import on_integers_


@dataclass(frozen=True)
class Integer:
    """Symmetric integers -max .. max, times `unit`; the code -2^(bits-1) is never produced.

    Ancestor: `ternary` and int2 hold the same three numbers; they differ in how the scale is estimated.
    """

    name: str
    bits: int
    unit: float = 1.0

    signed = True
    has_zero = True

    @property
    def largest_code(self) -> int:
        return 2 ** (self.bits - 1) - 1

    @property
    def max(self) -> float:
        return self.largest_code * self.unit

    @cached_property
    def values(self) -> tuple[float, ...]:
        return tuple(code * self.unit for code in range(-self.largest_code, self.largest_code + 1))

    def round_(self, y: Tensor, u: Tensor | None = None) -> Tensor:
        """In place: the nearest value, or with noise `u` one of the two neighbours."""
        if self.unit != 1.0:
            y.mul_(1 / self.unit)
        on_integers_(y, u).clamp_(-self.largest_code, self.largest_code)
        return y if self.unit == 1.0 else y.mul_(self.unit)

    def round(self, y: Tensor, u: Tensor | None = None) -> Tensor:
        """`y` in the format's own units -> nearest value (ties to even) or, with uniform `u`, stochastic; saturates."""
        return self.round_(y.clone(), u)

    def encode(self, v: Tensor) -> Tensor:
        """Values on the grid -> int8 codes."""
        return (v if self.unit == 1.0 else v / self.unit).to(torch.int8)

    def decode(self, codes: Tensor) -> Tensor:
        """int8 codes -> float32 values."""
        return codes.to(torch.float32) if self.unit == 1.0 else codes.to(torch.float32).mul_(self.unit)


@dataclass(frozen=True)
class Shifted:
    """Integers 0 .. 2^bits - 1 that stand for any interval, by an integer zero point kept beside the scale."""

    name: str
    bits: int

    signed = False
    has_zero = True

    @property
    def max(self) -> float:
        return float(2**self.bits - 1)

    @cached_property
    def values(self) -> tuple[float, ...]:
        return tuple(float(code) for code in range(2**self.bits))

    def round_(self, y: Tensor, u: Tensor | None = None) -> Tensor:
        """In place: the nearest value, or with noise `u` one of the two neighbours."""
        return on_integers_(y, u).clamp_(0, self.max)

    def round(self, y: Tensor, u: Tensor | None = None) -> Tensor:
        """`y` in the format's own units -> nearest value (ties to even) or, with uniform `u`, stochastic; saturates."""
        return self.round_(y.clone(), u)

    def encode(self, v: Tensor) -> Tensor:
        """Values on the grid -> uint8 codes."""
        return v.nan_to_num(0.0).to(torch.uint8)

    def decode(self, codes: Tensor) -> Tensor:
        """uint8 codes -> float32 values."""
        return codes.to(torch.float32)
