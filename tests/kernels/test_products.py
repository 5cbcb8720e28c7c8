"""Products: arithmetic on codes equals arithmetic on what the codes stand for, or is refused by name."""

from math import nan

import pytest
import torch
from torch import Tensor

from pennyweight.kernels import Codes, multiply, product, real_reason, slow_reason
from pennyweight.numerics import cast

LEGAL = [
    ("int8/row", "int8/row"),
    ("int8/tensor", "int8/row"),
    ("int8/row", "int8/tensor"),
    ("int8/block32", "int8/block32"),
    ("int8/block32", "int8/block16"),
    ("int8/row", "int8/block16"),
    ("int8/block8", "int8/tensor"),
    ("int8/square32", "int8/square32"),
    ("int8/square8", "int8/row"),
    ("int4/row", "int8/row"),
    ("int4/block32", "int4/block32"),
    ("int2/tensor", "int3/row"),
    ("ternary/tensor", "int8/row"),
    ("mxint8/mx", "mxint8/mx"),
    ("e2m1/mx", "e2m1/mx"),
    ("e2m1/nv", "e2m1/nv"),
    ("e2m3/row", "int8/row"),
    ("e4m3/row", "e4m3/row"),
    ("e5m2/tensor", "e5m2/row"),
    ("int8/row/hadamard32", "int8/row/hadamard32"),
]
SIZES = [(1, 1, 1), (7, 37, 5), (33, 64, 17), (2, 131, 3), (0, 8, 3), (4, 8, 0)]


def matrix(rows: int, columns: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, columns, generator=generator) * torch.rand(rows, 1, generator=generator) * 3


@pytest.mark.parametrize(("left", "right"), LEGAL)
@pytest.mark.parametrize(("m", "k", "n"), SIZES)
def test_products_of_codes_equal_products_of_their_values(left: str, right: str, m: int, k: int, n: int) -> None:
    a, b = cast(left).write(matrix(m, k, 1)), cast(right).write(matrix(n, k, 2))
    u, v = a.read(torch.float64), b.read(torch.float64)
    if "hadamard" in left:  # read() rounds to float32 after turning back; compare where the codes lie
        u, v = a.read(torch.float64, rotated=True), b.read(torch.float64, rotated=True)
    bound = 1e-6 * (u.abs() @ v.abs().T)  # 1e-6: float32 scales and a float32 epilogue, the card's bound
    assert ((product(a, b).double() - u @ v.T).abs() <= bound).all()


@pytest.mark.parametrize(("left", "right"), [("int8/row", "int8/row"), ("int8/block16", "int8/block16")])
def test_the_bias_is_added_and_the_result_has_the_dtype_asked_for(left: str, right: str) -> None:
    a, b, bias = cast(left).write(matrix(9, 40, 1)), cast(right).write(matrix(6, 40, 2)), torch.randn(6)
    expected = a.read(torch.float64) @ b.read(torch.float64).T + bias.double()
    for dtype, bound in ((torch.float64, 1e-6), (torch.float32, 1e-5), (torch.bfloat16, 0.03), (torch.float16, 4e-3)):
        result = product(a, b, bias=bias, dtype=dtype)  # bounds: half a unit in the last place of values near 8
        assert result.dtype == dtype
        assert (result.double() - expected).abs().max() <= bound * expected.abs().max().clamp(min=1)


def test_a_float64_product_keeps_every_digit_of_the_codes() -> None:
    a, b = cast("int8/row").write(matrix(5, 300, 1).double()), cast("int8/row").write(matrix(4, 300, 2).double())
    expected = (a.codes.double() @ b.codes.double().T) * a.scales * b.scales.T
    assert torch.allclose(product(a, b, dtype=torch.float64), expected, rtol=1e-15, atol=0)  # order of two products


def test_a_sum_over_140_000_tokens_does_not_overflow() -> None:
    a = cast("int8/row").write(torch.ones(2, 140_000))
    assert torch.allclose(product(a, a), torch.full((2, 2), 140_000.0), rtol=1e-6)  # 1e-6: float32 scales


def test_chunks_of_the_epilogue_cover_every_row() -> None:
    a, b = cast("int8/row").write(matrix(1500, 8, 1)), cast("int8/row").write(matrix(700, 8, 2))
    expected = a.read(torch.float64) @ b.read(torch.float64).T
    assert (product(a, b).double() - expected).abs().max() < 1e-5 * expected.abs().max()


def test_a_group_with_nan_makes_its_outputs_nan_and_no_others() -> None:
    x = matrix(4, 8, 1)
    x[1, 3] = nan
    result = product(cast("int8/row").write(x), cast("int8/row").write(matrix(3, 8, 2)))
    assert result.isnan().all(1).tolist() == [False, True, False, False]


@pytest.mark.parametrize(
    ("left", "right", "named"),
    [
        ("int8/column", "int8/row", "left operand, cast int8/column"),
        ("int8/row", "int8/column", "right operand, cast int8/column"),
        ("uint8/row", "int8/row", "zero points"),
        ("int8/row", "nf4/block64", "right operand, cast nf4/block64"),
        ("e4m3/row", "int8/row", "e4m3 times int8"),
        ("e3m2/row", "e3m2/row", "left operand, cast e3m2/row"),
        ("int8/row/hadamard32", "int8/row", "two bases"),
        ("int8/block32", "int8/block24", "line up"),
    ],
)
def test_what_cannot_be_summed_is_refused_naming_the_operand(left: str, right: str, named: str) -> None:
    a, b = cast(left).write(matrix(4, 64, 1)), cast(right).write(matrix(3, 64, 2))
    with pytest.raises(ValueError, match=named):
        product(a, b)
    assert named in (real_reason(cast(left), cast(right)) or "")


def test_what_can_be_summed_gives_no_reason_against_it() -> None:
    assert all(real_reason(cast(left), cast(right)) is None for left, right in LEGAL)


def test_blocks_are_possible_but_slow() -> None:
    assert slow_reason(cast("int8/row"), cast("int8/row")) is None
    assert "block" in (slow_reason(cast("int4/block32"), cast("int4/block32")) or "")


def test_turning_codes_whose_scales_would_stand_inside_the_sum_is_refused() -> None:
    numbers, rows = torch.ones(4, 6, dtype=torch.int8), torch.ones(4, 1)
    with pytest.raises(ValueError, match="cannot be turned"):
        _ = Codes(numbers, rows).T
    with pytest.raises(ValueError, match="cannot be turned"):
        _ = Codes(numbers, torch.ones(4, 3), block=2).T


def test_square_tiles_turn_with_their_numbers() -> None:
    x, y = matrix(20, 45, 1), matrix(20, 7, 2)
    a, b = cast("int8/square16").write(x), cast("int8/row").write(y.T)
    turned = Codes(a.codes, a.scale_values(), 16, square=True).T
    expected = a.read(torch.float64).T @ b.read(torch.float64).T
    result = multiply(turned, Codes(b.codes, b.scale_values()), dtype=torch.float64)
    assert (result - expected).abs().max() < 1e-6 * expected.abs().max()
