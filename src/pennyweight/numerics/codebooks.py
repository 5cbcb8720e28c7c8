"""Codebooks: formats whose values are a list, no arithmetic progression and no floating point; built once by rule."""

import math
from dataclasses import dataclass
from functools import cached_property
from struct import pack, unpack

import torch
from torch import Tensor

from pennyweight.numerics.rounding import Staircase, look_up, table, thresholds, up_


@dataclass(frozen=True)
class Codebook:
    """A sorted list of at most 256 finite numbers of absolute maximum 1; a code is the index in the list.

    Ties between two neighbours go to the even index. Raises ValueError for any other list.
    """

    name: str
    values: tuple[float, ...]
    bits: int

    def __post_init__(self) -> None:
        if not 2 <= len(self.values) <= 2**self.bits <= 256:
            raise ValueError(f"codebook {self.name} of {self.bits} bits cannot hold {len(self.values)} values")
        if not all(math.isfinite(value) for value in self.values) or max(map(abs, self.values)) != 1.0:
            raise ValueError(f"codebook {self.name} wants finite values of absolute maximum 1")
        if any(a >= b for a, b in zip(self.values, self.values[1:], strict=False)):
            raise ValueError(f"codebook {self.name} wants values in strictly rising order")

    @property
    def max(self) -> float:
        return 1.0

    @property
    def signed(self) -> bool:
        return self.values[0] < 0

    @property
    def has_zero(self) -> bool:
        return 0.0 in self.values

    @cached_property
    def _nearest(self) -> Staircase:
        return Staircase(thresholds(self.values, single=True), at=False)

    @cached_property
    def _lower(self) -> Staircase:
        return Staircase(self.values[1:], at=True)

    @cached_property
    def _exact(self) -> tuple[float, ...]:
        return thresholds(self.values, single=False)

    @cached_property
    def _inverse_gaps(self) -> tuple[float, ...]:
        """1 / (distance to the next value); 0 for the last, which never moves up."""
        return (*(1 / (b - a) for a, b in zip(self.values, self.values[1:], strict=False)), 0.0)

    def index(self, y: Tensor, u: Tensor | None = None) -> Tensor:
        """The index, as a float, of the nearest value or with noise `u` of one of the two neighbours; NaN has any."""
        y = y.contiguous()  # tables are looked up in memory's order
        quick = type(y) is Tensor and y.device.type == "cpu" and y.dtype == torch.float32
        quick = quick and not torch.compiler.is_compiling()
        if u is None:
            if quick and self._nearest.fits:
                return self._nearest(y)
            edges = thresholds(self.values, single=True) if y.dtype == torch.float32 else self._exact
            return torch.bucketize(y, table(edges, y)).to(y.dtype)
        y = y.clamp(min=self.values[0])
        if quick and self._lower.fits:
            lower = self._lower(y)
        else:
            lower = torch.bucketize(y, table(self.values[1:], y), right=True).to(y.dtype)
        code = lower.to(torch.int32)
        p = y.sub_(look_up(table(self.values, y), code)).mul_(look_up(table(self._inverse_gaps, y), code))
        return up_(p, u).add_(lower)

    def round(self, y: Tensor, u: Tensor | None = None) -> Tensor:
        """`y` as a share of the scale -> nearest value (ties to even) or, with uniform `u`, stochastic; saturates."""
        rounded = look_up(table(self.values, y), self.index(y, u).to(torch.int32))
        return torch.where(y.isnan(), y, rounded)

    def encode(self, v: Tensor) -> Tensor:
        """Values on the grid -> uint8 codes."""
        return torch.bucketize(v, table(self.values, v), out_int32=True).to(torch.uint8)

    def decode(self, codes: Tensor) -> Tensor:
        """uint8 codes -> float32 values."""
        return look_up(table(self.values, codes, torch.float32), codes)


def _float32(values: list[float]) -> tuple[float, ...]:
    return tuple(unpack("<f", pack("<f", value))[0] for value in values)


# Source: Dettmers et al. 2023, arXiv:2305.14314 (NF4, the table of bitsandbytes): 7 negative and 8 positive values.
_NF4 = [
    *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635),
    *(-0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634),
    *(0.33791524171829224, 0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0),
]


def _decades(bits: int, *, signed: bool) -> list[float]:
    """Midpoints of 2^i (signed) or 2^(i+1) equal parts of [0.1, 1], one decade lower for each exponent field less."""
    fields = bits - 1
    result = []
    for i in range(fields):
        parts = 2**i if signed else 2 ** (i + 1)
        result += [(0.1 + 0.9 * (k + 0.5) / parts) * 10.0 ** (i - fields + 1) for k in range(parts)]
    return result


def dynamic(bits: int, *, signed: bool) -> tuple[float, ...]:
    """The dynamic tree code: 0, the decades' midpoints (both signs when signed) and +1.

    Source: Dettmers 2015, arXiv:1511.04561; Dettmers et al. 2021, arXiv:2110.02861. Signed reaches +1 but not -1.
    """
    positive = _decades(bits, signed=signed)
    negative = [-value for value in positive] if signed else []
    return _float32(sorted([*negative, 0.0, *positive, 1.0]))


def dynamic_symmetric(bits: int) -> tuple[float, ...]:
    """The signed dynamic code with its outermost midpoint moved to 1 on both sides: 2^bits - 1 values, no bias."""
    positive = [*sorted(_decades(bits, signed=True))[:-1], 1.0]
    return _float32(sorted([*(-value for value in positive), 0.0, *positive]))


def power(bits: int, exponent: int) -> tuple[float, ...]:
    """(k/N)^exponent for k = 1 .. N = 2^bits: no zero.

    Source: Li, Chen, Zhu 2023, arXiv:2309.01507 (exponent 1).
    """
    count = 2**bits
    return _float32([(k / count) ** exponent for k in range(1, count + 1)])


CODEBOOKS: dict[str, Codebook] = {
    "nf4": Codebook("nf4", _float32(_NF4), 4),
    **{f"dynamic{bits}": Codebook(f"dynamic{bits}", dynamic(bits, signed=True), bits) for bits in (8, 4)},
    **{f"udynamic{bits}": Codebook(f"udynamic{bits}", dynamic(bits, signed=False), bits) for bits in (8, 4)},
    **{f"dynamic_sym{bits}": Codebook(f"dynamic_sym{bits}", dynamic_symmetric(bits), bits) for bits in (8, 4)},
    **{f"linear_nz{bits}": Codebook(f"linear_nz{bits}", power(bits, 1), bits) for bits in (8, 4)},
    **{f"sqrt_nz{bits}": Codebook(f"sqrt_nz{bits}", power(bits, 2), bits) for bits in (8, 4)},
}
