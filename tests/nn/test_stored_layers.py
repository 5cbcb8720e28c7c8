"""Layers without a master copy compute on their codes what layers that hold the same numbers in float32 compute."""

import math
import pickle
from copy import deepcopy

import pytest
import torch
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel
from transformers.pytorch_utils import Conv1D

from pennyweight.nn import plain_weights, quantize
from pennyweight.numerics import stored_of
from pennyweight.optim import AdamW
from pennyweight.recipes import recipe

NOMASTER = recipe("penny8-nomaster")
MOMENTS = {"m": NOMASTER.m, "v": NOMASTER.v}


def layer_of(kind):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(96, 80) if kind == "linear" else Conv1D(80, 96))


@pytest.fixture(params=["compiled", "reference"])
def kernels(request, monkeypatch):
    """Both ways of the products."""
    if request.param == "reference":
        monkeypatch.setattr("pennyweight.nn.linear.is_compiled", lambda *_: False)
    return request.param


@pytest.mark.parametrize("kind", ["linear", "conv1d"])
def test_products_are_those_of_the_values_that_the_codes_say(kind, kernels):
    model = layer_of(kind)
    quantize(model, NOMASTER)
    stored = stored_of(model[0].weight)
    values = stored.values().double()
    matrix = values if kind == "linear" else values.T
    x, grad = torch.randn(50, 96, requires_grad=True), torch.randn(50, 80)
    y = model(x)
    y.backward(grad)
    for found, wanted in (
        (y, x.detach().double() @ matrix.T + model[0].bias.double()),
        (x.grad, grad.double() @ matrix),
        (model[0].weight.grad if kind == "linear" else model[0].weight.grad.T, grad.double().T @ x.detach().double()),
    ):
        error = ((found.detach().double() - wanted.detach()).norm() / wanted.detach().norm()).item()
        assert 20 * math.log10(1 / error) > 36  # two operands in 8 bits, one of them or both written here


@pytest.mark.parametrize("rounding", ["nearest", "stochastic"])
def test_training_on_codes_is_training_on_floats_that_are_rewritten_bit_for_bit(rounding):
    held, codes = layer_of("linear"), layer_of("linear")
    quantize(codes, NOMASTER)
    quantize(held, "penny8")
    stored = stored_of(codes[0].weight)
    with torch.no_grad():
        held[0].weight.copy_(stored.values())
    a = AdamW([("0.weight", held[0].weight)], lr=1e-3, weights="int8/row/pow2", rounding=rounding, **MOMENTS)
    b = AdamW([("0.weight", codes[0].weight)], lr=1e-3, rounding=rounding, **MOMENTS)
    for seed in range(4):
        gradient = torch.randn(80, 96, generator=torch.Generator().manual_seed(seed))
        for optimizer, model in ((a, held), (b, codes)):
            model[0].weight.grad = gradient.clone()
            optimizer.step()
        assert torch.equal(held[0].weight, stored.values())
    assert 0 < stored.swallowed <= stored.moved == 80 * 96


def gpt2():
    torch.manual_seed(0)
    shape = GPT2Config(n_layer=2, n_embd=64, n_head=2, vocab_size=61, n_positions=32, bos_token_id=0, eos_token_id=0)
    return GPT2LMHeadModel(shape)


def test_only_the_weights_of_converted_layers_lose_their_master():
    model = gpt2()
    conversion = quantize(model, NOMASTER)
    kept = {name for name, parameter in model.named_parameters() if stored_of(parameter) is not None}
    assert kept == {f"{name}.weight" for name in conversion.converted}
    assert len(kept) == 8
    assert stored_of(model.transformer.wte.weight) is None
    assert conversion.swallowed_share == 0.0
    assert quantize(gpt2(), "penny8").swallowed_share is None


def test_a_head_tied_to_its_embedding_keeps_its_numbers():
    from dataclasses import replace

    model = gpt2()
    quantize(model, replace(NOMASTER, head=True))
    assert stored_of(model.lm_head.weight) is None
    assert stored_of(model.transformer.h[0].mlp.c_fc.weight) is not None


def test_what_is_saved_is_plain_and_what_is_copied_is_apart(tmp_path):
    model = gpt2().eval()
    quantize(model, NOMASTER)
    tokens = torch.arange(24).reshape(2, 12)
    copy = deepcopy(model)
    assert torch.equal(copy(tokens).logits, model(tokens).logits)
    mine, theirs = (stored_of(one.transformer.h[0].mlp.c_fc.weight) for one in (model, copy))
    assert mine is not theirs
    assert theirs is copy.transformer.h[0].mlp.c_fc.layer.stored
    theirs.codes.zero_()
    assert mine.codes.any()
    assert copy.transformer.h[0].mlp.c_fc.weight.untyped_storage().nbytes() == 4
    plain = plain_weights(model)
    assert set(plain) == set(gpt2().state_dict())
    assert torch.equal(plain["transformer.h.0.mlp.c_fc.weight"], mine.values())
    model.save_pretrained(tmp_path)
    again = GPT2LMHeadModel.from_pretrained(tmp_path)
    assert torch.equal(again.transformer.h[0].mlp.c_fc.weight, mine.values())
    assert again.transformer.h[0].mlp.c_fc.weight.dtype == torch.float32


def test_a_state_dict_is_taken_back_whole():
    model, other = gpt2(), gpt2()
    quantize(model, NOMASTER)
    quantize(other, NOMASTER)
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert "transformer.h.0.mlp.c_fc.weight" not in state
    for parameter in other.parameters():
        if (stored := stored_of(parameter)) is not None:
            stored.codes.zero_()
    other.load_state_dict(state)
    assert all(torch.equal(a, b) for a, b in zip(state.values(), other.state_dict().values(), strict=True))


def test_codes_that_change_before_backward_reads_them_are_noticed():
    model = layer_of("linear")
    quantize(model, NOMASTER)
    y = model(torch.randn(4, 96, requires_grad=True)).sum()
    stored = stored_of(model[0].weight)
    stored.rewrite(stored.values() * 2, stored.cast, None)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.backward()


@pytest.mark.parametrize("fused", [False, True])
def test_an_optimizer_that_knows_no_codes_is_refused_before_it_writes(fused):
    model = layer_of("linear")
    quantize(model, NOMASTER)
    optimizer = torch.optim.AdamW(model.parameters(), fused=fused)
    model(torch.randn(4, 96)).sum().backward()
    with pytest.raises(TypeError, match="0.weight is int8 codes without a master copy, which AdamW cannot move; use"):
        optimizer.step()
    torch.optim.AdamW(layer_of("linear").parameters(), fused=fused).step()  # others go on


def moves(model: nn.Module, dtype: torch.dtype = torch.float32, **settings: str) -> bool:
    """Whether a step of AdamW changes the codes."""
    before = model[0].weight_codes.clone()
    model(torch.randn(8, 96, dtype=dtype)).square().sum().backward()
    AdamW(model.parameters(), lr=0.1, **settings).step()
    return not torch.equal(model[0].weight_codes, before)


@pytest.mark.parametrize("kind", ["linear", "conv1d"])
def test_whatever_way_a_model_was_copied_its_codes_move(kind):
    model = layer_of(kind)
    quantize(model, NOMASTER)
    loaded = pickle.loads(pickle.dumps(model))
    for copy in (deepcopy(model), loaded, deepcopy(loaded), pickle.loads(pickle.dumps(deepcopy(loaded)))):
        assert moves(copy, **MOMENTS)
        assert copy.pennyweight_conversion.swallowed_share is not None
        assert copy[0].weight.pennyweight_counter is copy.pennyweight_conversion.counter
    assert torch.equal(loaded[0].weight_codes, model[0].weight_codes) is False


def test_a_parameter_that_does_not_stand_for_the_codes_is_refused():
    whole = nn.ModuleDict({"part": layer_of("linear")})
    quantize(whole, NOMASTER)
    x = torch.randn(3, 96)
    with pytest.raises(RuntimeError, match="does not stand for them"):
        deepcopy(whole["part"])(x)
    with pytest.raises(RuntimeError, match="does not stand for them"):
        torch.func.functional_call(whole["part"], {"0.weight": torch.randn(80, 96)}, (x,))
    whole["part"][0].weight = nn.Parameter(torch.randn(80, 96))
    with pytest.raises(RuntimeError, match="does not stand for them"):
        whole["part"](x)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
@pytest.mark.parametrize("settings", [MOMENTS, {}])
def test_a_model_turned_to_another_dtype_trains_on(dtype, settings):
    model = layer_of("linear")
    quantize(model, NOMASTER)
    assert moves(model.to(dtype), dtype, **settings)


def use(model: nn.Module, way: str) -> object:
    """What would read the weight, or carry it elsewhere."""
    ways = {
        "call": lambda: model(torch.randn(2, 96)),
        "state": model.state_dict,
        "values": lambda: plain_weights(model),
        "turn": lambda: model.to(torch.bfloat16),
        "step": lambda: AdamW(model.parameters(), **MOMENTS).step(),
    }
    return ways[way]()


@pytest.mark.parametrize("kind", ["linear", "conv1d"])
@pytest.mark.parametrize("way", ["call", "state", "values", "turn", "step"])
def test_numbers_put_into_the_parameters_data_are_refused_and_loaded_ones_are_taken(kind, way):
    model = layer_of(kind)
    quantize(model, NOMASTER)
    weight = model[0].weight
    weight.grad = torch.ones(weight.shape)
    use(model, "call")
    weight.data = torch.randn(weight.shape)
    with pytest.raises(ValueError, match="0.weight is int8 codes without a master copy, so numbers put into its .data"):
        use(model, way)
    wanted = torch.randn(weight.shape)
    model.load_state_dict({"0.weight": wanted, "0.bias": model[0].bias.detach()})
    use(model, way)
    far = (stored_of(weight).values() - wanted).abs().max().item()
    assert far < 2.0**-4 + 1e-3  # a code of a row whose largest is between 4 and 8, rounded by chance, and lr


@pytest.mark.parametrize("kind", ["linear", "conv1d"])
def test_a_parameter_turned_to_another_dtype_still_has_no_memory(kind):
    model = layer_of(kind)
    quantize(model, NOMASTER)
    weight = model[0].weight
    assert model.to(torch.bfloat16)[0].weight is weight
    assert (weight.dtype, weight.untyped_storage().nbytes()) == (torch.bfloat16, 2)
    assert model.double()[0].weight.untyped_storage().nbytes() == 8
    assert stored_of(weight) is model[0].layer.stored
