"""What the tests of converted layers share: small models, all that one pass gives, and when two ways of it agree."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM


@pytest.fixture
def results() -> Callable[..., list[Tensor]]:
    """Of a model and an input: the output, the gradient of the input and of every parameter, of the output squared."""

    def made(model: nn.Module, x: Tensor, *, autocast: bool) -> list[Tensor]:
        x = x.clone().requires_grad_()
        with torch.autocast(x.device.type, torch.bfloat16, enabled=autocast):
            y = model(x)
        (y.float() ** 2).sum().backward()
        gradients = [parameter.grad for parameter in model.parameters()]
        model.zero_grad()
        assert x.grad is not None
        return [y.detach(), x.grad, *(gradient for gradient in gradients if gradient is not None)]

    return made


@pytest.fixture
def agree() -> Callable[[list[Tensor], list[Tensor], float], None]:
    """Checks that two lists of tensors have the same dtypes, and numbers as close as a share of the largest one."""

    def check(fast: list[Tensor], slow: list[Tensor], tolerance: float) -> None:
        for one, other in zip(fast, slow, strict=True):
            assert one.dtype == other.dtype
            bound = tolerance * float(other.abs().max())
            torch.testing.assert_close(one.float(), other.float(), rtol=tolerance, atol=bound)

    return check


@pytest.fixture
def small_model() -> Callable[..., nn.Module]:
    """A "gpt2" or a "llama" of 61 words and 32 positions, of so many blocks so wide, without dropout."""

    def made(family: str, *, blocks: int, width: int) -> nn.Module:
        if family == "gpt2":
            sizes = {"n_layer": blocks, "n_embd": width, "n_head": 2, "vocab_size": 61, "n_positions": 32}
            ends = {"bos_token_id": 0, "eos_token_id": 0}
            return GPT2LMHeadModel(GPT2Config(resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, **sizes, **ends))
        sizes = {"num_hidden_layers": blocks, "hidden_size": width, "intermediate_size": 48, "num_attention_heads": 2}
        return LlamaForCausalLM(LlamaConfig(**sizes, vocab_size=61, max_position_embeddings=32))

    return made
