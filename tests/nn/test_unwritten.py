"""Inside `unwritten` a converted model is the one it was, and afterwards it is what it had become."""

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from pennyweight.nn import quantize
from pennyweight.nn.unwritten import unwritten


def made(kind: str) -> torch.nn.Module:
    torch.manual_seed(0)
    if kind == "gpt2":
        shape = {"n_layer": 2, "n_embd": 64, "n_head": 2, "n_positions": 64, "vocab_size": 96}
        return GPT2LMHeadModel(GPT2Config(**shape, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0))
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=96, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=2,
            max_position_embeddings=64,
        )
    )  # fmt: skip


def loss(model: torch.nn.Module, tokens: torch.Tensor) -> torch.Tensor:
    logits = model(input_ids=tokens, use_cache=False).logits
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens.flatten())


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
@pytest.mark.parametrize("recipe", ["w8a8", "penny8k8", "penny4", "paper-a4t"])
def test_inside_it_computes_what_the_model_computed_before(kind: str, recipe: str) -> None:
    tokens = torch.arange(2 * 64).view(2, 64) % 96
    plain, model = made(kind), made(kind)
    quantize(model, recipe)
    loss(plain, tokens).backward()
    written = loss(model, tokens)
    with unwritten(model) as parameters:
        inside = loss(model, tokens)
        inside.backward()
    assert torch.equal(inside, loss(plain, tokens))
    assert not torch.equal(written, inside)
    for name, parameter in plain.named_parameters():
        assert torch.equal(parameters[name].grad, parameter.grad), name
    model.zero_grad()
    assert loss(model, tokens).shape == ()


def test_afterwards_the_model_is_written_as_it_was() -> None:
    tokens = torch.arange(2 * 64).view(2, 64) % 96
    model = made("gpt2")
    quantize(model, "penny8k8")
    before = loss(model, tokens)
    kinds = [type(module) for module in model.modules()]
    with unwritten(model):
        assert [type(module) for module in model.modules()] != kinds
    assert [type(module) for module in model.modules()] == kinds
    assert torch.equal(loss(model, tokens), before)


def test_a_weight_that_is_codes_alone_is_lent_its_values() -> None:
    tokens = torch.arange(2 * 64).view(2, 64) % 96
    plain, model = made("gpt2"), made("gpt2")
    quantize(model, "penny8-nomaster")
    own = dict(model.named_parameters())
    name = "transformer.h.1.mlp.c_fc.weight"
    layer = model.get_submodule(name.removesuffix(".weight"))
    codes, scales = layer.get_buffer("weight_codes"), layer.get_buffer("weight_scales")
    with unwritten(model) as parameters:
        assert torch.equal(parameters[name], codes * scales)  # [I, O], one scale an output
        loss(model, tokens).backward()
        assert parameters[name].grad is not None
    assert dict(model.named_parameters())[name] is own[name]
    assert own[name].grad is None
    assert any(not torch.equal(parameters[n], p) for n, p in plain.named_parameters())
