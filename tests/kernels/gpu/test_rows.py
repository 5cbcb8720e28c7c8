"""Rows and columns written by the Triton kernels are the codes and scales of the cast, bit for bit."""

from types import ModuleType

import pytest
import torch
from torch import Tensor

from pennyweight.numerics import cast

SHAPES = [(1, 5), (9, 129), (20, 64)]
INT8 = cast("int8/row")
FLOAT8 = {"e4m3": torch.float8_e4m3fn, "e5m2": torch.float8_e5m2}
BAD = [float("nan"), float("inf"), float("-inf")]


def matrix(shape: tuple[int, int], dtype: torch.dtype) -> Tensor:
    """Rows of very different magnitudes, one of zeros."""
    generator = torch.Generator().manual_seed(shape[1])
    x = torch.randn(shape, generator=generator) * 2.0 ** torch.randint(-20, 14, (shape[0], 1), generator=generator)
    x[shape[0] // 2] = 0
    return x.clamp(-6e4, 6e4).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("fold", [False, True])
def test_rows_are_the_cast_bit_for_bit(ops: ModuleType, device: str, dtype: torch.dtype, fold: bool) -> None:
    for shape in [*SHAPES, (2, 8200)]:  # the last is longer than a program holds at once
        x = matrix(shape, dtype)
        factor = torch.rand(shape[1]) + 0.1 if fold else None
        codes, scales = ops.write_rows(x.to(device), None if factor is None else factor.to(device))
        wanted = INT8.write(x if factor is None else x.float() * factor)
        assert torch.equal(codes.cpu(), wanted.codes)
        assert torch.equal(scales.cpu()[:, None], wanted.scales)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("fold", [False, True])
def test_rows_written_turned_are_the_cast_of_the_turned_matrix(
    ops: ModuleType, device: str, dtype: torch.dtype, fold: bool
) -> None:
    for shape in [*SHAPES, (150, 7)]:  # the last has more rows than one strip
        x = matrix(shape, dtype)
        factor = torch.rand(shape[0]) + 0.1 if fold else None
        codes, scales = ops.write_turned(x.to(device), None if factor is None else factor.to(device))
        wanted = INT8.write((x if factor is None else x.float() * factor[:, None]).T)
        assert torch.equal(codes.cpu(), wanted.codes)
        assert torch.equal(scales.cpu()[:, None], wanted.scales)


def test_rows_may_lie_apart(ops: ModuleType, device: str) -> None:
    x = matrix((40, 64), torch.float32)
    wanted = INT8.write(x[::2, 3:50])
    assert torch.equal(ops.write_rows(x.to(device)[::2, 3:50], None)[0].cpu(), wanted.codes)
    wanted = INT8.write(x[::2, 3:50].T)
    assert torch.equal(ops.write_turned(x.to(device)[::2, 3:50], None)[0].cpu(), wanted.codes)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # numpy's, of a sum's overflow, inside the interpreter
@pytest.mark.parametrize("magnitude", [1e-44, 1e-38, 1e-30, 1e30, 3e38])
def test_rows_at_the_ends_of_the_range_are_the_cast(ops: ModuleType, device: str, magnitude: float) -> None:
    x = torch.randn(5, 40).clamp(-1, 1) * magnitude
    wanted = INT8.write(x)
    for codes, scales in (ops.write_rows(x.to(device), None), ops.write_turned(x.T.contiguous().to(device), None)):
        assert torch.equal(codes.cpu(), wanted.codes)
        assert torch.equal(scales.cpu()[:, None], wanted.scales)


def test_ties_go_to_the_even_code(ops: ModuleType, device: str) -> None:
    x = torch.tensor([[127.0, 0.5, 1.5, 2.5, -0.5, -1.5, -2.5, 126.5]])
    assert ops.write_rows(x.to(device), None)[0].tolist() == [[127, 0, 2, 2, 0, -2, -2, 126]]


@pytest.mark.parametrize("bad", BAD)
def test_what_is_not_finite_gets_a_scale_of_nan_and_leaves_the_others_alone(
    ops: ModuleType, device: str, bad: float
) -> None:
    x = torch.randn(3, 40)
    x[1, 37] = bad
    x = x.to(device)
    assert ops.write_rows(x, None)[1].isnan().tolist() == [False, True, False]
    assert ops.write_turned(x.T.contiguous(), None)[1].isnan().tolist() == [False, True, False]
    assert ops.write_rows(x, None, torch.float8_e5m2)[1].isnan().tolist() == [False, True, False]


@pytest.mark.parametrize("name", FLOAT8)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_float8_rows_are_the_cast_bit_for_bit(ops: ModuleType, device: str, name: str, dtype: torch.dtype) -> None:
    if device == "cuda" and torch.cuda.get_device_capability() < (8, 9):
        pytest.skip("this GPU has no float8")
    for shape in SHAPES:
        x = matrix(shape, dtype)
        x[0] *= torch.logspace(-6, 0, shape[1]).to(dtype)  # reaches below the smallest normal code
        factor = torch.rand(shape[1]) + 0.1
        codes, scales = ops.write_rows(x.to(device), factor.to(device), FLOAT8[name])
        wanted = cast(f"{name}/row").write(x.float() * factor)
        assert codes.dtype == FLOAT8[name]
        assert torch.equal(codes.view(torch.uint8).cpu(), wanted.codes)
        assert torch.equal(scales.cpu()[:, None], wanted.scales)
