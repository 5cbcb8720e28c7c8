"""The guard names the first bad place."""

import math

import pytest
import torch

from pennyweight.optim import finiteness
from pennyweight.training.gradient import Gradient, norm
from pennyweight.training.guard import first_bad


def network():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.ReLU(), torch.nn.Linear(4, 1))


def test_a_finite_model_has_no_bad_place():
    model = network()
    assert first_bad(model, lambda: model(torch.ones(2, 4)).sum()) is None


def test_a_bad_weight_is_named_before_all():
    model = network()
    with torch.no_grad():
        model[2].bias[0] = math.inf
    assert first_bad(model, lambda: model(torch.ones(2, 4)).sum()) == "the weights 2.bias"


def test_the_first_bad_output_is_named():
    model = network()
    assert first_bad(model, lambda: model(torch.full((2, 4), math.nan)).sum()) == "the output of layer 0"


def test_a_loss_that_alone_is_bad_is_named():
    model = network()
    assert first_bad(model, lambda: model(torch.ones(2, 4)).sum() / 0) == (
        "the loss itself, with every layer's output finite"
    )


def test_a_bad_gradient_is_named_from_the_end():
    class Trap(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, g):
            return g * math.nan

    model = network()
    where = first_bad(model, lambda: model[2](Trap.apply(model[1](model[0](torch.ones(2, 4))))).sum())
    assert where == "the gradient of 0.bias"  # the second layer's own gradients are finite


def gradient(model, batches, **settings):
    settings = {"precision": "fp32", "clip": None, "check": lambda *_: None, **settings}
    return Gradient(model=model, objective=lambda m, x: m(x).square().mean(), batches=batches, **settings)


def test_the_gradient_is_that_of_the_mean_over_micro_batches():
    model = network()
    x = torch.randn(6, 4)
    loss = gradient(model, [x[:3], x[3:]])()
    got = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    whole = model(x).square().mean()
    whole.backward()
    assert torch.allclose(loss, whole)
    for g, p in zip(got, model.parameters(), strict=True):
        assert torch.allclose(g, p.grad, atol=1e-7)  # float32: another order of sums


def test_clipping_is_exact_and_of_the_whole_gradient():
    model = network()
    x = torch.randn(6, 4)
    free = gradient(model, [x])
    free()
    before = [p.grad.clone() for p in model.parameters()]
    expected = math.sqrt(sum(float(g.double().square().sum()) for g in before))
    assert free.norm == pytest.approx(expected, rel=1e-6)
    gradient(model, [x], clip=expected / 2)()
    for g, p in zip(before, model.parameters(), strict=True):
        assert torch.allclose(p.grad, g / 2, rtol=1e-6)
    gradient(model, [x], clip=expected * 2)()
    for g, p in zip(before, model.parameters(), strict=True):
        assert torch.equal(p.grad, g)


def test_gradients_whose_norm_was_taken_are_vouched_for(monkeypatch):
    model = network()
    gradient(model, [torch.randn(6, 4)], clip=1e-3)()
    read = []
    monkeypatch.setattr(finiteness, "squares", lambda given: read.extend(given) or [0.0] * len(given))
    assert all(finiteness.finite([p.grad for p in model.parameters()]))
    assert read == []
    gradient(model, [torch.full((1, 4), math.inf)])()
    finiteness.finite([p.grad for p in model.parameters()])
    assert len(read) == 4


def test_what_is_not_finite_is_told_before_anything_is_clipped():
    told = []
    model = network()
    gradient(model, [torch.full((1, 4), math.inf)], clip=1.0, check=lambda loss, n: told.append((loss, n)))()
    assert len(told) == 1
    assert not math.isfinite(told[0][1])


def test_no_gradient_has_no_norm():
    assert norm([]) == 0.0
    assert norm([torch.tensor([3.0]), torch.tensor([4.0])]) == 5.0
