"""The products of a linear layer in Triton meet the float64 products of the reference's codes."""

from collections.abc import Callable
from types import ModuleType

import pytest
import torch
from torch import Tensor, library

SHAPES = [(1, 3, 5), (140, 70, 33)]
Case = Callable[[tuple[int, int, int], torch.dtype], tuple[Tensor, Tensor, Tensor, Tensor]]
Products = Callable[[Tensor, Tensor, Tensor, Tensor], list[Tensor]]


@pytest.fixture(params=["large tiles", "small tiles"])
def tiles(request: pytest.FixtureRequest, ops: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    from pennyweight.kernels.gpu import product

    monkeypatch.setattr(product, "_processors", lambda device: 1 if request.param == "large tiles" else 1000)


@pytest.mark.usefixtures("tiles")
@pytest.mark.parametrize("turned", [False, True])
def test_the_three_products_are_those_of_the_reference_codes(
    ops: ModuleType, device: str, turned: bool, case: Case, three_products: Products
) -> None:
    for shape in SHAPES:
        x, w, b, g = case(shape, torch.float32)
        weight = (w.T if turned else w).contiguous().to(device)
        codes, scales = ops.write_rows(x.to(device), None)
        y = ops.int8_linear(codes, scales, weight, turned, b.to(device), torch.float32)
        grad_x, grad_w, total = ops.int8_linear_backward(g.to(device), codes, scales, weight, turned, torch.float32)

        for got, right in zip((y, grad_x, grad_w.T if turned else grad_w), three_products(x, w, b, g), strict=True):
            # 1e-6: the sum becomes a float32 and is multiplied, multiplied and added to
            torch.testing.assert_close(got.cpu().double(), right, rtol=1e-6, atol=1e-6 * float(right.abs().max()))
        torch.testing.assert_close(total.cpu().double(), g.double().sum(0), rtol=1e-5, atol=1e-4)


def test_long_sums_stay_exact_in_int32(ops: ModuleType, device: str) -> None:
    from pennyweight.kernels.gpu.product import product

    terms = 9_001  # times 127^2: odd and past 2^27, where float32 holds no odd number
    left = torch.full((2, terms), 127, dtype=torch.int8, device=device)
    left[1, 1::2] = -127
    one = torch.ones(2, device=device)
    y = product(left, left[:1].contiguous(), one, one[:1], None, torch.float32)
    assert y.tolist() == [[float(torch.tensor(terms * 127 * 127, dtype=torch.float32))], [127.0 * 127.0]]


@pytest.mark.parametrize("bias", [False, True])
def test_results_in_bfloat16_are_the_float32_ones_rounded(ops: ModuleType, device: str, bias: bool, case: Case) -> None:
    x, w, b, g = (tensor.to(device) for tensor in case((20, 24, 16), torch.bfloat16))
    codes, scales = ops.write_rows(x, None)
    add = b if bias else None
    low = [ops.int8_linear(codes, scales, w, False, add, torch.bfloat16)]
    high = [ops.int8_linear(codes, scales, w, False, add, torch.float32)]
    low += ops.int8_linear_backward(g, codes, scales, w.bfloat16(), False, torch.bfloat16)[:2]
    high += ops.int8_linear_backward(g, codes, scales, w.bfloat16().float(), False, torch.float32)[:2]
    for rounded, whole in zip(low, high, strict=True):
        assert rounded.dtype == torch.bfloat16
        if device == "cuda":
            assert torch.equal(rounded, whole.bfloat16())
        else:  # 2^-7: the interpreter cuts the lower bits off where a GPU rounds
            torch.testing.assert_close(rounded.float(), whole, rtol=2.0**-7, atol=0)


@pytest.mark.parametrize("turned", [False, True])
def test_operators_pass_torchs_own_checks(ops: ModuleType, device: str, turned: bool, case: Case) -> None:
    x, w, b, g = (tensor.to(device) for tensor in case((9, 12, 7), torch.float32))
    w = w.T.contiguous() if turned else w
    codes, scales = ops.write_rows(x, None)
    there = torch.ops.pennyweight_gpu
    library.opcheck(there.write_rows.default, (x, None))
    library.opcheck(there.write_turned.default, (x, None))
    library.opcheck(there.int8_linear.default, (codes, scales, w, turned, b, torch.float32))
    library.opcheck(there.int8_linear_backward.default, (g, codes, scales, w, turned, torch.float32))
