"""Sharpness on losses whose curvature is known, and on a model, against finite differences and numpy."""

import math

import numpy as np
import pytest
import torch
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel

from pennyweight.analysis.sharpness import (
    climb,
    differences,
    doubled_backward,
    filter_direction,
    gradient,
    hessian_product,
    lanczos_top,
    sharpness,
    slice_of,
)
from pennyweight.nn import quantize
from pennyweight.training.objectives import NextToken

CURVATURES = torch.tensor([5.0, 3.0, 1.0, 0.5, -2.0])


def bowl(w: torch.Tensor) -> torch.Tensor:
    """A quadratic whose Hessian is diag(CURVATURES)."""
    return (CURVATURES * w.square()).sum() / 2


def test_lanczos_finds_the_largest_eigenvalue_of_a_matrix() -> None:
    matrix = np.random.default_rng(0).normal(size=(40, 40))
    matrix = matrix + matrix.T
    product = torch.from_numpy(matrix)
    found = lanczos_top(lambda v: [product @ v[0]], [torch.ones(40, dtype=torch.float64)], steps=40)
    assert found == pytest.approx(np.linalg.eigvalsh(matrix)[-1], rel=1e-9)
    fewer = lanczos_top(lambda v: [product @ v[0]], [torch.ones(40, dtype=torch.float64)], steps=8)
    assert fewer <= np.linalg.eigvalsh(matrix)[-1]
    assert fewer == pytest.approx(np.linalg.eigvalsh(matrix)[-1], rel=0.05)


def test_lanczos_stops_where_the_space_is_used_up() -> None:
    assert lanczos_top(lambda v: [3.0 * v[0]], [torch.ones(5)], steps=8) == pytest.approx(3.0)


@pytest.mark.parametrize("way", ["doubled", "differences"])
def test_both_ways_give_the_hessian_times_a_vector(way: str) -> None:
    w, v = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0], requires_grad=True), torch.tensor([1.0, -1.0, 2.0, 0.5, 1.0])
    product = doubled_backward if way == "doubled" else differences
    (found,) = product([w], lambda: bowl(w), [v])
    assert torch.allclose(found, CURVATURES * v, rtol=1e-3)  # differences: float32 over a nudge of 1e-3
    assert w.tolist() == [1.0, 2.0, 3.0, 4.0, 5.0]


def test_the_climb_is_along_the_gradient_by_rho() -> None:
    w = torch.tensor([1.0, 0.0, 0.0, 0.0, 0.0], requires_grad=True)
    assert climb([w], lambda: bowl(w), rho=0.1) == pytest.approx(5 * (1.1**2 - 1) / 2, rel=1e-5)  # float32
    assert w.tolist() == [1.0, 0.0, 0.0, 0.0, 0.0]
    flat = torch.zeros(5, requires_grad=True)
    assert climb([flat], lambda: bowl(flat), rho=0.1) == 0.0


def test_slices_go_where_they_say_and_come_back() -> None:
    w = torch.zeros(5, requires_grad=True)
    first, second = [torch.eye(5)[0]], [torch.eye(5)[1]]
    assert slice_of([w], lambda: bowl(w), [first], [-1.0, 0.0, 2.0]) == [2.5, 0.0, 10.0]
    assert slice_of([w], lambda: bowl(w), [first, second], [0.0, 1.0]) == [0.0, 1.5, 2.5, 4.0]
    assert not w.any()


def test_a_direction_has_the_norm_of_every_row_and_leaves_vectors_alone() -> None:
    weight, bias = torch.randn(6, 32), torch.randn(6)
    direction, still = filter_direction([weight, bias], 0, "first")
    assert torch.allclose(direction.norm(dim=1), weight.norm(dim=1), rtol=1e-5)
    assert not still.any()
    assert not torch.equal(filter_direction([weight], 1, "first")[0], direction)


def small() -> nn.Module:
    torch.manual_seed(0)
    shape = {"n_layer": 1, "n_embd": 32, "n_head": 2, "n_positions": 16, "vocab_size": 64}
    ends = {"bos_token_id": 0, "eos_token_id": 0}
    return GPT2LMHeadModel(GPT2Config(**shape, **ends, resid_pdrop=0.1, embd_pdrop=0.1, attn_pdrop=0.0)).train()


def test_a_written_model_has_the_sharpness_of_its_master_weights_and_stays_as_it_is() -> None:
    tokens = torch.arange(2 * 17).view(2, 17) % 64
    plain, model = small(), small()
    quantize(model, "penny8")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    steps = {"lanczos": 4, "alphas": (-1.0, 0.0, 1.0), "alphas_2d": (0.0, 1.0)}
    seen, other = (sharpness(one, NextToken(), tokens, **steps) for one in (model, plain))
    assert seen == other
    assert seen.by == "double backward"
    assert seen.slice_1d[1][1] == pytest.approx(seen.loss)
    assert seen.slice_2d[0][0] == pytest.approx(seen.loss)
    assert min(seen.m_sharpness, seen.eigenvalue) > 0
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    assert model.training
    assert all(p.grad is None for p in model.parameters())


def test_double_backward_agrees_with_differences_on_a_model() -> None:
    model, tokens = small().eval(), torch.arange(2 * 17).view(2, 17) % 64
    parameters = list(model.parameters())
    _, g = gradient(parameters, lambda: NextToken()(model, tokens))
    product, by = hessian_product(model, parameters, NextToken(), tokens)
    one, other = product(g), differences(parameters, lambda: NextToken()(model, tokens), g)
    a, b = (torch.cat([part.flatten() for part in side]) for side in (one, other))
    assert by == "double backward"
    assert float((a - b).norm() / a.norm()) < 0.01  # float32 gradients over a nudge


def test_a_model_that_gives_no_logits_is_measured_by_differences() -> None:
    model = nn.Sequential(nn.Linear(4, 4, bias=False))
    with torch.no_grad():
        model[0].weight.copy_(torch.eye(4))
    inputs = torch.tensor([[2.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0]])
    seen = sharpness(model, lambda model, x: model(x).square().sum() / 2, inputs, lanczos=8)
    assert seen.by == "differences"
    assert seen.eigenvalue == pytest.approx(4.0, rel=0.02)  # x x^T has the eigenvalues 4 and 1
    assert seen.m_sharpness == pytest.approx(((2.1**2 - 4) / 2 + (1.05**2 - 1) / 2) / 2, rel=1e-3)
    assert math.isfinite(seen.loss)
