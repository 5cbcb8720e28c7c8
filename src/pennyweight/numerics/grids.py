"""Grids: from a group's statistics to what its numbers are divided by, and from there to levels, codes and back."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from pennyweight.numerics.codebooks import Codebook
from pennyweight.numerics.companding import Expanded, LogRange
from pennyweight.numerics.formats import Format, format
from pennyweight.numerics.integers import Integer, Shifted
from pennyweight.numerics.minifloats import Minifloat
from pennyweight.numerics.rounding import look_up, on_integers_, table
from pennyweight.numerics.scales import Scale

TINY = 2.0**-126  # smallest normal float32: a scale below it would lose bits, so such a group is written as zero
SMALLEST_E4M3 = 2.0**-9
_E8M0 = (*(2.0 ** (code - 127) for code in range(255)), math.nan)


@dataclass(frozen=True)
class Grid:
    """What a group's numbers are divided by and multiplied with; every tensor broadcasts over the group's elements."""

    divisor: Tensor
    scale: Tensor
    stored: Tensor
    zero: Tensor | None = None
    extra: Tensor | None = None


def estimator(element: Format) -> str:
    """What of a group decides its scale: absmax, mean_abs (ternary), minmax (shifted), range or spread."""
    match element:
        case Shifted():
            return "minmax"
        case LogRange():
            return "range"
        case Expanded():
            return "spread"
        case Integer(name="ternary"):
            return "mean_abs"
    return "absmax"


def measure(view: Tensor, dims: tuple[int, ...], what: str) -> tuple[Tensor, ...]:
    """The statistics of each group, with the inner dims kept as 1."""
    match what:
        case "minmax":
            return view.amin(dims, keepdim=True), view.amax(dims, keepdim=True)
        case "range":
            return view.amax(dims, keepdim=True), _least_positive(view, dims)
        case "spread":
            return view.abs().amax(dims, keepdim=True), _least_positive(view, dims)
        case "mean_abs":
            return (view.abs().sum(dims, keepdim=True),)
    return (view.abs().amax(dims, keepdim=True),)


def _least_positive(view: Tensor, dims: tuple[int, ...]) -> Tensor:
    """The least magnitude above 0 of each group; NaN where there is none.

    On the bits, where magnitudes sort like integers, and 0 - 1 without its sign is the largest: no mask is needed.
    """
    integer, mask = (torch.int64, 2**63 - 1) if view.dtype == torch.float64 else (torch.int32, 2**31 - 1)
    raw = view.contiguous().view(integer).sub(1).bitwise_and_(mask).amin(dims, keepdim=True)
    return raw.add_(1).bitwise_and_(mask).view(view.dtype)


COMBINE: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], ...]] = {
    "absmax": (torch.maximum,),
    "minmax": (torch.minimum, torch.maximum),
    "range": (torch.maximum, torch.fmin),
    "spread": (torch.maximum, torch.fmin),
    "mean_abs": (torch.add,),
}


def solve(
    scale: Scale, element: Format, mode: str | None, statistics: tuple[Tensor, ...], count: int, whole: Tensor | None
) -> Grid:
    """Each group's grid from its statistics; `count`: numbers in a group, `whole`: the tensor's scale under e4m3."""
    if scale.arithmetic == "given":
        return _published(scale, element, statistics)
    match element:
        case Shifted():
            return _shifted(scale, element, *statistics)
        case LogRange():
            return _logarithmic(element, *statistics)
        case Expanded():
            high, low = statistics
            grid = _plain(high.clone(), dead=high < TINY)
            return Grid(grid.divisor, grid.scale, grid.stored, extra=element.power(high, low))
    a = statistics[0] if estimator(element) == "absmax" else statistics[0] / count
    vmax = element.max
    a = a.clamp(min=scale.floor) if scale.floor else a
    match scale.number:
        case "one":
            one = torch.where(a.isfinite(), 1.0, math.nan).to(a.dtype)
            return Grid(one, one, one)
        case "fp32":
            return _plain(a / vmax, dead=a < vmax * TINY)
        case "pow2":
            exponent = (
                _exponent((a / vmax).to(torch.float32), up=True).clamp_(-126, 127).masked_fill_(~a.isfinite(), 128)
            )
            return _plain(_power(exponent).to(a.dtype), dead=a < vmax * TINY)
        case "e8m0":
            return _e8m0(a, element, mode)
    assert whole is not None
    return _e4m3(a, vmax, mode, whole)


def _plain(s: Tensor, *, dead: Tensor) -> Grid:
    # A group of zeros has scale 0: it decodes to zeros whatever its codes are, and where a scale is folded into another
    # operand it does not outshine the others, as a scale of 1 would.
    s = s.add(s - s).masked_fill_(dead, 0.0)  # Inf becomes NaN
    return Grid(s.masked_fill(dead, math.inf), s, s)


def _power(exponent: Tensor) -> Tensor:
    """2^exponent in float32 for integer exponents -127 .. 127; 128 stands for NaN."""
    return (
        table(_E8M0, exponent, torch.float32)
        .index_select(0, (exponent.reshape(-1) + 127).to(torch.int32))
        .view(exponent.shape)
    )


def _exponent(a: Tensor, *, up: bool = False) -> Tensor:
    """floor(log2 a), or with `up` ceil(log2 a), from the bits of a float32 a >= 0; subnormals count as 2^-127."""
    raw = a.contiguous().view(torch.int32)
    e = (raw >> 23) - 127
    if up:
        e = e + ((raw & 0x7FFFFF) > torch.where(e > -127, 0, 0x400000)).to(torch.int32)
    return e


def _e8m0(a: Tensor, element: Format, mode: str | None) -> Grid:
    single = a.to(torch.float32)
    emax = math.frexp(element.max)[1] - 1
    match mode:
        case "floor":
            exponent = _exponent(single) - emax
        case "ceil":
            exponent = _exponent(single, up=True) - emax
        case "even":
            mantissa = element.mantissa if isinstance(element, Minifloat) else element.bits - 2
            exponent = ((single.contiguous().view(torch.int32) + (1 << (22 - mantissa))) >> 23) - 127 - emax
        case _:
            exponent = _exponent(single / element.max, up=True)
    dead = single < TINY
    exponent = exponent.clamp(-127, 127).masked_fill(dead, -127).masked_fill(~single.isfinite(), 128)
    s = _power(exponent).to(a.dtype)
    return Grid(s.masked_fill(dead, math.inf), s, (exponent + 127).to(torch.uint8))


def whole_scale(block_maximum: Tensor, element: Format) -> Tensor:
    """The tensor's own scale under e4m3 block scales, from the largest finite block maximum: amax / (448 vmax)."""
    whole = block_maximum / (448.0 * element.max)
    return whole.masked_fill(whole < TINY / SMALLEST_E4M3, 0.0)


def _e4m3(a: Tensor, vmax: float, mode: str | None, whole: Tensor) -> Grid:
    e4m3 = format("e4m3")
    wanted = (a / vmax / whole.masked_fill(whole == 0, math.inf)).clamp(SMALLEST_E4M3, 448.0)
    s_b = e4m3.round(wanted)
    if mode == "up":
        step = torch.ldexp(torch.ones_like(s_b), (torch.frexp(s_b)[1] - 4).clamp(min=-9))
        s_b = torch.where(s_b < wanted, s_b + step, s_b)
    bad = ~a.isfinite()
    s = s_b.masked_fill(bad, math.nan) * whole
    codes = e4m3.encode(s_b.masked_fill(bad, 1.0)).masked_fill(bad, 0x7F)
    return Grid(s.masked_fill(s == 0, math.inf), s, codes)


def _shifted(scale: Scale, element: Shifted, low: Tensor, high: Tensor) -> Grid:
    largest = torch.maximum(low.abs(), high.abs())
    # With a step below 2^-20 of the offset, x / s - z would drown in rounding: the offset's precision bounds the step.
    s = torch.maximum((high - low).clamp(min=scale.floor) / element.max, largest * 2.0**-20)
    dead = largest < TINY * 2.0**20
    grid = _plain(s, dead=dead)
    return Grid(grid.divisor, grid.scale, grid.stored, zero=(low / grid.divisor).round_())


def _logarithmic(element: LogRange, high: Tensor, low: Tensor) -> Grid:
    grid = _plain(high.clone(), dead=high < TINY)
    span = (high / torch.fmin(low, high)).log2_().clamp_(0.0, element.octaves)
    span = span.masked_fill(~(grid.scale > 0), 0.0)
    return Grid(grid.divisor, grid.scale, grid.stored, extra=span)


def _published(scale: Scale, element: Format, statistics: tuple[Tensor, ...]) -> Grid:
    if isinstance(element, Shifted):
        low, high = statistics
        offset = published_offset(element, scale)
        s = (high - low).clamp(min=scale.floor) / (2 * (offset - 1))
    else:
        low, offset = statistics[0], 0.0
        s = low.clamp(min=scale.floor) / element.max
    divisor = s.masked_fill(s == 0, math.inf)  # a floor that underflows in 16 bits: the group is read as zeros
    return Grid(divisor, s, s, zero=(low / divisor + offset).round_() if isinstance(element, Shifted) else None)


def read_scales(stored: Tensor, scale: Scale, whole: Tensor | None) -> Tensor:
    """Stored scales -> the factors they stand for."""
    if scale.number == "e8m0":
        return look_up(table(_E8M0, stored, torch.float32), stored)
    if scale.number == "e4m3":
        assert whole is not None
        return format("e4m3").decode(stored).to(whole.dtype) * whole
    return stored


def levels(element: Format, scale: Scale, grid: Grid, x: Tensor, u: Tensor | None) -> Tensor:
    """x -> where its numbers land: the value in the format's units; codebooks: the index; log: steps below the top."""
    y = x / grid.divisor
    match element:
        case Codebook():
            return element.index(y, u)
        case LogRange() | Expanded():
            return element.index(y, u, grid.extra)
        case Shifted():
            offset = published_offset(element, scale)
            assert grid.zero is not None
            return on_integers_(y.sub_(grid.zero), u).clamp_(-offset, element.max - offset)
        case Integer(unit=1.0) if u is None and _just_fits(scale, element):
            return y.round_()
    return element.round_(y, u)


def _just_fits(scale: Scale, element: Format) -> bool:
    """Whether nearest needs no clamp: in float32, a / (a / max) passes max by an ulp at most, which rounds back."""
    return scale.number == "fp32" and scale.arithmetic == "float32" and estimator(element) == "absmax"


def put_reals(element: Format, grid: Grid, level: Tensor, out: Tensor) -> None:
    """Puts the numbers that levels stand for into `out`, rounded once to its dtype."""
    match element:
        case Codebook():
            level = look_up(table(element.values, grid.scale), level.to(torch.int32))
        case LogRange() | Expanded():
            level = element.spread(level, grid.extra)
        case Shifted():
            assert grid.zero is not None
            level = level + grid.zero
    torch.mul(level, grid.scale, out=out)


def write_levels(element: Format, scale: Scale, level: Tensor) -> Tensor:
    """Levels -> codes."""
    match element:
        case Codebook():
            return _uint8(level)
        case LogRange():
            return _uint8(element.steps - level)
        case Expanded():
            return element.stored.encode(level)
        case Shifted():
            return element.encode(level + published_offset(element, scale))
    return element.encode(level)


def _uint8(level: Tensor) -> Tensor:
    """Floats 0 .. 255 -> uint8; by way of int32, which is vectorised and gives NaN some code, not an error."""
    return level.to(torch.int32).to(torch.uint8)


def read_levels(element: Format, scale: Scale, codes: Tensor, dtype: torch.dtype) -> Tensor:
    """Codes -> levels."""
    match element:
        case Codebook():
            return codes.to(dtype)
        case LogRange():
            return element.steps - codes.to(dtype)
        case Expanded():
            return element.stored.decode(codes).to(dtype)
        case Shifted():
            return codes.to(dtype).sub_(published_offset(element, scale))
    return element.decode(codes).to(dtype)


def published_offset(element: Shifted, scale: Scale) -> float:
    """The published codes are signed, -2^(bits-1) and up; they are stored shifted to 0 and up."""
    return 2.0 ** (element.bits - 1) if scale.arithmetic == "given" else 0.0
