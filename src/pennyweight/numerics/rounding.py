"""Rounding: which neighbour on a grid a real becomes. Nearest takes ties to even; stochastic is unbiased in value."""

import math
from typing import Literal

import torch
from torch import Tensor

Rounding = Literal["nearest", "stochastic"]

_TABLES: dict[tuple, Tensor] = {}


def table(values: tuple[float, ...], like: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """The values as a tensor beside `like`, kept between calls.

    Not kept beside fake tensors and while compiling, where it would outlive the mode that made it.
    """
    dtype = dtype or like.dtype
    if type(like) not in (Tensor, torch.nn.Parameter) or torch.compiler.is_compiling():
        return torch.tensor(values, dtype=dtype, device=like.device)
    where = (values, dtype, like.device)
    if where not in _TABLES:
        _TABLES[where] = torch.tensor(values, dtype=dtype, device=like.device)
    return _TABLES[where]


def look_up(values: Tensor, codes: Tensor) -> Tensor:
    """values[codes] for codes of any shape; int32 and int64 codes are taken as they are."""
    flat = codes.reshape(-1)
    if flat.dtype not in (torch.int32, torch.int64):
        flat = flat.to(torch.int32)
    return values.index_select(0, flat).view(codes.shape)


def on_integers_(y: Tensor, u: Tensor | None) -> Tensor:
    """Rounds in place to integers: nearest with ties to even, or with noise `u` up with probability y - floor(y).

    `floor(y + u)` is not used: in float32 the sum rounds, and an integer would not stay itself for u near 1.
    """
    if u is None:
        return y.round_()
    lower = y.floor()
    return up_(y.sub_(lower), u).add_(lower)


def up_(p: Tensor, u: Tensor) -> Tensor:
    """In place: 1 where the noise says up (u < p), else 0; NaN is 0."""
    return torch.lt(u, p, out=p)


def thresholds(values: tuple[float, ...], *, single: bool) -> tuple[float, ...]:
    """The largest number that goes to the lower of each two neighbours; a tie goes to the even index.

    Midpoints of float32 values are exact in float64; with `single`, rounded down to float32, so that the comparison
    `y > threshold` is right for every float32 `y`.
    """
    result = []
    for index, (lower, upper) in enumerate(zip(values, values[1:], strict=False)):
        middle = (lower + upper) / 2
        if single:
            rounded = torch.tensor(middle, dtype=torch.float32)
            exact = rounded.item() == middle
            if rounded.item() > middle or (exact and index % 2 == 1):
                rounded = torch.nextafter(rounded, torch.tensor(-math.inf))
            result.append(rounded.item())
        else:
            result.append(math.nextafter(middle, -math.inf) if index % 2 == 1 else middle)
    return tuple(result)


class Staircase:
    """Counts, for each y, how many of some sorted float32 edges lie below it (below or at it, with `at`).

    A table over the upper 16 bits of the float gives the count up to the one edge that shares those bits, and a
    comparison decides about that one: two table look-ups where a binary search of 256 edges costs ten times as much.
    """

    def __init__(self, edges: tuple[float, ...], *, at: bool) -> None:
        keys = torch.arange(1 << 16, dtype=torch.int32)
        bits = keys << 16
        first = torch.where(keys < 1 << 15, bits, bits | 0xFFFF).view(torch.float32)  # the least number of each bucket
        last = torch.where(keys < 1 << 15, bits | 0xFFFF, bits).view(torch.float32)
        sorted_edges = torch.tensor(edges, dtype=torch.float32)
        below = torch.bucketize(first, sorted_edges)  # edges less than the first number
        upto = torch.bucketize(last, sorted_edges, right=True)  # edges up to the last
        inside = upto - below
        finite = first.isfinite() & last.isfinite()
        self.fits = not bool((inside[finite] > 1).any())
        # -0.0 and 0.0 are equal but differ in their bits: an edge at 0 is inside both their buckets.
        padded = torch.cat([sorted_edges, torch.tensor([math.inf])])
        edge = torch.where(inside > 0, padded[below.clamp(max=len(edges))], math.inf)
        if not at:  # y > edge  <=>  y >= next float after the edge
            edge = torch.nextafter(edge, torch.tensor(math.inf))
        self._edge = torch.where(finite, edge, math.inf)
        self._count = torch.where(finite, below, torch.where(keys < 1 << 15, len(edges), 0)).to(torch.float32)
        self._beside: dict[torch.device, tuple[Tensor, Tensor]] = {}

    def __call__(self, y: Tensor) -> Tensor:
        """float32 y -> counts, as float32; NaN counts as one of the ends."""
        if y.device not in self._beside:
            self._beside[y.device] = (self._edge.to(y.device), self._count.to(y.device))
        edge, count = self._beside[y.device]
        flat = y.reshape(-1)  # a transposed matrix is written where it lies
        key = flat.view(torch.int32).bitwise_right_shift(16).bitwise_and_(0xFFFF)
        reached = torch.le(edge.index_select(0, key), flat, out=torch.empty_like(flat))
        return reached.add_(count.index_select(0, key)).view(y.shape)
