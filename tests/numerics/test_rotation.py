"""A rotation is its own inverse, and leaves a product of two rotated operands as it was."""

import pytest
import torch
from torch import Tensor

from pennyweight.numerics import Hadamard


def by_definition(size: int) -> Tensor:
    """H_1 = [1], H_2n = [[H_n, H_n], [H_n, -H_n]] / sqrt(2)."""
    H = torch.ones(1, 1, dtype=torch.float64)
    while len(H) < size:
        H = torch.cat([torch.cat([H, H], 1), torch.cat([H, -H], 1)]) / 2**0.5
    return H


@pytest.mark.parametrize("size", [1, 2, 4, 8, 16, 32, 64, 128, 256])
def test_it_is_the_hadamard_matrix_and_its_own_inverse(size: int) -> None:
    rotation, eye = Hadamard(size), torch.eye(size, dtype=torch.float64)
    assert (rotation(eye) - by_definition(size)).abs().max() <= 1e-12  # float64: sums of at most 256 terms
    assert (rotation(rotation(eye)) - eye).abs().max() <= 1e-12


@pytest.mark.parametrize("k", [64, 40, 33, 7])
@pytest.mark.parametrize("size", [2, 16, 32, 256])
def test_a_product_of_rotated_operands_is_the_product(size: int, k: int) -> None:
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(rows, k, dtype=torch.float64, generator=generator) for rows in (40, 30))
    rotation = Hadamard(size)
    assert (rotation(a) @ rotation(b).T - a @ b.T).abs().max() <= 1e-12
    if k >= size:
        other = Hadamard(size // 2)
        assert (rotation(a) @ other(b).T - a @ b.T).abs().max() > 0.1  # another rotation is no identity


def test_a_ragged_tail_stays_as_it_is() -> None:
    x = torch.randn(3, 5, 37)
    turned = Hadamard(16)(x)
    assert torch.equal(turned[..., 32:], x[..., 32:])
    torch.testing.assert_close(turned[..., :16], x[..., :16] @ by_definition(16).float())
    assert torch.equal(Hadamard(64)(x), x)


@pytest.mark.parametrize("shape", [(16,), (0, 16), (4, 0), (2, 3, 32)])
def test_every_shape_is_rotated_along_its_last_axis(shape: tuple[int, ...]) -> None:
    x = torch.randn(shape, dtype=torch.float64)
    assert Hadamard(16)(x).shape == shape
    assert (Hadamard(16)(Hadamard(16)(x)) - x).abs().sum() <= 1e-11
    assert torch.equal(Hadamard(16)(x.mT.contiguous().mT if x.dim() > 1 else x), Hadamard(16)(x))


def test_autocast_does_not_lower_its_precision() -> None:
    x = torch.randn(64, 32)
    plain = Hadamard(32)(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(Hadamard(32)(x), plain)


@pytest.mark.parametrize("size", [0, 3, 48, -2])
def test_a_size_that_is_no_power_of_two_is_refused(size: int) -> None:
    with pytest.raises(ValueError, match=f"power of two as its size, got {size}"):
        Hadamard(size)
