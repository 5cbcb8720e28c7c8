"""Models: shapes, configs and folders, and weights that only the seed decides."""

import json
import warnings

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from pennyweight.training import SHAPES, build_model
from pennyweight.training.models import check_model


@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_reads_its_tokens_with_a_tied_head_and_no_dropout(shape):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = build_model(shape, vocab_size=512, context=256, seed=0, end=511, device="meta")
    assert model.config.vocab_size == 512
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    assert not any(m.p for m in model.modules() if isinstance(m, torch.nn.Dropout))
    for token in (model.config.bos_token_id, model.config.eos_token_id):
        assert token == 511


def test_tiny_is_what_it_says():
    config = build_model("tiny", vocab_size=4096, context=256, seed=0, device="meta").config
    assert (config.n_layer, config.n_embd, config.n_head, config.n_positions) == (4, 256, 4, 256)


def test_only_the_seed_decides_the_weights(nursery):
    spec = str(nursery / "config.json")
    torch.manual_seed(1)
    one = build_model(spec, vocab_size=512, context=32, seed=3)
    torch.rand(100)
    two = build_model(spec, vocab_size=512, context=32, seed=3)
    other = build_model(spec, vocab_size=512, context=32, seed=4)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    assert not torch.equal(one.transformer.wte.weight, other.transformer.wte.weight)


def test_a_folder_gives_its_config_and_fresh_float32_weights(tmp_path):
    config = GPT2Config(n_layer=1, n_embd=16, n_head=2, n_positions=8, vocab_size=20, bos_token_id=1, eos_token_id=1)
    GPT2LMHeadModel(config).to(torch.bfloat16).save_pretrained(tmp_path)
    model = build_model(str(tmp_path), vocab_size=20, context=8, seed=0)
    assert model.config.n_embd == 16
    assert {p.dtype for p in model.parameters()} == {torch.float32}


def test_token_numbers_outside_of_the_vocabulary_are_replaced(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gpt2", "n_layer": 1, "vocab_size": 300}))
    config = build_model(str(tmp_path), vocab_size=280, context=8, seed=0, end=279, device="meta").config
    assert (config.vocab_size, config.bos_token_id, config.eos_token_id) == (300, 279, 279)


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ({"model_type": "gpt3"}, "of type 'gpt3', which transformers does not know; did you mean 'gpt"),
        ({"model_type": "gpt2", "vocab_size": 10}, "holds 10 tokens, but the tokenizer has 512"),
        ({"model_type": "gpt2", "n_positions": 16}, "reads at most 16 tokens at once, got data.context=32"),
        ({"model_type": "vit"}, "has no vocabulary"),
        ({"model_type": "distilbert"}, "no causal language model"),
        ({"model_type": "gpt2", "n_embd": "wide"}, "n_embd.*expected int"),
        ({"model_type": "gpt2", "n_embd": 32, "n_head": 3}, "cannot be: .*num_heads"),
        ({"n_layer": 3}, "says its model_type"),
        ([1], "says its model_type"),
    ],
)
def test_a_config_that_will_not_do_is_one_sentence(tmp_path, written, said):
    path = tmp_path / "config.json"
    path.write_text(json.dumps(written))
    with pytest.raises(ValueError, match=said):
        build_model(str(path), vocab_size=512, context=32, seed=0)


def test_a_config_that_is_no_json_is_one_sentence(tmp_path):
    (tmp_path / "config.json").write_bytes(b"\xff\xfe{")
    with pytest.raises(ValueError, match="is not JSON"):
        build_model(str(tmp_path), vocab_size=512, context=32, seed=0)


@pytest.mark.parametrize(("spec", "near"), [("tinny", "tiny"), ("gpt-2", "gpt2"), ("lama-small", "llama-small")])
def test_an_unknown_name_gets_the_nearest_right_one(spec, near):
    with pytest.raises(ValueError, match=f"did you mean '{near}'"):
        build_model(spec, vocab_size=512, context=32, seed=0)


def test_a_hub_name_that_cannot_be_reached_is_one_sentence():
    with pytest.raises(FileNotFoundError, match="no hub model that can be reached"):
        build_model("nobody/nothing", vocab_size=512, context=32, seed=0)
    with pytest.raises(FileNotFoundError, match="does not exist"):
        build_model("./nowhere/config.json", vocab_size=512, context=32, seed=0)


def test_code_of_a_repository_is_never_run(tmp_path):
    (tmp_path / "evil.py").write_text("raise SystemExit('it ran')")
    written = {"model_type": "gpt2", "n_layer": 1, "auto_map": {"AutoModelForCausalLM": "evil.Model"}}
    (tmp_path / "config.json").write_text(json.dumps(written))
    model = build_model(str(tmp_path), vocab_size=512, context=32, seed=0, device="meta")
    assert type(model) is GPT2LMHeadModel


QWEN = {"model_type": "qwen2", "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "vocab_size": 512}


@pytest.mark.parametrize(("heads", "kv_heads"), [(4, 3), (3, 3), (3, 2)])
def test_heads_that_do_not_fit_together_are_one_sentence(tmp_path, heads, kv_heads, capfd):
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**QWEN, "num_attention_heads": heads, "num_key_value_heads": kv_heads}))
    with pytest.raises(ValueError, match=r"of type 'qwen2' cannot be: the sizes in its config do not fit") as caught:
        check_model(str(path), context=32)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_can_be(shape):
    check_model(shape, context=256)
