"""Sums of squares: exact against Python's own, the same through every door and on any number of threads."""

import math

import pytest
import torch
from torch import Tensor

from pennyweight.kernels import compiled, squares
from pennyweight.kernels.squares import squares_by_torch

SIZES = [(0,), (1,), (31,), (33, 7), (70_001,), (300, 512)]


def tensors(dtype: torch.dtype) -> list[Tensor]:
    generator = torch.Generator().manual_seed(2)
    return [(torch.randn(size, generator=generator) * 3).to(dtype) for size in SIZES]


def by_hand(tensor: Tensor) -> float:
    return math.fsum(x * x for x in tensor.flatten().tolist())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_squares_add_up_exactly_to_rounding_of_float64(dtype: torch.dtype) -> None:
    given = tensors(dtype)
    for found in (squares(given), squares_by_torch(given)):
        assert found == pytest.approx([by_hand(tensor) for tensor in given], rel=1e-12)  # 1e5 float64 additions


def test_strided_and_mixed_tensors_keep_their_places() -> None:
    given = [torch.full((3, 4), 2.0).t(), torch.ones(5, dtype=torch.float16), torch.full((2,), 3.0), torch.ones(8)[::2]]
    assert squares(given) == pytest.approx([48.0, 5.0, 18.0, 4.0], rel=1e-14)
    assert squares([]) == []


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("place", [0, 40_000, 70_000])
def test_one_number_that_is_not_finite_shows_and_the_largest_does_not(dtype: torch.dtype, place: int) -> None:
    for bad in (math.nan, math.inf, -math.inf):
        given = torch.zeros(70_001, dtype=dtype)
        given[place] = bad
        assert not math.isfinite(squares([given])[0])
    largest = torch.full((1000,), torch.finfo(dtype).max, dtype=dtype)
    assert squares([largest])[0] == pytest.approx(1000 * torch.finfo(dtype).max ** 2, rel=1e-14)


@pytest.mark.skipif(compiled.missing() is not None, reason="no compiled kernels on this machine")
def test_the_number_of_threads_changes_no_bit_of_the_squares() -> None:
    given, found = tensors(torch.float32), []
    for threads in (1, 3):
        torch.set_num_threads(threads)
        found.append(squares(given))
    torch.set_num_threads(1)
    assert found[0] == found[1]
