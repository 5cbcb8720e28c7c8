"""Clipping: where a group's range ends before it is written, so that its largest numbers do not coarsen the others."""

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from pennyweight.numerics.casts import Cast
from pennyweight.numerics.integers import Shifted
from pennyweight.numerics.strips import Tile, strips
from pennyweight.spelling import choose

CLIPPINGS = ("absmax", "mse", "percentile")
RATIOS = tuple(1 - step / 40 for step in range(29))  # 1.0, 0.975 ... 0.3 of a group's range: what `mse` tries
PERCENTILE = 99.9  # percent of a group's magnitudes that `percentile` keeps whole


@torch.no_grad()
def clipped(x: Tensor, cast: Cast, rule: str = "absmax") -> Tensor:
    """The tensor with every group of the cast cut off where the rule says; `cast(clipped(x, cast, rule))` writes it.

    absmax      nothing is cut: the range of a group ends with its largest magnitude
    mse         at the share of that magnitude, one of `RATIOS`, that leaves the least squared error to nearest
    percentile  at the least magnitude that PERCENTILE percent of the group do not exceed: of fewer than 1,000 numbers
                the largest, so that blocks stay as they are

    A cut group's scale follows from its own end, so formats and scales of every kind can be cut; shifted formats end at
    the same share of both sides of their range. `mse` is never worse than absmax in squared error, over the tensor.

    Source: the search over ratios as in Choukroun et al. 2019, arXiv:1902.06822; percentiles as in McKinstry et al.
    2018, arXiv:1809.04191. Ancestor: absmax returns x itself.
    Raises ValueError for an unknown rule.
    """
    choose("The rule of clipping", rule, CLIPPINGS)
    if rule == "absmax" or cast.native or x.numel() == 0:
        return x
    matrix = x.detach().reshape(-1, x.shape[-1])
    turned = cast.rotation(matrix.float()) if cast.rotation else matrix
    shares = _least_error(turned, cast) if rule == "mse" else _percentile(turned, cast)
    cut = _cut(turned, cast, shares)
    if cut.equal(turned):
        return x
    made = (cast.rotation(cut).to(x.dtype) if cast.rotation else cut).view(x.shape)
    return x if rule == "mse" and _error(made, x, cast) > _error(x, x, cast) else made


def _tiles(matrix: Tensor, cast: Cast) -> Iterator[tuple[Tile, Tensor]]:
    """The parts of a matrix whose groups form a regular array, and a view or copy of each in that shape."""
    height, width = matrix.shape
    for _, _, tiles in strips(cast.scale, height, width, 2**62):
        for tile in tiles:
            yield tile, matrix[tile.rows, tile.cols].reshape(tile.shape)


def _cut(matrix: Tensor, cast: Cast, shares: list[Tensor]) -> Tensor:
    """Every group clamped to its share (a number for each group of each tile) of its range."""
    out = matrix.clone()
    for (tile, part), share in zip(_tiles(matrix, cast), shares, strict=True):
        if isinstance(cast.format, Shifted):
            low, high = part.amin(tile.dims, keepdim=True), part.amax(tile.dims, keepdim=True)
        else:
            high = part.abs().amax(tile.dims, keepdim=True)
            low = -high
        kept = part.clamp(low * share, high * share)
        out[tile.rows, tile.cols] = torch.where(share < 1, kept, part).view(tile.extent)
    return out


def _least_error(matrix: Tensor, cast: Cast) -> list[Tensor]:
    """The share of each group that leaves the least squared error; the larger one of two that leave the same."""
    flat = replace(cast, rotation=None, rounding="nearest")
    best: list[tuple[Tensor, Tensor]] = []
    for ratio in RATIOS:
        every = [
            torch.full(part.sum(tile.dims, keepdim=True).shape, ratio, dtype=part.dtype, device=part.device)
            for tile, part in _tiles(matrix, cast)
        ]
        wrong = (flat(_cut(matrix, cast, every)) - matrix).double().square_()
        errors = [part.sum(tile.dims, keepdim=True) for tile, part in _tiles(wrong, cast)]
        if not best:
            best = list(zip(errors, every, strict=True))
            continue
        for place, (error, share) in enumerate(zip(errors, every, strict=True)):
            least, chosen = best[place]
            best[place] = torch.minimum(least, error), torch.where(error < least, share, chosen)
    return [share for _, share in best]


def _percentile(matrix: Tensor, cast: Cast) -> list[Tensor]:
    """The share of its largest magnitude at which PERCENTILE percent of each group are whole."""
    found = []
    for tile, part in _tiles(matrix, cast):
        inner = [part.shape[dim] for dim in tile.dims]
        count = torch.Size(inner).numel()
        rank = min(count, -int(-count * PERCENTILE // 100))
        last = part.abs().movedim(tile.dims, tuple(range(-len(tile.dims), 0))).flatten(-len(tile.dims))
        kept = last.kthvalue(rank, dim=-1).values / last.amax(-1)
        kept = kept.nan_to_num(nan=1.0)  # of a group of zeros
        for dim in sorted(tile.dims):
            kept = kept.unsqueeze(dim)
        found.append(kept)
    return found


def _error(made: Tensor, x: Tensor, cast: Cast) -> float:
    """The squared error of writing `made` in place of `x`, to nearest."""
    return (replace(cast, rounding="nearest")(made) - x).double().square().sum().item()
