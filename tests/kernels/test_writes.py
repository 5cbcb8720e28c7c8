"""Writes: the fused writing of rows gives the codes and scales of the cast, bit for bit."""

from math import inf, nan

import pytest
import torch
from torch import Tensor

from pennyweight.kernels import Codes, is_fused, write_rows
from pennyweight.numerics import Quantized, cast

ROW = cast("int8/row")
SHAPES = [(1, 1), (1, 9), (9, 1), (5, 7), (130, 600), (600, 130)]


def matrix(shape: tuple[int, int], dtype: torch.dtype) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(shape, generator=generator) * 2.0 ** torch.randint(-20, 20, (shape[0], 1), generator=generator)
    return x.clamp(-6e4, 6e4).to(dtype)


def assert_same(fused: Codes, written: Quantized) -> None:
    assert fused.scales is not None
    assert torch.equal(fused.scales, written.scales)
    assert torch.equal(fused.numbers, written.codes)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", SHAPES)
def test_fused_rows_are_the_cast(shape: tuple[int, int], dtype: torch.dtype) -> None:
    x = matrix(shape, dtype)
    assert_same(write_rows(x), ROW.write(x))
    assert_same(write_rows(x.T), ROW.write(x.T))


@pytest.mark.parametrize("shape", SHAPES)
def test_folding_multiplies_before_writing(shape: tuple[int, int]) -> None:
    x = matrix(shape, torch.bfloat16)
    scales = torch.rand(1, shape[1])
    assert_same(write_rows(x, fold=scales), ROW.write(x.float() * scales))
    assert_same(write_rows(x.T, fold=scales[:, :1]), ROW.write(x.T.float() * scales[:, :1]))
    token_scales = torch.rand(1, shape[0])
    assert_same(write_rows(x.T, fold=token_scales), ROW.write(x.T.float() * token_scales))


def test_rows_of_zeros_and_vanishing_rows_are_zero() -> None:
    x = torch.tensor([[0.0, 0.0], [1e-40, -1e-40], [3.0, 1.0]])
    assert_same(write_rows(x), ROW.write(x))
    assert write_rows(x).numbers[:2].eq(0).all()


def test_a_row_with_nan_or_infinity_gets_a_nan_scale_and_leaves_the_others_alone() -> None:
    x = torch.tensor([[1.0, nan], [inf, 2.0], [3.0, 1.0]])
    for fused in (write_rows(x), write_rows(x.T.contiguous().T)):
        assert fused.scales is not None
        assert fused.scales.isnan().flatten().tolist() == [True, True, False]
        assert fused.numbers[2].tolist() == [127, 42]


def test_sliced_and_expanded_matrices_are_written() -> None:
    x = matrix((40, 64), torch.float32)
    assert_same(write_rows(x[::2, 3:50]), ROW.write(x[::2, 3:50]))
    one = torch.ones(()).expand(6, 5)
    assert_same(write_rows(one), ROW.write(one))


@pytest.mark.parametrize(
    "text", ["int4/row", "int8/tensor", "int8/row/published", "int8/row/stochastic", "int8/row/hadamard32"]
)
def test_only_the_cast_it_was_made_for_is_fused(text: str) -> None:
    assert is_fused(ROW, torch.ones(2, 2))
    assert not is_fused(cast(text), torch.ones(2, 2))
    assert not is_fused(ROW, torch.ones(2, 2).double())
    assert not is_fused(ROW, torch.ones(0, 2))
