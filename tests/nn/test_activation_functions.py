"""The activation functions of a converted model: which are replaced, what they compute, what stays as it was."""

import pickle
from copy import deepcopy

import pytest
import torch
from torch import nn
from torch.nn import functional
from transformers.activations import ACT2FN

from pennyweight.kernels.compiled import operators
from pennyweight.nn import quantize
from pennyweight.nn.activation_functions import OnePass, replace_activation_functions

compiled = pytest.mark.skipif(operators() is None, reason="the C++ kernels cannot be compiled here")


class Block(nn.Module):
    def __init__(self, act: nn.Module) -> None:
        super().__init__()
        self.up, self.act, self.down = nn.Linear(32, 64), act, nn.Linear(64, 32)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down(self.act(self.up(x)))


@pytest.mark.parametrize("name", ["silu", "swish", "gelu", "gelu_new", "gelu_pytorch_tanh", "gelu_fast", "quick_gelu"])
@pytest.mark.parametrize("slopes", [False, True])
def test_a_replaced_function_computes_what_the_stock_module_does(name, slopes):
    model = nn.Sequential(nn.Identity(), ACT2FN[name])
    x = torch.randn(9, 40, generator=torch.Generator().manual_seed(0)).requires_grad_()
    stock = model(x)
    (theirs,) = torch.autograd.grad(stock.sum(), x)
    assert replace_activation_functions(model, slopes=slopes) == ["1"]
    ours = model(x)
    torch.testing.assert_close(ours, stock, rtol=1e-5, atol=2e-6)
    (mine,) = torch.autograd.grad(ours.sum(), x)
    torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=0.0026 if slopes else 4e-6)


def test_others_subclasses_and_in_place_functions_stay():
    class Own(nn.SiLU):
        pass

    model = nn.Sequential(nn.ReLU(), nn.SiLU(inplace=True), Own(), nn.Tanh(), nn.GELU("tanh"))
    assert replace_activation_functions(model) == ["4"]


def test_inputs_that_the_operators_do_not_take_go_to_the_stock_module():
    model = nn.Sequential(nn.GELU())
    replace_activation_functions(model, slopes=True)
    x = torch.randn(5, dtype=torch.float64)
    assert torch.equal(model(x), functional.gelu(x))
    y = torch.func.vmap(torch.func.grad(lambda t: model(t).sum()))(x.float())
    assert y.shape == x.shape


@compiled
@pytest.mark.parametrize(("recipe", "kept"), [("w8a8g8", torch.uint8), ("w8a8", torch.uint8)])
def test_a_recipe_that_multiplies_codes_keeps_slopes_in_8_bits(recipe, kept):
    model = Block(nn.GELU())
    conversion = quantize(model, recipe)
    assert [name for name, _ in conversion.between] == ["act"]
    assert "act   in one pass over memory, its slopes kept in 8 bits" in str(conversion)
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        model(torch.randn(16, 32))
    assert kept in [t.dtype for t in saved if t.shape[-1:] == (64,)]


@pytest.mark.parametrize("recipe", ["bf16", "m8v8", "paper-w8a8g8", "penny4"])
def test_a_recipe_that_multiplies_no_codes_leaves_them_as_they_are(recipe):
    model = Block(nn.GELU())
    assert quantize(model, recipe).between == []
    assert type(model.act) is nn.GELU


def test_layers_only_leaves_them_as_they_are():
    model = Block(nn.GELU())
    assert quantize(model, "w8a8g8", layers_only=True).between == []
    assert type(model.act) is nn.GELU


def test_names_of_the_state_stay_and_copies_compute_the_same():
    model = Block(nn.GELU())
    names = list(model.state_dict())
    quantize(model, "w8a8g8")
    assert isinstance(model.act, OnePass)
    assert list(model.state_dict()) == names
    x = torch.randn(4, 32)
    for copy in (deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(copy(x), model(x))
        assert copy.pennyweight_conversion.between == model.pennyweight_conversion.between
