"""Every instruction set's way of an integer linear layer meets the float64 products of the reference's codes."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, library

from pennyweight.kernels import compiled, integer_linear
from pennyweight.numerics import cast

SHAPES = [(64, 64, 32), (1, 3, 5), (100, 70, 50), (33, 129, 31), (513, 768, 96), (300, 257, 600)]
INT8 = cast("int8/row")
Case = Callable[[tuple[int, int, int], torch.dtype], tuple[Tensor, Tensor, Tensor, Tensor]]
Products = Callable[[Tensor, Tensor, Tensor, Tensor], list[Tensor]]

pytestmark = pytest.mark.skipif(compiled.missing() is not None, reason=str(compiled.missing()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("fold", [False, True])
def test_rows_are_the_reference_codes_bit_for_bit(door: str, dtype: torch.dtype, fold: bool, case: Case) -> None:
    for shape in SHAPES:
        x = case(shape, dtype)[0]
        factor = torch.rand(x.shape[1]) + 0.1 if fold else None
        codes, scales = torch.ops.pennyweight.write_rows(x, factor)
        wanted = INT8.write(x if factor is None else x.float() * factor)
        assert torch.equal(codes, wanted.codes)
        assert torch.equal(scales[:, None], wanted.scales)


@pytest.mark.parametrize("magnitude", [1e-44, 1e-38, 1e-30, 1e30, 3e38])
def test_rows_at_the_ends_of_the_range_are_the_reference_codes(door: str, magnitude: float) -> None:
    x = torch.randn(5, 40).clamp(-1, 1) * magnitude
    codes, scales = torch.ops.pennyweight.write_rows(x, None)
    wanted = INT8.write(x)
    assert torch.equal(codes, wanted.codes)
    assert torch.equal(scales[:, None], wanted.scales)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("column", [0, 15, 37, 39])
def test_a_row_that_is_not_finite_has_a_scale_of_nan(door: str, bad: float, column: int) -> None:
    x = torch.randn(3, 40)
    x[1, column] = bad
    scales = torch.ops.pennyweight.write_rows(x, None)[1]
    assert scales.isnan().tolist() == [False, True, False]


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_three_products_are_those_of_the_reference_codes(
    door: str, turned: bool, dtype: torch.dtype, case: Case, three_products: Products
) -> None:
    for shape in SHAPES:
        x, w, b, g = case(shape, dtype)
        weight = w.T.contiguous() if turned else w
        codes, scales = torch.ops.pennyweight.write_rows(x, None)
        y = integer_linear.int8_linear(codes, scales, weight, b, turned=turned, dtype=torch.float32)
        grad_x, grad_w, total = integer_linear.int8_linear_backward(
            g, codes, scales, weight, turned=turned, dtype=torch.float32
        )

        for got, right in zip((y, grad_x, grad_w.T if turned else grad_w), three_products(x, w, b, g), strict=True):
            torch.testing.assert_close(got.double(), right, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(total.double(), g.double().sum(0), rtol=1e-5, atol=1e-4)


def test_every_door_gives_the_same_bits(doors: tuple[str, ...], case: Case) -> None:
    ops = torch.ops.pennyweight
    usual, results = ops.door_name(), []
    x, w, b, g = case((130, 200, 90), torch.bfloat16)
    for name in doors:
        if ops.take_door(name):
            codes, scales = ops.write_rows(x, None)
            for turned, weight in ((False, w), (True, w.T.contiguous())):
                y = ops.int8_linear(codes, scales, weight, turned, b, torch.bfloat16)
                results.append((turned, y, *ops.int8_linear_backward(g, codes, scales, weight, turned, torch.bfloat16)))
    ops.take_door(usual)
    for turned, *tensors in results:
        first = next(other for other in results if other[0] == turned)
        assert all(torch.equal(mine, its) for mine, its in zip(tensors, first[1:], strict=True))


def test_the_number_of_threads_changes_no_bit(case: Case) -> None:
    ops = torch.ops.pennyweight
    x, w, _, g = case((700, 96, 160), torch.bfloat16)
    codes, scales = ops.write_rows(x, None)
    before, results = torch.get_num_threads(), []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        results.append(ops.int8_linear_backward(g, codes, scales, w, False, torch.float32))
    torch.set_num_threads(before)
    assert all(torch.equal(a, b) for result in results for a, b in zip(result, results[0], strict=True))


def test_operators_pass_torchs_own_checks(case: Case) -> None:
    x, w, b, g = case((9, 12, 7), torch.float32)
    codes, scales = torch.ops.pennyweight.write_rows(x, None)
    ops = torch.ops.pennyweight
    library.opcheck(ops.write_rows.default, (x, None))
    library.opcheck(ops.int8_linear.default, (codes, scales, w, False, b, torch.float32))
    library.opcheck(ops.int8_linear_backward.default, (g, codes, scales, w, False, torch.float32))
    weight = INT8.write(w)
    extra = (weight.codes, False, b, torch.float32, weight.scales.view(-1))
    library.opcheck(ops.int8_linear.default, (codes, scales, *extra))
    extra = (weight.codes, False, torch.float32, weight.scales.view(-1))
    library.opcheck(ops.int8_linear_backward.default, (g, codes, scales, *extra))


@pytest.mark.parametrize("turned", [False, True])
def test_a_weight_given_as_codes_is_the_weight_written_on_the_way(door: str, turned: bool, case: Case) -> None:
    for shape in SHAPES:
        x, w, b, g = case(shape, torch.float32)
        rows, weight = INT8.write(x), INT8.write(w)
        lies, plain = (weight.codes.T, w.T) if turned else (weight.codes, w)
        scales = weight.scales.view(-1)
        for given, extra in ((plain.contiguous(), None), (lies.contiguous(), scales)):
            arguments = {"turned": turned, "dtype": torch.float32, "weight_scales": extra}
            y = integer_linear.int8_linear(rows.codes, rows.scales, given, b, **arguments)
            back = integer_linear.int8_linear_backward(g, rows.codes, rows.scales, given, **arguments)
            if extra is None:
                expected = (y, *back)
                continue
            assert back[1].dtype == torch.float32
            assert all(torch.equal(one, other) for one, other in zip(expected, (y, *back), strict=True))


def test_a_gradient_has_no_derivative(case: Case) -> None:
    x, w, _, g = case((9, 12, 7), torch.float32)
    codes, scales = torch.ops.pennyweight.write_rows(x, None)
    g.requires_grad_()
    grad_x = torch.ops.pennyweight.int8_linear_backward(g, codes, scales, w, False, torch.float32)[0]
    with pytest.raises(RuntimeError, match="no create_graph=True"):
        grad_x.sum().backward()
