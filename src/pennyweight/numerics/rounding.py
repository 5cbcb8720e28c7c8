"""Rounding: which neighbour on a grid a real number becomes. Nearest takes ties to even; stochastic is unbiased in value."""

import math

import torch
from torch import Tensor

_TABLES: dict[tuple, Tensor] = {}


def table(values: tuple[float, ...], like: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """The values as a tensor beside `like`; kept between calls, except for fake tensors, which must not outlive their mode."""
    dtype = dtype or like.dtype
    if type(like) not in (Tensor, torch.nn.Parameter):
        return torch.tensor(values, dtype=dtype, device=like.device)
    where = (values, dtype, like.device)
    if where not in _TABLES:
        _TABLES[where] = torch.tensor(values, dtype=dtype, device=like.device)
    return _TABLES[where]


def on_integers_(y: Tensor, u: Tensor | None) -> Tensor:
    """Rounds in place to integers: nearest with ties to even, or with noise `u` up with probability y - floor(y).

    `floor(y + u)` is not used: in float32 the sum rounds, and an integer would not stay itself for u near 1.
    """
    if u is None:
        return y.round_()
    lower = y.floor()
    return y.sub_(lower).sub_(u).ceil_().add_(lower)


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
