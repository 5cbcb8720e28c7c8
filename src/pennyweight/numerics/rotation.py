"""Rotation: spreads an outlier over its block before casting, so that a coarse scale loses less.

(A R)(B R)^T = A B^T for an orthogonal R, so a product of two tensors rotated alike needs no rotation back.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from pennyweight.numerics.rounding import table


def _signs(size: int) -> tuple[float, ...]:
    """Row-major entries of the unnormalised Hadamard matrix: (-1)^(number of bits that i and j share)."""
    return tuple(-1.0 if (i & j).bit_count() % 2 else 1.0 for i in range(size) for j in range(size))


@dataclass(frozen=True)
class Hadamard:
    """The Hadamard transform of each block of `size` along the last axis; a ragged tail stays as it is.

    H_1 = [1],  H_2n = [[H_n, H_n], [H_n, -H_n]] / sqrt(2):  symmetric and orthogonal, so it is its own inverse.

    Raises ValueError unless size is a power of two.
    """

    size: int = 32

    def __post_init__(self) -> None:
        if self.size < 1 or self.size & (self.size - 1):
            raise ValueError(f"a Hadamard rotation wants a power of two as its size, got {self.size}")

    def __call__(self, x: Tensor) -> Tensor:
        """x [..., C] float32 or float64 -> the rotated tensor of the same shape."""
        H = table(_signs(self.size), x).view(self.size, self.size)
        whole = x.shape[-1] - x.shape[-1] % self.size
        device = x.device.type if torch.amp.is_autocast_available(x.device.type) else "cpu"
        with torch.autocast(device, enabled=False):  # it would silently run the product in bf16
            if whole == x.shape[-1]:
                return self._blocks(x, H)
            return torch.cat([self._blocks(x[..., :whole], H), x[..., whole:]], dim=-1)

    def _blocks(self, x: Tensor, H: Tensor) -> Tensor:
        # The signs are exact in any dtype, so the scaling afterwards is the only rounding besides the sums.
        return (x.reshape(-1, self.size) @ H).mul_(self.size**-0.5).view(x.shape)
