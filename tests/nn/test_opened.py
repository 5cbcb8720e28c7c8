"""The head is opened only where its product is all that makes the logits; nothing else of the model changes."""

import pytest
import torch
from torch import nn
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

from pennyweight.nn import before_head, plain_head, quantize

SIZES = {"num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 2, "vocab_size": 48}
SIZES |= {"hidden_size": 32, "intermediate_size": 40, "max_position_embeddings": 16, "head_dim": 16}
GPT2 = {"n_layer": 2, "n_embd": 32, "n_head": 2, "vocab_size": 48, "n_positions": 16}
TOKENS = torch.arange(1, 13).view(2, 6)


def build(kind, **changes):
    torch.manual_seed(0)
    sizes = GPT2 if kind == "gpt2" else {n: s for n, s in SIZES.items() if kind != "phi" or n != "head_dim"}
    ends = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": None}
    return AutoModelForCausalLM.from_config(CONFIG_MAPPING[kind](**{**sizes, **ends, **changes}))


@pytest.mark.parametrize("kind", ["gpt2", "llama", "qwen3", "opt", "phi", "gemma"])
def test_a_model_whose_logits_are_its_heads_product_is_opened(kind):
    model = build(kind).eval()
    head = plain_head(model, TOKENS)
    assert head is model.get_output_embeddings()
    with torch.no_grad():
        hidden = before_head(model, head, TOKENS)
        assert hidden.shape == (2, 6, 32)
        assert torch.equal(nn.functional.linear(hidden, head.weight, head.bias), model(TOKENS).logits)


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("gemma2", {}),
        ("cohere", {}),
        ("granite", {"logits_scaling": 2.0}),
        ("gemma3_text", {"final_logit_softcapping": 30.0}),
    ],
)
def test_a_model_that_goes_on_with_its_logits_is_not(kind, changes):
    assert plain_head(build(kind, **changes), TOKENS) is None


class Masked(nn.Module):
    """Writes into what its head gave."""

    def __init__(self):
        super().__init__()
        self.embedding, self.head = nn.Embedding(8, 4), nn.Linear(4, 8)

    def get_output_embeddings(self):
        return self.head

    def forward(self, input_ids, use_cache):
        logits = self.head(self.embedding(input_ids))
        logits[..., 0] = -1.0
        return type("Output", (), {"logits": logits})


class Twice(Masked):
    """Uses its head for two things."""

    def forward(self, input_ids, use_cache):
        self.head(self.embedding(input_ids))
        return type("Output", (), {"logits": self.head(self.embedding(input_ids))})


@pytest.mark.parametrize("kind", [Masked, Twice])
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_a_head_written_over_or_called_twice_is_not_opened(kind, mode):
    with mode():
        assert plain_head(kind(), torch.zeros(1, 2, dtype=torch.int64)) is None


def test_a_written_head_a_subclass_and_a_head_with_a_hook_are_not_opened():
    written = build("gpt2")
    assert plain_head(written, TOKENS) is not None
    quantize(written, "paper-w8a8g8")
    assert type(written.lm_head).__name__ == "WrittenLinear"
    assert plain_head(written, TOKENS) is None
    other = build("gpt2")
    hook = other.lm_head.register_forward_hook(lambda *_: None)
    assert plain_head(other, TOKENS) is None
    hook.remove()
    assert plain_head(other, TOKENS) is other.lm_head
    assert plain_head(nn.Linear(2, 2), TOKENS) is None


def test_looking_changes_nothing_and_happens_once():
    model = build("gpt2", resid_pdrop=0.5).train()
    calls = []
    model.register_forward_hook(lambda *_: calls.append(1))
    quantize(model, "w8a8g8")
    counter = model.pennyweight_conversion.counter
    before, state = counter.micro_batch, torch.get_rng_state()
    with torch.autocast("cpu", torch.bfloat16):
        assert plain_head(model, TOKENS) is plain_head(model, TOKENS)
        assert torch.equal(torch.get_rng_state(), state)
        loss = model(TOKENS, labels=TOKENS).loss
    loss.backward()
    assert len(calls) == 2
    assert counter.micro_batch == before + 1
    assert all(p.grad is not None for p in model.parameters())


def test_the_head_is_itself_again_after_an_error_too():
    model = build("gpt2")
    with pytest.raises(IndexError):
        before_head(model, model.lm_head, torch.full((1, 2), 99))
    assert "forward" not in vars(model.lm_head)
    assert model(TOKENS).logits.shape == (2, 6, 48)
