"""Compensation: rounding a matrix column by column, each error taken up by the columns that are still to be rounded."""

from dataclasses import replace

import torch
from torch import Tensor

from pennyweight.numerics.casts import Cast
from pennyweight.numerics.clipping import clipped
from pennyweight.numerics.companding import Expanded, LogRange
from pennyweight.numerics.integers import Shifted

DAMPING = 0.01  # of the mean of the diagonal, added to it: what makes the matrix of few inputs invertible
TOGETHER = 128  # columns whose errors reach the columns behind them in one product


@torch.no_grad()
def compensated(x: Tensor, second: Tensor, cast: Cast, clipping: str = "absmax") -> Tensor:
    """x [R, C] on the numbers that the cast can write, so that x' a is near x a for inputs a like those seen: GPTQ.

    second    [C, C]: the sum of a a^T over the inputs; what (x' - x) second (x' - x)^T has on its diagonal is lowered
    clipping  where the groups of x are cut (`clipped`) before their scales are taken; the scales then stay

    Columns are rounded to nearest in order; what one loses is taken from those behind it in the proportions of the
    inverse of `second`. Returns the decoded tensor: casting it anew could take other scales.

    Source: Frantar et al. 2022, arXiv:2210.17323, with scales taken before the first column ("static groups").
    Ancestor: where `second` is diagonal, absmax is the cast to nearest, bit for bit.
    Raises ValueError for formats that are not a scale times a level, and for shapes that do not fit.
    """
    if isinstance(cast.format, Shifted | LogRange | Expanded) or cast.native:
        raise ValueError(f"compensation rounds numbers that are a scale times a level, got the cast {cast}")
    rows, width = x.shape
    if second.shape != (width, width):
        raise ValueError(f"inputs of {width} channels have a second moment [{width}, {width}], got {second.shape}")
    flat = replace(cast, rotation=None, rounding="nearest")
    turn = cast.rotation or (lambda same: same)
    moment = turn(turn(second.double()).T.contiguous())
    y = turn(x.float()).clone()
    scales = _spread(flat.write(clipped(y, flat, clipping)).scale_values(), cast, rows, width)
    factor = _factor(moment).to(y.dtype)
    done = torch.empty_like(y)
    for begin in range(0, width, TOGETHER):
        end = min(begin + TOGETHER, width)
        errors = torch.zeros(rows, end - begin, dtype=y.dtype, device=y.device)
        for column in range(begin, end):
            scale = scales[:, column]
            level = flat.format.round(y[:, column] / scale.masked_fill(scale == 0, torch.inf))
            done[:, column] = level * scale
            errors[:, column - begin] = (y[:, column] - done[:, column]) / factor[column, column]
            y[:, column:end] -= torch.outer(errors[:, column - begin], factor[column, column:end])
        y[:, end:] -= errors @ factor[begin:end, end:]
    return turn(done).to(x.dtype)


def _factor(moment: Tensor) -> Tensor:
    """The upper factor U of the inverse, U^T U: row i holds in what proportions the error of column i is taken up."""
    diagonal = moment.diagonal()
    unseen = diagonal == 0  # a channel that no input reaches: its weights are rounded as they are
    damped = moment + torch.diag(torch.where(unseen, 1.0, DAMPING * diagonal.mean()))
    return torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(damped)), upper=True)


def _spread(scales: Tensor, cast: Cast, rows: int, width: int) -> Tensor:
    """The scale of every number, from the array of scales of the groups."""
    if cast.scale.granularity in ("block", "square"):
        scales = scales.repeat_interleave(cast.scale.size, dim=1)[:, :width]
    if cast.scale.granularity == "square":
        scales = scales.repeat_interleave(cast.scale.size, dim=0)[:rows]
    return scales.expand(rows, width)
