"""Minifloats: floating point in few bits, rounded without tables; bf16, fp16 and fp32 are reference rungs."""

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from pennyweight.numerics.rounding import look_up, on_integers_, table

LARGEST_BITS = 8  # of a code; formats of more bits are torch's own dtypes


@dataclass(frozen=True)
class Minifloat:
    """Floating point in few bits: (-1)^S 2^(E-bias) (1 + M/2^mantissa), and subnormals at E = 0.

    Source: OCP Microscaling v1.0 (e4m3, e5m2, e3m2, e2m3, e2m1); bf16 and fp16 as reference rungs.
    """

    name: str
    exponent: int
    mantissa: int
    bias: int
    max: float

    signed = True
    has_zero = True

    @property
    def bits(self) -> int:
        return 1 + self.exponent + self.mantissa

    @property
    def emin(self) -> int:
        """Exponent of the smallest normal value."""
        return 1 - self.bias

    def _magnitude(self, code: int) -> float:
        field, fraction = code >> self.mantissa, code & ((1 << self.mantissa) - 1)
        if field == 0:
            return math.ldexp(fraction, self.emin - self.mantissa)
        return math.ldexp((1 << self.mantissa) + fraction, field - self.bias - self.mantissa)

    @cached_property
    def magnitudes(self) -> tuple[float, ...]:
        """The non-negative values by code; codes above the largest stand for Inf and NaN and are never produced."""
        every = (self._magnitude(code) for code in range(1 << (self.bits - 1)))
        return tuple(value for value in every if value <= self.max)

    @cached_property
    def values(self) -> tuple[float, ...]:
        return (*(-value for value in reversed(self.magnitudes[1:])), *self.magnitudes)

    @cached_property
    def decoded(self) -> tuple[float, ...]:
        """What every code of the format stands for, specials included."""
        top = len(self.magnitudes)
        inf = self.name == "e5m2"  # IEEE specials; e4m3 has one NaN, the others none
        rest = [math.inf if inf and code == top else math.nan for code in range(top, 1 << (self.bits - 1))]
        half = [*self.magnitudes, *rest]
        return (*half, *(-value for value in half))

    def _power(self, y: Tensor) -> Tensor:
        """2^exponent of y, constant below the smallest normal: the gap between neighbours times 2^mantissa."""
        if y.dtype == torch.float64:
            power = y.view(torch.int64).bitwise_and(0x7FF0000000000000).view(torch.float64)
        else:
            power = y.view(torch.int32).bitwise_and(0x7F800000).view(torch.float32)
        return power.clamp_(min=2.0**self.emin)

    def step(self, y: Tensor) -> Tensor:
        """The distance from y to the next value away from zero, for y on or between values."""
        return self._power(y).mul_(2.0**-self.mantissa)

    def round_(self, y: Tensor, u: Tensor | None = None) -> Tensor:
        """In place: the nearest value, or with noise `u` one of the two neighbours."""
        if self.bits > LARGEST_BITS:
            return self._native_(y, u)
        power = self._power(y.clamp_(-self.max, self.max))
        if u is not None:
            step = power.mul_(2.0**-self.mantissa)
            return on_integers_(y.div_(step), u).mul_(step)
        # The last bit of this sum weighs one step, so the addition itself rounds to nearest, ties to even.
        shift = power.mul_(1.5 * 2.0 ** ((52 if y.dtype == torch.float64 else 23) - self.mantissa))
        return y.add_(shift).sub_(shift)

    def _native_(self, y: Tensor, u: Tensor | None) -> Tensor:
        if u is None:
            return y.copy_(y.to(NATIVE[self.name]))
        finite = y.isfinite()
        step = self.step(y.clamp(-self.max, self.max))
        rounded = on_integers_(y / step, u).mul_(step).clamp_(-self.max, self.max)
        return y.copy_(torch.where(finite, rounded, y))

    def round(self, y: Tensor, u: Tensor | None = None) -> Tensor:
        """`y` in the format's own units -> nearest value (ties to even) or, with uniform `u`, stochastic; saturates.

        bf16, fp16 and fp32 overflow to Inf to nearest, as torch's own casts do.
        """
        return self.round_(y.clone(), u)

    @cached_property
    def _code_of(self) -> tuple[int, ...]:
        """The code of each multiple of the smallest value, from -max to max; 0 for those between the values."""
        least = self.magnitudes[1]
        ends = round(self.max / least)
        codes = [0] * (2 * ends + 1)
        for code, value in enumerate(self.magnitudes):
            codes[ends + round(value / least)] = code
            codes[ends - round(value / least)] = code | (1 << (self.bits - 1) if code else 0)
        return tuple(codes)

    def encode(self, v: Tensor) -> Tensor:
        """Values on the grid -> uint8 codes: sign, exponent, mantissa from the high bit (bf16, fp16: themselves)."""
        if self.bits > LARGEST_BITS:
            return v.to(NATIVE[self.name])
        if self.bits == LARGEST_BITS:
            return v.to(FLOAT8[self.name]).view(torch.uint8)
        multiple = v.mul(1 / self.magnitudes[1]).add_(len(self._code_of) // 2).to(torch.int32).clamp_(min=0)
        return look_up(table(self._code_of, v, torch.uint8), multiple)

    def decode(self, codes: Tensor) -> Tensor:
        """uint8 codes -> float32 values."""
        if self.bits > LARGEST_BITS:
            return codes.to(torch.float32)
        return look_up(table(self.decoded, codes, torch.float32), codes)


NATIVE = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
FLOAT8 = {"e4m3": torch.float8_e4m3fn, "e5m2": torch.float8_e5m2}


MINIFLOATS = {
    "e4m3": Minifloat("e4m3", 4, 3, 7, 448.0),
    "e5m2": Minifloat("e5m2", 5, 2, 15, 57344.0),
    "e3m2": Minifloat("e3m2", 3, 2, 3, 28.0),
    "e2m3": Minifloat("e2m3", 2, 3, 1, 7.5),
    "e2m1": Minifloat("e2m1", 2, 1, 1, 6.0),
    "bf16": Minifloat("bf16", 8, 7, 127, 2.0**127 * (2 - 2.0**-7)),
    "fp16": Minifloat("fp16", 5, 10, 15, 65504.0),
    "fp32": Minifloat("fp32", 8, 23, 127, 2.0**127 * (2 - 2.0**-23)),
}
