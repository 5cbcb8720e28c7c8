"""SiLU and the GELUs in one pass: near float64 on every instruction set, slopes within 1/400, no second derivative."""

import pytest
import torch
from torch import library
from torch.nn import functional

from pennyweight.kernels import activation, activation_saving, has_activation
from pennyweight.kernels.activation_functions import FUNCTIONS, values
from pennyweight.kernels.compiled import operators

pytestmark = pytest.mark.skipif(operators() is None, reason="the C++ kernels cannot be compiled here")
TORCH = {
    "silu": functional.silu,
    "gelu_tanh": lambda x: functional.gelu(x, approximate="tanh"),
    "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x),
    "gelu": functional.gelu,
}
U = {torch.float32: 2.0**-24, torch.bfloat16: 2.0**-8}


def line(dtype: torch.dtype) -> torch.Tensor:
    return torch.cat([torch.linspace(-30, 30, 40_003), torch.tensor([0.0, -0.0, 1e-30, -1e-30, 300.0, -300.0])]).to(
        dtype
    )


@pytest.mark.parametrize("function", FUNCTIONS)
def test_the_reference_is_what_torch_computes(function):
    x = line(torch.float64).requires_grad_()
    y = TORCH[function](x)
    (slope,) = torch.autograd.grad(y.sum(), x)
    for mine, theirs in zip(values(x.detach(), function), (y, slope), strict=True):
        torch.testing.assert_close(mine, theirs.detach(), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", U)
@pytest.mark.parametrize("function", FUNCTIONS)
def test_values_and_slopes_are_within_the_stated_bounds(door, function, dtype):
    x = line(dtype)
    y, slope = values(x, function)
    leaf = x.clone().requires_grad_()
    ours = activation(leaf, function)
    assert ours.dtype == dtype
    assert ((ours.double() - y).abs() <= 1e-6 + (U[dtype] + 2**-22) * y.abs()).all()
    ours.backward(torch.ones_like(ours))
    assert ((leaf.grad.double() - slope).abs() <= 3e-6 + U[dtype] * slope.abs()).all()


@pytest.mark.parametrize("dtype", U)
@pytest.mark.parametrize("function", FUNCTIONS)
def test_slopes_in_8_bits_are_within_half_a_step_and_the_values_are_the_same(door, function, dtype):
    x = line(dtype).requires_grad_()
    y, codes = activation_saving(x, function)
    assert torch.equal(y, activation(x, function))
    assert codes.dtype == torch.uint8
    gradient = torch.full_like(y, 3.0)
    y.backward(gradient)
    slope = values(x.detach(), function)[1]
    assert ((x.grad.double() / 3 - slope).abs() <= 1 / 400 + 3e-6 + U[dtype] * 1.13).all()
    assert (x.grad[x.detach() > 25] == 3).all()
    assert (x.grad[x.detach() < -25] == 0).all()


@pytest.mark.parametrize("shape", [(0, 3), (1,), (3, 5), (2, 3, 17), (700, 1000)])
def test_any_shape_and_any_stride_gives_what_its_contiguous_copy_gives(shape):
    x = torch.randn(*shape, generator=torch.Generator().manual_seed(0))
    once = activation(x, "gelu_tanh")
    assert once.shape == x.shape
    torch.testing.assert_close(once.double(), values(x, "gelu_tanh")[0], rtol=1e-6, atol=2e-6)
    assert torch.equal(activation(x.transpose(0, -1).contiguous().transpose(0, -1), "gelu_tanh"), once)
    wide = torch.zeros(*shape[:-1], shape[-1] + 3)
    wide[..., 3:] = x
    assert torch.equal(activation(wide[..., 3:], "gelu_tanh"), once)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_what_is_no_number_stays_none_and_what_is_huge_goes_to_its_limit(door, function):
    x = torch.tensor([torch.nan, torch.inf, -torch.inf, 3e38, -3e38], requires_grad=True)
    for y in (activation(x, function), activation_saving(x, function)[0]):
        (slope,) = torch.autograd.grad(y, x, torch.ones_like(y))
        assert y[0].isnan()
        assert slope[0].isnan()
        assert y[1] == torch.inf
        torch.testing.assert_close(y[2:].detach(), torch.tensor([0.0, 3e38, 0.0]), rtol=1e-6, atol=1e-30)
        torch.testing.assert_close(slope[1:], torch.tensor([1.0, 0.0, 1.0, 0.0]), rtol=0, atol=1e-30)


def test_a_penalty_on_gradients_is_refused_before_it_counts_for_nothing():
    weight = torch.randn(4, 4, requires_grad=True)
    y = activation_saving(torch.randn(3, 4) @ weight, "silu")[0]
    with pytest.raises(RuntimeError, match="no create_graph=True"):
        torch.autograd.grad(y.sum(), weight, create_graph=True)


def test_threads_do_not_change_a_bit():
    x = torch.randn(600_001, generator=torch.Generator().manual_seed(1)).bfloat16()
    one = activation_saving(x, "gelu")
    torch.set_num_threads(2)
    for a, b in zip(one, activation_saving(x, "gelu"), strict=True):
        assert torch.equal(a, b)


def test_operators_are_what_pytorch_asks_of_them():
    x = torch.randn(7, 5, requires_grad=True)
    ops = operators()
    library.opcheck(ops.activation.default, (x, 1))
    library.opcheck(ops.activation_saving.default, (x, 0))
    library.opcheck(ops.activation_backward.default, (x.detach(), x.detach(), 2))
    library.opcheck(ops.times_slopes.default, (x.detach(), torch.zeros(7, 5, dtype=torch.uint8)))


@pytest.mark.parametrize("function", [activation, lambda x, name: activation_saving(x, name)[0]])
def test_a_second_derivative_is_refused(function):
    x = torch.randn(4, requires_grad=True)
    with pytest.raises(RuntimeError, match="no create_graph=True"):
        torch.autograd.grad(function(x, "silu").square().sum(), x, create_graph=True)[0].sum().backward()


def test_other_dtypes_are_not_taken():
    assert has_activation(torch.zeros(3))
    assert not has_activation(torch.zeros(3, dtype=torch.float64))
    assert not has_activation(torch.zeros(3, dtype=torch.float16))
    assert not has_activation(torch.zeros(3, device="meta"))
