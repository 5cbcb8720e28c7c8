"""A weight that is its codes: what it reads, how it moves, and what stalls."""

import pytest
import torch
from torch import nn

from pennyweight.numerics import Stored, cast, held_bytes, stored_of

CAST = cast("int8/row/pow2")
STOCHASTIC = cast("int8/row/pow2/stochastic")


def linear(outputs=5, inputs=7, *, turned=False):
    torch.manual_seed(0)
    layer = nn.Linear(inputs, outputs)
    if turned:
        layer.weight = nn.Parameter(layer.weight.detach().T.contiguous())
    return layer


@pytest.mark.parametrize("turned", [False, True])
def test_it_reads_what_the_cast_writes_in_a_byte_a_number(turned):
    layer = linear(turned=turned)
    before = layer.weight.detach().clone()
    stored = Stored.of(layer, CAST, turned=turned)
    matrix = before.T if turned else before
    top = matrix.abs().amax(1, keepdim=True)
    scales = torch.exp2(torch.ceil(torch.log2(top / 127)))
    expected = (matrix / scales).round() * scales
    assert torch.equal(stored.values(), expected.T if turned else expected)
    assert torch.equal(stored.written.read(), expected)
    assert stored.codes.dtype == torch.int8
    assert stored.codes.shape == before.shape
    assert stored.nbytes == held_bytes(layer.weight) == 5 * 7 + 4 * 5


def test_the_parameter_keeps_its_identity_and_its_gradient_but_no_memory():
    layer = linear()
    weight = layer.weight
    stored = Stored.of(layer, CAST, turned=False)
    assert layer.weight is weight
    assert stored_of(weight) is stored
    assert stored_of(layer.bias) is None
    assert held_bytes(layer.bias) == 20
    assert weight.shape == (5, 7)
    assert weight.untyped_storage().nbytes() == 4
    (weight.sum() * 2).backward()
    assert torch.equal(weight.grad, torch.full((5, 7), 2.0))


@pytest.mark.parametrize("turned", [False, True])
def test_rewriting_keeps_what_did_not_move_and_the_mean_of_what_did(turned):
    layer = linear(64, 300, turned=turned)
    stored = Stored.of(layer, CAST, turned=turned)
    start, codes = stored.values(), stored.codes.clone()
    step = stored.scales.min() / 16
    moving = torch.zeros_like(start, dtype=torch.bool)
    moving[::2] = True
    stored.rewrite(torch.where(moving, start + step, start), STOCHASTIC, 7)
    same_scale = (stored.codes - codes).abs() <= 1
    assert same_scale.all()
    assert torch.equal(stored.values()[~moving], start[~moving])
    assert stored.moved == moving.sum()
    stalled = (stored.codes == codes) & moving
    assert stored.swallowed == stalled.sum()
    assert 0.5 < stored.swallowed / stored.moved < 1  # a sixteenth of a step or less gets through
    drift = (stored.values() - start)[moving].double()
    assert drift.mean().item() == pytest.approx(step.item(), abs=4 * drift.std().item() / drift.numel() ** 0.5)


def test_nothing_moves_nothing():
    stored = Stored.of(linear(), CAST, turned=False)
    before = stored.values()
    stored.rewrite(before.clone(), STOCHASTIC, 7)
    assert torch.equal(stored.values(), before)
    assert (stored.moved, stored.swallowed) == (0, 0)


def test_nearest_swallows_what_is_below_half_a_step():
    stored = Stored.of(linear(), CAST, turned=False)
    stored.rewrite(stored.values() + stored.scales.view(-1, 1) * 0.25, CAST, None)
    assert stored.moved == 5 * 7
    assert stored.swallowed == 5 * 7


def test_a_state_dict_holds_the_codes_and_loads_plain_weights_too():
    layer, other = linear(), nn.Linear(7, 5)
    Stored.of(layer, CAST, turned=False)
    Stored.of(other, CAST, turned=False)
    state = layer.state_dict()
    assert set(state) == {"bias", "weight_codes", "weight_scales"}
    plain = {"weight": torch.randn(5, 7), "bias": torch.zeros(5)}
    other.load_state_dict(plain, strict=False)
    assert torch.equal(stored_of(other.weight).values(), CAST(plain["weight"]))
