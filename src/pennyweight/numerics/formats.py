"""Number formats: which reals a code can stand for, and how many bits a code costs."""

import difflib
import math
import re
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from pennyweight.numerics.codebooks import CODEBOOKS
from pennyweight.numerics.rounding import on_integers_, table, thresholds

LARGEST_BITS = 8


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
    def emax(self) -> int:
        """Exponent of the largest value."""
        return math.frexp(self.max)[1] - 1

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

    def _step(self, y: Tensor) -> Tensor:
        """The gap between neighbours around y: 2^(exponent - mantissa), constant below the smallest normal."""
        if y.dtype == torch.float64:
            power = y.view(torch.int64).bitwise_and(0x7FF0000000000000).view(torch.float64)
        else:
            power = y.view(torch.int32).bitwise_and(0x7F800000).view(torch.float32)
        return power.clamp_(min=2.0**self.emin).mul_(2.0**-self.mantissa)

    def round_(self, y: Tensor, u: Tensor | None = None) -> Tensor:
        """In place: the nearest value, or with noise `u` one of the two neighbours."""
        y.clamp_(-self.max, self.max)
        step = self._step(y)
        return on_integers_(y.div_(step), u).mul_(step)

    def round(self, y: Tensor, u: Tensor | None = None) -> Tensor:
        """`y` in the format's own units -> nearest value (ties to even) or, with uniform `u`, stochastic; saturates."""
        return self.round_(y.clone(), u)

    def encode(self, v: Tensor) -> Tensor:
        """Values on the grid -> uint8 codes, sign, exponent, mantissa from the high bit down (bf16, fp16: themselves)."""
        if self.bits > LARGEST_BITS:
            return v.to(_NATIVE[self.name])
        v = v.to(torch.float32)
        raw = v.view(torch.int32)
        normal = raw.bitwise_and(0x7FFFFFFF).bitwise_right_shift_(23 - self.mantissa)
        normal.sub_((127 - self.bias) << self.mantissa)
        tiny = v.abs()
        below = tiny < 2.0**self.emin
        code = torch.where(below, tiny.mul_(2.0 ** (self.mantissa - self.emin)).to(torch.int32), normal)
        sign = raw.bitwise_right_shift(31).bitwise_and_(1 << (self.bits - 1))
        return code.bitwise_or_(sign).to(torch.uint8)

    def decode(self, codes: Tensor) -> Tensor:
        """uint8 codes -> float32 values."""
        if self.bits > LARGEST_BITS:
            return codes.to(torch.float32)
        return look_up(table(self.decoded, codes, torch.float32), codes)


_NATIVE = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


def look_up(values: Tensor, codes: Tensor) -> Tensor:
    """values[codes] with codes of any integer type and shape."""
    return values.index_select(0, codes.reshape(-1).to(torch.int32)).view(codes.shape)


@dataclass(frozen=True)
class Codebook:
    """A sorted list of at most 256 finite numbers of absolute maximum 1; a code is the index in the list.

    Ties between two neighbours go to the even index. Raises ValueError for any other list.
    """

    name: str
    values: tuple[float, ...]
    bits: int

    def __post_init__(self) -> None:
        if len(self.values) > 2**self.bits or len(self.values) < 2 or self.bits > LARGEST_BITS:
            raise ValueError(
                f"codebook {self.name} of {self.bits} bits holds 2 to {2 ** min(self.bits, 8)} values, got {len(self.values)}"
            )
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
    def _thresholds(self) -> dict[bool, tuple[float, ...]]:
        return {single: thresholds(self.values, single=single) for single in (True, False)}

    def index(self, y: Tensor, u: Tensor | None = None) -> Tensor:
        """The int32 index of the nearest value, or with noise `u` of one of the two neighbours; NaN gets the last."""
        if u is None:
            return torch.bucketize(y, table(self._thresholds[y.dtype == torch.float32], y), out_int32=True)
        values = table(self.values, y)
        y = y.clamp(self.values[0], self.values[-1])
        lower = torch.bucketize(y, values, right=True, out_int32=True).sub_(1).clamp_(0, len(self.values) - 2)
        below = look_up(values, lower)
        gap = look_up(values.diff(), lower)
        return lower.add_((u < (y - below).div_(gap)).to(torch.int32))

    def round_(self, y: Tensor, u: Tensor | None = None) -> Tensor:
        """In place: the nearest value, or with noise `u` one of the two neighbours."""
        rounded = look_up(table(self.values, y), self.index(y, u))
        return torch.where(y.isnan(), y, rounded)

    def round(self, y: Tensor, u: Tensor | None = None) -> Tensor:
        """`y` in the format's own units -> nearest value (ties to even) or, with uniform `u`, stochastic; saturates."""
        return self.round_(y, u)

    def encode(self, v: Tensor) -> Tensor:
        """Values on the grid -> uint8 codes."""
        return torch.bucketize(v, table(self.values, v), out_int32=True).to(torch.uint8)

    def decode(self, codes: Tensor) -> Tensor:
        """uint8 codes -> float32 values."""
        return look_up(table(self.values, codes, torch.float32), codes)


@dataclass(frozen=True)
class LogRange:
    """Zero-free numbers 2^(-span (1 - code/N)), N = 2^bits - 1, spread evenly in log2 over the block's own range.

    For the second moment, which spans decades and must never become 0. The block keeps its largest value (the scale) and
    `span`, octaves from it down to its smallest positive value, at most `octaves`; below that, values rise to the floor.
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
        """Steps below the top (0 .. N, as floats) for y = x / scale in [0, 1]; `span` broadcasts over y."""
        span = torch.full((1,), self.octaves, dtype=y.dtype, device=y.device) if span is None else span
        inverse = torch.where(span > 0, -self.steps / span, 0.0)
        w = y.clamp(min=2.0**-self.octaves, max=1.0).log2_().mul_(inverse).clamp_(max=self.steps)
        if u is None:
            return w.round_()
        d = span * (math.log(2) / self.steps)  # one step in natural logarithm
        lower = w.floor()
        # Representable values must stay, though log2 rounds: probabilities nearer than `snap` to 0 or 1 become 0 or 1.
        snap = 1e-4 + torch.where(span > 0, 3e-7 / d, 0.0)
        down = w.sub_(lower).mul_(-d).expm1_().div_(torch.where(span > 0, torch.expm1(-d), -1.0))
        down = down.mul_(1 + 2 * snap).sub_(snap)
        return lower.add_((u < down).to(y.dtype)).clamp_(max=self.steps)

    def spread(self, index: Tensor, span: Tensor | None = None) -> Tensor:
        """What `index` steps below the top stand for, as a share of the scale."""
        down = -self.octaves / self.steps if span is None else span * (-1 / self.steps)
        return (index * down).exp2_()

    def round_(self, y: Tensor, u: Tensor | None = None) -> Tensor:
        return self.spread(self.index(y, u))

    def round(self, y: Tensor, u: Tensor | None = None) -> Tensor:
        """`y` as a share of the scale -> nearest value in log2 or, with uniform `u`, stochastic, at full span."""
        return self.round_(y, u)

    def encode(self, v: Tensor) -> Tensor:
        """Values on the full-span grid -> uint8 codes."""
        return self.index(v).neg_().add_(self.steps).to(torch.uint8)

    def decode(self, codes: Tensor) -> Tensor:
        """uint8 codes -> float32 values at full span."""
        return self.spread(self.steps - codes.to(torch.float32))


Format = Integer | Shifted | Minifloat | Codebook | LogRange

_MINIFLOATS = {
    "e4m3": Minifloat("e4m3", 4, 3, 7, 448.0),
    "e5m2": Minifloat("e5m2", 5, 2, 15, 57344.0),
    "e3m2": Minifloat("e3m2", 3, 2, 3, 28.0),
    "e2m3": Minifloat("e2m3", 2, 3, 1, 7.5),
    "e2m1": Minifloat("e2m1", 2, 1, 1, 6.0),
    "bf16": Minifloat("bf16", 8, 7, 127, 2.0**127 * (2 - 2.0**-7)),
    "fp16": Minifloat("fp16", 5, 10, 15, 65504.0),
    "fp32": Minifloat("fp32", 8, 23, 127, 2.0**127 * (2 - 2.0**-23)),
}
FORMATS: dict[str, Format] = {
    **{f"int{bits}": Integer(f"int{bits}", bits) for bits in range(2, 9)},
    **{f"uint{bits}": Shifted(f"uint{bits}", bits) for bits in range(2, 9)},
    "ternary": Integer("ternary", 2),
    "mxint8": Integer("mxint8", 8, 1 / 64),
    **_MINIFLOATS,
    **{name: Codebook(name, values, bits) for name, (values, bits) in CODEBOOKS.items()},
    "log8": LogRange("log8", 8, 40.0),
    "log4": LogRange("log4", 4, 20.0),
}


def format(name: str) -> Format:
    """The format of that name. Raises ValueError with the nearest right name for any other."""
    if name in FORMATS:
        return FORMATS[name]
    integer = re.fullmatch(r"(u?int)(\d+)", name)
    if integer and integer[2] == "1":
        raise ValueError("an integer format holds 2 to 8 bits, got 1: ask for 'ternary'")
    if integer:
        raise ValueError(f"an integer format holds 2 to 8 bits (2, 3, 4, 5, 6, 7, 8), got {integer[2]}")
    if "fnuz" in name:
        raise ValueError(f"format {name!r}: the float8 'fnuz' variants are not supported; take e4m3 or e5m2")
    near = difflib.get_close_matches(name, FORMATS, n=1, cutoff=0.0)
    raise ValueError(f"no format is called {name!r}; did you mean {near[0]!r}? Known: {', '.join(FORMATS)}")
