"""Sampling: rows or columns of a matrix that say what a cast does to all of it, each under the scale it really has."""

import torch
from torch import Tensor

from pennyweight.numerics import Cast

NUMBERS = 1 << 14  # of a tensor that are looked at: shares and decibels of a tensor move less with it than by its layer


def strided(count: int, wanted: int) -> Tensor:
    """At most `wanted` of `count` places (all, where there are no more), evenly spread from the first on."""
    wanted = max(1, min(wanted, count))
    return torch.arange(wanted) * count // wanted


def sample(matrix: Tensor, cast: Cast | None, *, numbers: int = NUMBERS) -> Tensor:
    """About `numbers` numbers of a matrix [R, C], as a matrix whose groups a cast scales as it scales the whole's.

    Rows, where a group lies within one; columns, where it lies within one of those; bands of whole squares. Where one
    scale belongs to the whole tensor, rows and the one that holds the largest magnitude. None: no cast, so any rows.

    Ancestor: `numbers` of R C or more is the matrix itself.
    """
    R, C = matrix.shape
    if matrix.numel() <= numbers:
        return matrix
    granularity = "row" if cast is None else cast.scale.granularity
    if granularity == "column":
        return matrix[:, strided(C, numbers // R).to(matrix.device)]
    rows = strided(R, numbers // C)
    if cast is not None and granularity == "square":
        bands = strided(-(-R // cast.scale.size), numbers // (C * cast.scale.size))
        rows = (bands[:, None] * cast.scale.size + torch.arange(cast.scale.size)).view(-1)
        rows = rows[rows < R]
    rows = rows.to(matrix.device)
    if cast is not None and (granularity == "tensor" or cast.scale.number == "e4m3"):
        rows = torch.unique(torch.cat([rows, largest_row(matrix)]))
    return matrix[rows]


def largest_row(matrix: Tensor) -> Tensor:
    """[1]: the row that holds the largest magnitude."""
    return (matrix.detach().abs().argmax() // matrix.shape[1]).view(1)
