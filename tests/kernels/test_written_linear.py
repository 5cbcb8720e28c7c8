"""A linear layer on the codes of its input: the products of the reference's codes, as an operator torch can check."""

import pytest
import torch
from torch import Tensor, library
from torch.nn import functional

from pennyweight.kernels import compiled, write_rows, written_linear
from pennyweight.numerics import cast

pytestmark = pytest.mark.skipif(compiled.missing() is not None, reason=str(compiled.missing()))

INT8 = cast("int8/row")


def case(dtype: torch.dtype, turned: bool, bias: bool = True) -> tuple[Tensor, Tensor, Tensor | None, Tensor]:
    """x [9, 12], the weight of 7 outputs, their bias, and a gradient."""
    generator = torch.Generator().manual_seed(0)
    x, w, b, g = (torch.randn(*size, generator=generator) for size in ((9, 12), (7, 12), (7,), (9, 7)))
    w = (w.T.contiguous() if turned else w).requires_grad_()
    return x.to(dtype).requires_grad_(), w, b.requires_grad_() if bias else None, g.to(dtype)


def call(x: Tensor, w: Tensor, b: Tensor | None, *, turned: bool, folded: bool) -> Tensor:
    codes = write_rows(x.detach())
    assert codes.scales is not None
    return written_linear(x, codes.numbers, codes.scales, w, b, turned=turned, folded=folded, dtype=x.dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_unfolded_gradients_are_those_of_the_written_values(dtype: torch.dtype, turned: bool, bias: bool) -> None:
    x, w, b, g = case(dtype, turned, bias)
    y = call(x, w, b, turned=turned, folded=False)
    y.backward(g)

    read_x = INT8(x.detach().float()).requires_grad_()
    read_w = INT8(w.detach().T if turned else w.detach()).requires_grad_()
    low_x, low_w = read_x.to(dtype), read_w.to(dtype)
    wanted = functional.linear(low_x, low_w, None if b is None else b.detach().to(dtype))
    wanted.backward(g)
    tolerance = 1e-5 if dtype == torch.float32 else 2e-2  # of bf16: the codes are multiplied exactly, their values not
    torch.testing.assert_close(y.float(), wanted.float(), rtol=tolerance, atol=tolerance)
    assert x.grad is not None
    assert w.grad is not None
    assert read_w.grad is not None
    torch.testing.assert_close(x.grad.float(), read_x.grad, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(w.grad, read_w.grad.T if turned else read_w.grad, rtol=tolerance, atol=tolerance)
    if b is not None:
        torch.testing.assert_close(b.grad, g.float().sum(0), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("folded", [False, True])
@pytest.mark.parametrize("needs", ["x", "weight"])
def test_a_gradient_that_nobody_wants_is_not_given(folded: bool, needs: str) -> None:
    x, w, b, g = case(torch.float32, turned=False)
    call(x, w, b, turned=False, folded=folded).backward(g)
    both = x.grad, w.grad
    x, w, b, g = case(torch.float32, turned=False)
    (w if needs == "x" else x).requires_grad_(False)
    call(x, w, b, turned=False, folded=folded).backward(g)
    kept, left = (x, w) if needs == "x" else (w, x)
    wanted = both[0 if needs == "x" else 1]
    assert left.grad is None
    assert kept.grad is not None
    assert wanted is not None
    assert torch.equal(kept.grad, wanted)


@pytest.mark.parametrize("folded", [False, True])
def test_a_second_derivative_is_refused(folded: bool) -> None:
    x, w, b, _ = case(torch.float32, turned=False)
    (slope,) = torch.autograd.grad(call(x, w, b, turned=False, folded=folded).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="no create_graph=True"):
        slope.sum().backward()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("turned", [False, True])
def test_operators_are_what_pytorch_asks_of_them(dtype: torch.dtype, turned: bool) -> None:
    x, w, b, g = case(dtype, turned)
    ops = torch.ops.pennyweight
    codes, scales = ops.write_rows(x.detach(), None)
    for folded in (False, True):
        for bias in (b, None):
            library.opcheck(ops.written_linear.default, (x, codes, scales, w, bias, turned, folded, dtype))
    weight = INT8.write(w.detach().T if turned else w.detach())
    stored = ((weight.codes.T if turned else weight.codes).contiguous(), weight.scales.view(-1))
    library.opcheck(ops.written_linear.default, (x, codes, scales, w, b, turned, True, dtype, *stored))
    library.opcheck(ops.decoded_grad_input.default, (g, w.detach(), turned, dtype, dtype))
    library.opcheck(ops.decoded_grad_weight.default, (g, codes, scales, turned, dtype, torch.float32))
