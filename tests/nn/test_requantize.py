"""Requantize: a converted model written by another recipe, around the same parameters and the same noise."""

from copy import deepcopy
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel

from pennyweight.nn import compile_blocks, quantize, requantize
from pennyweight.numerics import stored_of
from pennyweight.recipes import Recipe, Rule, recipe

TOKENS = torch.randint(0, 61, (2, 16), generator=torch.Generator().manual_seed(0))
ALL = ["bf16", "w8a8", "w8a8g8", "penny8", "penny8-nomaster", "w4b16a8h", "g8s", "w8a8g8k8"]


def gpt2() -> GPT2LMHeadModel:
    torch.manual_seed(0)
    shape: dict[str, Any] = {"n_layer": 2, "n_embd": 32, "n_head": 2, "vocab_size": 61, "n_positions": 16}
    off = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0, "bos_token_id": 0, "eos_token_id": 0}
    return GPT2LMHeadModel(GPT2Config(**shape, **off))


def numbers(model: nn.Module) -> list[Tensor]:
    """The loss of one pass and every gradient."""
    model.zero_grad()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = model(input_ids=TOKENS, labels=TOKENS).loss
    loss.backward()
    return [loss.detach(), *(p.grad for p in model.parameters() if p.grad is not None)]


def same(one: list[Tensor], other: list[Tensor]) -> bool:
    return len(one) == len(other) and all(map(torch.equal, one, other))


@pytest.mark.parametrize("after", ALL)
def test_a_model_switched_from_bf16_is_the_model_quantized(after):
    switched, fresh = gpt2(), gpt2()
    quantize(switched, "bf16")
    requantize(switched, after)
    quantize(fresh, after)
    assert same(numbers(switched), numbers(fresh))
    assert repr(switched) == repr(fresh)
    assert [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in switched.modules()] == [
        len(m._forward_hooks) + len(m._forward_pre_hooks) for m in fresh.modules()
    ]


@pytest.mark.parametrize("through", ALL)
def test_a_model_switched_back_is_the_model_it_was(through):
    plain, switched = gpt2(), gpt2()
    quantize(plain, "bf16")
    quantize(switched, "bf16")
    names = {name: id(parameter) for name, parameter in switched.named_parameters()}
    if through != "penny8-nomaster":  # whose weights are rounded
        requantize(switched, through)
    requantize(switched, "w8a8")
    requantize(switched, "bf16")
    assert same(numbers(switched), numbers(plain))
    assert switched.state_dict().keys() == plain.state_dict().keys()
    assert {name: id(parameter) for name, parameter in switched.named_parameters()} == names


@pytest.mark.parametrize("name", ALL)
def test_the_same_recipe_by_another_name_changes_no_number(name):
    one, other = gpt2(), gpt2()
    conversion = quantize(one, name)
    quantize(other, name)
    assert same(numbers(one), numbers(other))
    again = requantize(other, replace(recipe(name), name="again"))
    assert again.counter.micro_batch == conversion.counter.micro_batch == 1
    assert again.table().replace("again", name) == conversion.table()
    assert same(numbers(one), numbers(other))
    assert same(list(one.state_dict().values()), list(other.state_dict().values()))
    assert requantize(other, again.recipe) is again


def test_codes_become_a_master_copy_of_the_same_numbers_and_codes_again():
    model = gpt2()
    quantize(model, "penny8-nomaster")
    layer = model.transformer.h[0].mlp.c_fc
    stored = stored_of(layer.weight)
    assert stored is not None
    read, codes = stored.values(), stored.codes.clone()
    requantize(model, "w8a8g8")
    assert stored_of(layer.weight) is None
    assert torch.equal(layer.weight, read)
    assert "transformer.h.0.mlp.c_fc.weight" in model.state_dict()
    assert not [name for name in model.state_dict() if "codes" in name]
    requantize(model, "penny8-nomaster")
    again = stored_of(layer.weight)
    assert again is not None
    assert torch.equal(again.values(), read)
    assert [name for name, _ in layer.named_buffers()] == ["weight_codes", "weight_scales"]
    assert codes.shape == again.codes.shape
    model.load_state_dict(model.state_dict())


def test_codes_stay_the_same_codes_where_both_recipes_keep_them():
    model = gpt2()
    nomaster = recipe("penny8-nomaster")
    quantize(model, nomaster)
    before = [stored_of(parameter) for parameter in model.parameters()]
    requantize(model, replace(nomaster, name="half", last=0.5, m="fp32", v="fp32"))
    after = [stored_of(parameter) for parameter in model.parameters()]
    assert any(before)
    assert [one is other for one, other in zip(before, after, strict=True) if other is not None] == [True] * 4
    assert sum(one is not None for one in before) == 8


def test_a_copied_model_is_switched_apart():
    model = gpt2()
    quantize(model, "penny8-nomaster")
    copy = deepcopy(model)
    expected = numbers(model)
    requantize(copy, "bf16")
    assert same(numbers(model), expected)
    assert not any(map(stored_of, copy.parameters()))
    numbers(copy)


def test_layers_only_stays_layers_only():
    model = gpt2()
    quantize(model, "bf16", layers_only=True)
    assert requantize(model, "w8a8g8").between == []


def test_what_cannot_be_switched_is_refused_and_left_as_it_was():
    with pytest.raises(ValueError, match="requantize takes a model that quantize has converted, got a plain GPT2LM"):
        requantize(gpt2(), "w8a8")
    model = gpt2()
    quantize(model, "w8a8g8")
    expected = numbers(model)
    ruled = Recipe("ruled", recipe("w8a8").linear, rules=(Rule("lm_hed", None),))
    for wrong, sentence in (
        (ruled, "rule for 'lm_hed', which no layer matches; did you mean 'lm_head'"),
        ("w8b4096a8", "writes W with blocks of 4096, but no row"),
        ("bf16 until 10%, then w8a8", "a model is written by one recipe at a time, got the schedule"),
    ):
        with pytest.raises(ValueError, match=sentence):
            requantize(model, wrong)
        assert same(numbers(model), expected)
    with pytest.raises(ValueError, match="one recipe at a time"):
        quantize(gpt2(), "bf16 until 10%, then w8a8")


@pytest.mark.filterwarnings("ignore:.torch.jit.script_method. is deprecated:DeprecationWarning")  # torch's own
def test_compiled_blocks_are_not_switched():
    model = gpt2()
    quantize(model, "bf16")
    compile_blocks(model)
    with pytest.raises(ValueError, match="requantize cannot write by w8a8 what torch.compile has compiled"):
        requantize(model, "w8a8")
