"""Memory by category: predicted from the shapes, measured in a step."""

import json

import pytest
import torch

from pennyweight.training import Data, Evaluation, Run, train
from pennyweight.training.memory import Peak, SavedActivations
from pennyweight.training.prediction import predict, state_groups


@pytest.mark.parametrize("recipe", ["bf16", "w8a8g8", "penny8", "penny8-nomaster", "w8a8g8m8v8k8", "penny4"])
def test_predicted_is_within_a_tenth_of_measured_on_tiny(recipe, nursery, monkeypatch):
    monkeypatch.setenv("PENNYWEIGHT_CACHE", str(nursery / "cache"))
    data = Data(source=str(nursery / "text.jsonl"), tokenizer="bpe-512", context=64, validation=0.1)
    run = Run(model="tiny", recipe=recipe, data=data, steps=1, batch=2, evaluation=Evaluation(tokens=64))
    memory = train(run, progress=False).memory
    assert list(memory) == ["weights", "gradients", "states", "saved activations"]
    for sizes in memory.values():
        assert sizes["measured"] > 0
        assert sizes["predicted"] == pytest.approx(sizes["measured"], rel=0.1)
    parameters = 4 * (12 * 256 * 256 + 13 * 256) + 2 * 256 + 512 * 256 + 256 * 256
    assert memory["gradients"]["measured"] == 4 * parameters
    codes, rows = (12 * 256 * 256, 9 * 256) if recipe == "penny8-nomaster" else (0, 0)  # in each of the four blocks
    assert memory["weights"]["measured"] == 4 * parameters - 4 * (3 * codes - 4 * rows)
    if recipe == "bf16":
        assert memory["states"]["measured"] == 8 * parameters
    if recipe == "penny8":
        assert memory["states"]["measured"] < 0.27 * 8 * parameters


def test_a_tied_heads_moments_are_written_like_those_of_the_other_converted_layers():
    from transformers import GPT2Config, GPT2LMHeadModel

    from pennyweight.nn import quantize
    from pennyweight.recipes import recipe

    config = GPT2Config(n_layer=1, n_embd=16, n_head=2, vocab_size=20, n_positions=8, bos_token_id=0, eos_token_id=0)
    model, chosen = GPT2LMHeadModel(config), recipe("paper-m8")
    assert model.lm_head.weight is model.transformer.wte.weight
    (written, m, v), (rest, *plain) = state_groups(model, quantize(model, chosen))
    layers = [f"transformer.h.0.{name}.weight" for name in ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")]
    assert list(written) == ["transformer.wte.weight", *layers]
    assert (m, v, *plain) == ("int8/row", "fp32", "fp32", "fp32")
    assert {*written, *rest} == {name for name, _ in model.named_parameters()}


def test_eight_bit_codes_are_a_quarter_of_what_is_saved_in_float32():
    from pennyweight.nn import quantize
    from pennyweight.recipes import recipe

    sizes = {}
    for name in ("fp32", "w8a8g8"):
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Linear(512, 64, bias=False))
        quantize(model, recipe(name))
        saved = SavedActivations(model)
        with saved():
            model(torch.randn(128, 512))
        sizes[name] = saved.bytes
    assert sizes["fp32"] == 128 * 512 * 4
    assert sizes["w8a8g8"] == 128 * 512 + 4 * 128  # the codes of x, and one float32 scale for each of its rows


def test_a_storage_is_counted_once_and_parameters_not_at_all():
    weight = torch.nn.Parameter(torch.ones(8, 8))
    saved = SavedActivations(torch.nn.ParameterList([weight]))
    x = torch.ones(4, 8)
    with saved():
        (x @ weight + x[:2].repeat(2, 1) @ weight.T).square().sum()
    # x, its repetition, and the sum before squaring: 4 x 8 float32 each
    assert saved.bytes == 3 * 4 * 8 * 4
    assert saved.numbers == 3 * 4 * 8


def test_the_prediction_takes_no_memory(nursery, monkeypatch):
    config = {"model_type": "gpt2", "n_layer": 2, "n_embd": 4096, "n_head": 32, "n_positions": 1024, "vocab_size": 512}
    path = nursery / "large.json"
    path.write_text(json.dumps(config))
    run = Run(model=str(path), recipe="penny8", data=Data(context=1024), batch=64)
    peak = Peak("cpu")
    sizes = predict(run, vocab_size=512)
    assert sizes["weights"] > 1.6e9
    assert sizes["saved activations"] > 1e9
    assert peak.bytes() < 0.3e9


def test_the_peak_is_what_was_held_above_the_beginning():
    peak = Peak("cpu")
    block = torch.ones(50_000_000)
    del block
    assert 190e6 < peak.bytes() < 260e6
    assert Peak("cpu").bytes() < 20e6
