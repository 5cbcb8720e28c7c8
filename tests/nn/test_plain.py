"""Plain: what a written model saves loads without Pennyweight and is the model, activations unwritten."""

import subprocess
import sys
from copy import deepcopy
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, GPT2Config, LlamaConfig, PretrainedConfig, Qwen2Config

from pennyweight.nn import activations_off, plain_weights, quantize
from pennyweight.numerics import cast
from pennyweight.recipes import LinearCasts, Product, Recipe

SMALL = {"vocab_size": 61, "max_position_embeddings": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
WIDE = {**SMALL, "hidden_size": 64, "intermediate_size": 96, "num_key_value_heads": 2}
SHAPES: dict[str, PretrainedConfig] = {
    "gpt2": GPT2Config(n_layer=2, n_embd=64, n_head=2, vocab_size=61, n_positions=32, bos_token_id=0, eos_token_id=0),
    "gpt2-untied": GPT2Config(
        n_layer=1, n_embd=32, n_head=2, vocab_size=61, n_positions=32, bos_token_id=0, eos_token_id=0,
        tie_word_embeddings=False,
    ),
    "llama": LlamaConfig(**WIDE),
    "llama-tied": LlamaConfig(**WIDE, tie_word_embeddings=True),
    "qwen": Qwen2Config(**WIDE),
}  # fmt: skip
RECIPES = ["bf16", "w8a8g8", "penny4", "paper-w8a8"]
PAIRS = [(shape, name) for shape in SHAPES for name in RECIPES]

READER = """
import sys
sys.modules["pennyweight"] = None  # importing it now fails
import torch
from pathlib import Path
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM
torch.set_num_threads(1)
tokens = torch.arange(24).reshape(2, 12)
for folder in sorted(p for p in Path(sys.argv[1]).iterdir() if p.is_dir()):
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    with torch.no_grad():
        save_file({"logits": model(tokens).logits}, folder / "seen.safetensors")
"""
TOKENS = torch.arange(24).reshape(2, 12)


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], tuple[Tensor, Tensor]]:
    """For each model and recipe: logits of our model with its activations off, and of the saved one elsewhere."""
    folder = tmp_path_factory.mktemp("models")
    ours = {}
    for shape, name in PAIRS:
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(deepcopy(SHAPES[shape]))
        quantize(model, name)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
        for _ in range(2):
            model(input_ids=TOKENS, labels=TOKENS).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        with torch.no_grad(), activations_off(model.eval()):
            ours[shape, name] = model(TOKENS).logits
        model.save_pretrained(folder / f"{shape}+{name}")
    script = folder / "reader.py"
    script.write_text(READER)
    done = subprocess.run([sys.executable, str(script), str(folder)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    theirs = {pair: load_file(folder / "+".join(pair) / "seen.safetensors")["logits"] for pair in PAIRS}
    return {pair: (ours[pair], theirs[pair]) for pair in PAIRS}


@pytest.mark.parametrize(("shape", "name"), PAIRS)
def test_a_saved_model_gives_our_logits_in_a_python_without_pennyweight(
    seen: dict[tuple[str, str], tuple[Tensor, Tensor]], shape: str, name: str
) -> None:
    ours, theirs = seen[shape, name]
    assert (ours - theirs).abs().max() <= 1e-5 * ours.abs().max()  # 1e-5: another order of float32 sums


def test_activations_matter_so_switching_them_off_is_seen() -> None:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(deepcopy(SHAPES["gpt2"])).eval()
    quantize(model, "w4a4")
    with torch.no_grad():
        on = model(TOKENS).logits
        with activations_off(model):
            off = model(TOKENS).logits
        assert torch.equal(model(TOKENS).logits, on)
    assert (on - off).abs().max() > 1e-3


def test_weights_are_codes_times_scales_and_the_rest_is_untouched() -> None:
    torch.manual_seed(0)
    linear = nn.Sequential(nn.Linear(40, 8), nn.LayerNorm(8))
    before = {name: value.clone() for name, value in linear.state_dict().items()}
    quantize(linear, "w4a4")
    state = plain_weights(linear)
    weight = before["0.weight"]
    scale = weight.abs().amax(1, keepdim=True) / 7
    assert list(state) == list(before)
    assert torch.equal(state["0.weight"], (weight / scale).round() * scale)
    assert all(torch.equal(state[name], before[name]) for name in before if name != "0.weight")


def test_rotated_weights_are_written_and_turned_back() -> None:
    torch.manual_seed(0)
    linear = nn.Sequential(nn.Linear(64, 8))
    weight = linear[0].weight.detach().clone()
    written = cast("int4/block32/hadamard32")
    quantize(linear, Recipe("rotated", LinearCasts(Product(written, written), backward="forward")))
    signs = torch.tensor([[(-1.0) ** bin(i & j).count("1") for j in range(32)] for i in range(32)]) / 32**0.5
    rotation = torch.block_diag(signs, signs)
    turned = (weight @ rotation).unflatten(1, (2, 32))
    scale = turned.abs().amax(-1, keepdim=True) / 7
    expected = ((turned / scale).round() * scale).flatten(1) @ rotation.T
    assert (plain_weights(linear)["0.weight"] - expected).abs().max() < 1e-6  # 1e-6: float32 rotation


def test_tied_weights_stay_one_tensor_unless_the_recipe_tells_them_apart() -> None:
    for name, tied in (("w8a8g8", True), ("paper-w8a8", False)):
        model = AutoModelForCausalLM.from_config(deepcopy(SHAPES["gpt2"]))
        quantize(model, name)
        state = plain_weights(model)
        head, embedding = state["lm_head.weight"], state["transformer.wte.weight"]
        assert (head.data_ptr() == embedding.data_ptr()) is tied
        assert model.lm_head.weight is model.transformer.wte.weight


def test_a_tied_head_that_is_written_is_saved_untied_and_the_model_stays_tied(tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_config(deepcopy(SHAPES["gpt2"]))
    quantize(model, "paper-w8a8")
    model.save_pretrained(tmp_path)
    assert AutoConfig.from_pretrained(tmp_path).tie_word_embeddings is False
    assert model.config.tie_word_embeddings is True


def test_a_deep_copy_saves_its_own_weights(tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_config(deepcopy(SHAPES["gpt2-untied"]))
    quantize(model, "w8a8g8")
    copy = deepcopy(model)
    with torch.no_grad():
        copy.lm_head.weight.zero_()
    copy.save_pretrained(tmp_path)
    assert load_file(tmp_path / "model.safetensors")["lm_head.weight"].eq(0).all()


def test_a_state_dict_that_is_handed_in_is_written_too(tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_config(deepcopy(SHAPES["gpt2-untied"]))
    quantize(model, "w4a4")
    state = {name: value * 2 for name, value in model.state_dict().items()}
    model.save_pretrained(tmp_path, state_dict=state)
    saved = load_file(tmp_path / "model.safetensors")
    name = "transformer.h.0.mlp.c_fc.weight"
    columns = state[name]
    scale = columns.abs().amax(0, keepdim=True) / 7
    assert torch.equal(saved[name], (columns / scale).round() * scale)


def test_written_weights_are_fixed_points() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(40, 8))
    quantize(model, "w8a8g8")
    once = plain_weights(model)
    model.load_state_dict(once)
    assert (plain_weights(model)["0.weight"] - once["0.weight"]).abs().max() <= 1e-7  # one rounding of the scale
