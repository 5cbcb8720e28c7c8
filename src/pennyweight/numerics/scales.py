"""Scales: how each group of a matrix is stretched onto a format, and how the stretch itself is written."""

import math
from dataclasses import dataclass
from typing import Literal

from pennyweight.spelling import choose

Granularity = Literal["tensor", "row", "column", "block", "square"]
MX_BLOCK, NV_BLOCK = 32, 16  # the block sizes that the names mx and nv stand for
PUBLISHED_FLOOR = 1e-5
_CHOICES = {
    "granularity": ("tensor", "row", "column", "block", "square"),
    "number": ("fp32", "pow2", "e8m0", "e4m3", "one"),
    "arithmetic": ("float32", "given"),
}
_MODES = {"e8m0": ("floor", "even", "ceil", "rceil"), "e4m3": ("nearest", "up")}


@dataclass(frozen=True)
class Scale:
    """One stretch for each group of numbers, from the group's largest magnitude (shifted formats: from its range).

    granularity: tensor | row (last axis) | column (first axis) | block (runs of `block` in a row) | square (tiles).
    number: how the scale is written: fp32, pow2 (a power of two), e8m0 (MX, one byte), e4m3 (NV, with a tensor scale),
        or one (no scale: for formats that can write NaN themselves).
    mode: e8m0 rounds by floor | even | ceil | rceil, e4m3 by nearest | up; None: even or nearest, and rceil or up when
        the elements are rounded stochastically, because a saturating scale would bias them.
    floor: least magnitude of a group, in the tensor's units; the published code used 1e-5, here it is 0.
    arithmetic: float32 (float64 for float64 input), or "given": in the tensor's own dtype, as the published code did.

    Source: Rouhani et al. 2023 (OCP MX); arXiv:2509.25149 (NV); Chitsaz et al. 2024, arXiv:2407.11722 (published).
    """

    granularity: Granularity = "row"
    block: int | None = None
    number: Literal["fp32", "pow2", "e8m0", "e4m3", "one"] = "fp32"
    mode: str | None = None
    floor: float = 0.0
    arithmetic: Literal["float32", "given"] = "float32"

    @property
    def size(self) -> int:
        """Numbers along one edge of a block or square."""
        assert self.block is not None
        return self.block

    def __post_init__(self) -> None:
        for what in ("granularity", "number", "arithmetic"):
            choose(f"Scale.{what}", getattr(self, what), _CHOICES[what])
        blocked = self.granularity in ("block", "square")
        if blocked and (self.block is None or self.block < 1):
            raise ValueError(f"a {self.granularity} scale wants a block of 1 or more elements, got {self.block}")
        if not blocked and self.block is not None:
            raise ValueError(f"a {self.granularity} scale has no block size, got block={self.block}")
        if self.mode is not None and self.mode not in _MODES.get(self.number, ()):
            known = ", ".join(_MODES.get(self.number, ())) or "none"
            raise ValueError(f"a scale written in {self.number} has no mode {self.mode!r}; known: {known}")
        if not 0 <= self.floor < math.inf:
            raise ValueError(f"the floor of a scale is 0 or more, and finite, got {self.floor}")

    def __str__(self) -> str:
        mode = f"-{self.mode}" if self.mode else ""
        if (self.granularity, self.block, self.number) == ("block", MX_BLOCK, "e8m0"):
            words = ["mx" + mode]
        elif (self.granularity, self.block, self.number) == ("block", NV_BLOCK, "e4m3"):
            words = ["nv" + mode]
        else:
            words = [f"{self.granularity}{self.block or ''}"]
            words += {"fp32": [], "one": ["unit"]}.get(self.number, [self.number + mode])
        if self.arithmetic == "given":
            words.append("published" if self.floor == PUBLISHED_FLOOR else f"published-{float(self.floor)!r}")
        elif self.floor:
            words.append(f"floor-{float(self.floor)!r}")
        return "/".join(words)


def groups(scale: Scale, R: int, C: int) -> tuple[int, int]:
    """Shape of the array of scales of an [R, C] matrix."""
    match scale.granularity:
        case "tensor":
            return 1, 1
        case "row":
            return R, 1
        case "column":
            return 1, C
        case "block":
            return R, -(-C // scale.size)
        case "square":
            return -(-R // scale.size), -(-C // scale.size)
