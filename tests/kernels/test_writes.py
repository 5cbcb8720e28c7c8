"""Writes: the fused writing of rows gives the codes and scales of the cast, bit for bit."""

from math import inf, nan

import pytest
import torch
from torch import Tensor, library

from pennyweight.kernels import Codes, compiled, fills_blocks, is_fused, read_rows, write_rows
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


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_blocks_one_below_the_other_are_the_cast_in_blocks(dtype: torch.dtype) -> None:
    x = matrix((21, 192), dtype)
    x[3, 64:128], x[5, 130] = 0, nan
    blocks, written = write_rows(x.view(-1, 64)), cast("int8/block64").write(x)
    assert blocks.scales is not None
    assert torch.equal(blocks.numbers.view(x.shape)[:5], written.codes[:5])
    assert torch.equal(blocks.scales.view(21, 3).nan_to_num(-1), written.scales.nan_to_num(-1))


@pytest.mark.parametrize(
    ("text", "columns"),
    [("int8/block64", 100), ("int4/block64", 128), ("int8/row", 128), ("int8/square64", 128), ("mxint8/mx", 128)],
)
def test_other_blocks_are_written_by_the_cast(text: str, columns: int) -> None:
    assert fills_blocks(cast("int8/block64"), torch.ones(3, 128))
    assert not fills_blocks(cast(text), torch.ones(3, columns))


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


def every_code(columns: int = 129) -> Quantized:
    """Each code under scales that make ties of bf16, round up to infinity, vanish, or are no numbers."""
    codes = torch.arange(-128, 127 * columns - 128).view(127, columns).remainder(256).sub(128).to(torch.int8)
    scales = torch.randn(127, 1, generator=torch.Generator().manual_seed(0)).abs()
    scales[:6, 0] = torch.tensor([0.0, nan, 2.0**-126, 1 + 2.0**-8, 2.6792e36, 1.0 + 3 * 2.0**-8])
    return Quantized(codes, scales, None, None, (127, columns), ROW)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_code_is_read_as_the_cast_reads_it(dtype: torch.dtype, door: str) -> None:
    written = every_code()
    fused, expected = read_rows(written, dtype), written.read(dtype)
    assert fused.dtype == dtype
    assert fused[1].isnan().all()
    assert torch.equal(fused.nan_to_num(nan=7.0), expected.nan_to_num(nan=7.0))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", [*SHAPES, (0, 4), (4, 0), (3, 5, 40)])
def test_what_was_written_is_read_in_its_shape(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    written = ROW.write(torch.randn(shape, generator=torch.Generator().manual_seed(0)))
    assert torch.equal(read_rows(written, dtype), written.read(dtype))


@pytest.mark.parametrize("text", ["int4/row", "int8/block32", "int8/tensor", "e4m3/row", "int8/row/hadamard32"])
def test_other_casts_are_read_by_themselves(text: str) -> None:
    written = cast(text).write(matrix((8, 64), torch.float32))
    assert torch.equal(read_rows(written, torch.float32), written.read(torch.float32))


@pytest.mark.skipif(compiled.missing() is not None, reason="no compiled kernels on this machine")
def test_the_operator_that_reads_is_what_pytorch_asks_of_it() -> None:
    codes, scales = torch.ones(3, 5, dtype=torch.int8), torch.ones(3)
    library.opcheck(torch.ops.pennyweight.read_rows.default, (codes, scales, torch.bfloat16))
