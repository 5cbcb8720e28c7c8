"""Strips: how a matrix is cut so that every group of a scale lies within one cut, and temporaries stay in cache."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

from pennyweight.numerics.scales import Scale


@dataclass(frozen=True)
class Tile:
    """A part of the matrix whose groups form a regular array.

    shape: of the part as an array of groups; dims: those inside a group; group_rows, group_cols: where its groups
    stand in the array of scales.
    """

    rows: slice
    cols: slice
    shape: tuple[int, ...]
    dims: tuple[int, ...]
    group_rows: slice
    group_cols: slice

    @property
    def extent(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.rows.stop - self.rows.start, self.cols.stop - self.cols.start


Strip = tuple[slice, slice, tuple[Tile, ...]]


def strips(scale: Scale, R: int, C: int, elements: int, *, multiple: int = 8) -> Iterator[Strip]:
    """Cuts an [R, C] matrix into strips of about `elements` numbers, contiguous in memory and of whole groups.

    Only a strip at the right edge may be narrower than a multiple of `multiple`.
    """
    if scale.granularity == "square":
        yield from _bands(scale, R, C, elements)
    elif R == 1 and scale.granularity in ("tensor", "block"):
        unit = math.lcm(multiple, scale.block or 1)
        width = unit * max(1, elements // unit)
        for left in range(0, C, width):
            cols = slice(left, min(left + width, C))
            yield slice(0, 1), cols, _tiles(scale, slice(0, 1), cols)
    else:
        height = max(1, elements // max(C, 1))
        for top in range(0, R, height):
            rows = slice(top, min(top + height, R))
            yield rows, slice(0, C), _tiles(scale, rows, slice(0, C))


def _tiles(scale: Scale, rows: slice, cols: slice) -> tuple[Tile, ...]:
    r, c = rows.stop - rows.start, cols.stop - cols.start
    match scale.granularity:
        case "tensor":
            return (Tile(rows, cols, (r, c), (0, 1), slice(0, 1), slice(0, 1)),)
        case "row":
            return (Tile(rows, cols, (r, c), (1,), rows, slice(0, 1)),)
        case "column":
            return (Tile(rows, cols, (r, c), (0,), slice(0, 1), cols),)
    return tuple(
        Tile(rows, part, (r, number, size), (2,), rows, places)
        for part, number, size, places in _runs(scale.size, cols)
    )


def _runs(block: int, cols: slice) -> Iterator[tuple[slice, int, int, slice]]:
    """Whole blocks and the ragged rest of a run of columns that begins at a block."""
    first = cols.start // block
    whole = (cols.stop - cols.start) // block
    edge = cols.start + whole * block
    if whole:
        yield slice(cols.start, edge), whole, block, slice(first, first + whole)
    if edge < cols.stop:
        yield slice(edge, cols.stop), 1, cols.stop - edge, slice(first + whole, first + whole + 1)


def _bands(scale: Scale, R: int, C: int, elements: int) -> Iterator[Strip]:
    block, cols = scale.size, slice(0, C)
    together = max(1, elements // max(block * C, 1))
    top = 0
    while top < R:
        bands = min(together, (R - top) // block)
        height = bands * block if bands else R - top
        shape, rows = (max(bands, 1), height // max(bands, 1)), slice(top, top + height)
        places = slice(top // block, top // block + shape[0])
        yield (
            rows,
            cols,
            tuple(
                Tile(rows, part, (*shape, number, size), (1, 3), places, where)
                for part, number, size, where in _runs(block, cols)
            ),
        )
        top += height
