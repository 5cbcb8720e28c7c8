"""Forward-mode differentiation: what a converted model is made of gives tangents, or says that it does not."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.func import functional_call, jvp
from torch.nn import functional
from transformers import GPT2Config, GPT2LMHeadModel
from transformers.pytorch_utils import Conv1D

from pennyweight.nn import head_cross_entropy, quantize
from pennyweight.nn.activation_functions import OnePass
from pennyweight.nn.attention import attention_forward

# torch compiles some of its forward derivatives by a way of its own that it warns of
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
IN, OUT = 32, 48


def dual(function: Callable[[Tensor], Tensor], x: Tensor, along: Tensor) -> tuple[Tensor, Tensor]:
    """`torch.func.jvp` by the other door of torch."""
    with forward_ad.dual_level():
        y = forward_ad.unpack_dual(function(forward_ad.make_dual(x, along)))
        assert y.tangent is not None
        return y.primal, y.tangent


def doubled(function: Callable[[Tensor], Tensor], x: Tensor, along: Tensor) -> tuple[Tensor, Tensor]:
    return jvp(function, (x,), (along,))  # type: ignore[return-value]  # a pair without `has_aux`


DOORS = pytest.mark.parametrize("door", [dual, doubled])


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def rows(x: Tensor) -> Tensor:
    """The oracle: 8 bits, one scale for each row."""
    scale = x.abs().amax(-1, keepdim=True) / 127
    return (x / scale).round() * scale


@DOORS
@pytest.mark.parametrize("slopes", [False, True])
@pytest.mark.parametrize("grad", [False, True])
def test_an_activation_function_has_the_tangent_of_its_slope(door, slopes: bool, grad: bool) -> None:
    x, along = normal(8, IN), normal(8, IN, seed=1)
    _, found = door(OnePass(nn.GELU(), "gelu", slopes=slopes), x.clone().requires_grad_(grad), along)
    z = x.double()
    slope = (1 + torch.erf(z / 2**0.5)) / 2 + z * torch.exp(-z * z / 2) / (2 * torch.pi) ** 0.5
    torch.testing.assert_close(found.double(), slope * along, rtol=1e-5, atol=1e-5)  # float32


@DOORS
@pytest.mark.parametrize("recipe", ["w8a8", "w8a8g8", "penny8k8"])
@pytest.mark.parametrize("turned", [False, True])
def test_a_written_layer_passes_tangents_straight_through(door, recipe: str, turned: bool) -> None:
    model = nn.Sequential(nn.Identity(), Conv1D(OUT, IN) if turned else nn.Linear(IN, OUT))
    quantize(model, recipe)
    x, along = normal(8, IN), normal(8, IN, seed=1)
    weight, bias = (p.detach() for p in model.parameters())
    matrix = weight.T if turned else weight
    with torch.no_grad():
        plain = model(x)
    y, of_x = door(model, x, along)
    assert torch.equal(y, plain)
    torch.testing.assert_close(of_x, along @ rows(matrix).T, rtol=1e-5, atol=1e-5)  # float32 sums
    step = normal(*weight.shape, seed=2)
    _, of_weight = door(lambda w: functional_call(model, {"1.weight": w}, (x,)), weight, step)
    torch.testing.assert_close(of_weight, rows(x) @ (step.T if turned else step).T, rtol=1e-5, atol=1e-5)
    _, of_bias = door(lambda b: functional_call(model, {"1.bias": b}, (x,)), bias, torch.arange(float(OUT)))
    assert torch.equal(of_bias, torch.arange(float(OUT)).expand(8, OUT))


@DOORS
def test_attention_has_the_tangent_of_its_formula(door) -> None:
    q, k, v, along = (normal(1, 2, 40, 64, seed=seed).bfloat16() for seed in range(4))
    module: Any = nn.Module()

    def formula(q: Tensor) -> Tensor:
        scores = (q @ k.double().mT / 8).masked_fill(torch.ones(40, 40).triu(1).bool(), -torch.inf)
        return (scores.softmax(-1) @ v.double()).transpose(1, 2)

    _, found = door(lambda q: attention_forward(module, q, k, v, None)[0], q, along)
    _, wanted = jvp(formula, (q.double(),), (along.double(),))  # type: ignore[misc]  # a pair without `has_aux`
    assert (found - wanted).norm() <= 0.02 * wanted.norm()  # bfloat16 in a handful of products


@DOORS
def test_the_loss_of_a_head_has_the_tangent_of_cross_entropy(door) -> None:
    hidden, weight, along = normal(6, 16), normal(20, 16, seed=1), normal(6, 16, seed=2)
    labels = torch.tensor([1, 2, -100, 4, 5, 19])
    _, found = door(lambda h: head_cross_entropy(h, weight, labels, chunk=2), hidden, along)
    _, wanted = door(lambda h: functional.cross_entropy(functional.linear(h, weight), labels), hidden, along)
    torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("recipe", ["w8a8", "penny8k8"])
def test_a_language_model_has_the_slope_that_its_gradients_tell(recipe: str) -> None:
    dropout = {name: 0.0 for name in ("resid_pdrop", "embd_pdrop", "attn_pdrop")}
    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(n_embd=64, n_head=2, n_layer=2, vocab_size=97, n_positions=32, **dropout))
    quantize(model, recipe)
    tokens = torch.randint(97, (2, 32), generator=torch.Generator().manual_seed(1))
    model.train()
    model(input_ids=tokens, labels=tokens).loss.backward()
    values = {name: p.detach() for name, p in model.named_parameters()}
    along = {name: p.grad for name, p in model.named_parameters()}
    _, found = jvp(
        lambda w: functional_call(model, w, (), {"input_ids": tokens, "labels": tokens}).loss, (values,), (along,)
    )  # type: ignore[misc]  # a pair without `has_aux`
    squared = sum(g.double().square().sum() for g in along.values() if g is not None)
    assert abs(found / squared - 1) < 0.02  # gradients and what they are computed from are written in 8 bits


def test_a_backward_pass_of_tangents_is_refused() -> None:
    model = nn.Sequential(nn.Identity(), nn.Linear(IN, OUT), nn.GELU())
    quantize(model, "w8a8g8")
    x, along = normal(8, IN).requires_grad_(), normal(8, IN, seed=1)
    with forward_ad.dual_level():
        y = model(forward_ad.make_dual(x, along))
        with pytest.raises(RuntimeError, match="have no tangents, so there is no forward-mode differentiation"):
            y.square().sum().backward()


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # torch's, tracing
@pytest.mark.parametrize("grad", [False, True])
def test_a_traced_model_gives_tangents_too_whatever_it_was_called_with_before(grad: bool) -> None:
    torch._dynamo.reset()
    model = nn.Sequential(nn.Linear(IN, OUT), nn.GELU(), nn.Linear(OUT, IN))
    quantize(model, "w8a8g8")
    whole = torch.compile(model, backend="eager")  # inductor's own code gives no tangents
    x, along = normal(8, IN), normal(8, IN, seed=1)
    with torch.set_grad_enabled(grad):
        before = whole(x)
        for one, other in zip(dual(whole, x, along), dual(model, x, along), strict=True):
            assert torch.equal(one, other)
        assert torch.equal(whole(x), before)
