"""What a pass keeps for backward in few bits: what is written, what never is, and how near its gradients stay."""

import pickle
from copy import deepcopy

import pytest
import torch
from torch import nn
from torch.nn import functional
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig

from pennyweight.nn import quantize
from pennyweight.nn.saved import Saved
from pennyweight.numerics import cast

SIZES = {"vocab_size": 128, "bos_token_id": 0, "eos_token_id": 0}
SHAPES = {
    "gpt2": GPT2Config(
        n_layer=2, n_embd=64, n_head=4, n_positions=128, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, **SIZES
    ),
    "llama": LlamaConfig(num_hidden_layers=2, hidden_size=64, num_attention_heads=4, intermediate_size=128, **SIZES),
}
TOKENS = torch.randint(0, 128, (2, 128), generator=torch.Generator().manual_seed(0))


def built(shape: str, recipe: str) -> nn.Module:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(deepcopy(SHAPES[shape])).train()
    quantize(model, recipe)
    return model


def gradients(model: nn.Module) -> dict[str, torch.Tensor]:
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(input_ids=TOKENS, use_cache=False).logits
        functional.cross_entropy(logits.float().flatten(0, 1), TOKENS.flatten()).backward()
    return {name: p.grad.clone() for name, p in model.named_parameters()}


def kept_bytes(model: nn.Module) -> int:
    held = {}

    def watch(tensor: torch.Tensor) -> torch.Tensor:
        held[tensor.untyped_storage()._cdata] = tensor
        return tensor

    own = {p.untyped_storage()._cdata for p in model.parameters()}
    saved = model.pennyweight_conversion.saved
    with torch.autograd.graph.saved_tensors_hooks(watch, lambda t: t), torch.autocast("cpu", torch.bfloat16):
        if saved is None:
            model.base_model(input_ids=TOKENS, use_cache=False)
        else:
            with saved.watched(watch):
                model(input_ids=TOKENS, use_cache=False)
    return sum(t.untyped_storage().nbytes() for key, t in held.items() if key not in own)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("written", "near"), [("w8a8g8k8", 0.9995), ("w8a8g8k4b32", 0.97)])
def test_gradients_stay_near_those_of_what_was_kept_whole(shape, written, near):
    plain, few = gradients(built(shape, "w8a8g8")), gradients(built(shape, written))
    assert any(not torch.equal(plain[name], few[name]) for name in plain)
    for name in plain:
        assert functional.cosine_similarity(plain[name].flatten(), few[name].flatten(), dim=0) > near, name


def test_the_forward_pass_is_not_touched():
    a, b = built("gpt2", "w8a8g8"), built("gpt2", "w8a8g8k8")
    assert torch.equal(a(input_ids=TOKENS).logits, b(input_ids=TOKENS).logits)


@pytest.mark.parametrize("shape", SHAPES)
def test_less_is_kept(shape):
    assert kept_bytes(built(shape, "w8a8g8k8")) < 0.75 * kept_bytes(built(shape, "w8a8g8"))


def test_a_row_is_read_again_within_half_a_step_of_its_largest():
    saved, x = Saved(cast("int8/row")), torch.randn(40, 200, requires_grad=True) * 3
    again = saved.unpack(saved.pack(x))
    assert again.dtype == x.dtype
    assert ((again - x).abs() <= x.abs().amax(1, keepdim=True) / 254 * 1.0001).all()


@pytest.mark.parametrize(
    "tensor",
    [
        nn.Parameter(torch.randn(100, 100)),
        nn.Parameter(torch.randn(100, 100)).T,
        nn.Parameter(torch.randn(100, 100)).to(torch.bfloat16).t(),
        nn.Parameter(torch.randn(100, 10, 10)).view(100, 100),
        torch.randn(100, 100),
        (torch.randn(10, 100, requires_grad=True) * 2),
        (torch.randn(10_000, 2, requires_grad=True) * 2),
        (torch.randn(100, 100, requires_grad=True) * 2).argsort(),
        (torch.randn(100, 100, requires_grad=True, dtype=torch.float64) * 2),
    ],
    ids=["parameter", "turned", "cast", "viewed", "without gradient", "few", "short rows", "indices", "float64"],
)
def test_what_must_not_be_written_is_kept_as_it_is(tensor):
    saved = Saved(cast("int8/row"))
    assert saved.pack(tensor) is tensor
    assert saved.unpack(tensor) is tensor


def test_a_tensor_saved_twice_in_a_row_is_written_once():
    saved, x = Saved(cast("int8/row")), torch.randn(64, 64, requires_grad=True) * 2
    once = saved.pack(x)
    assert saved.pack(x) is once
    with torch.no_grad():
        x.mul_(2)
    assert saved.pack(x) is not once


def test_it_holds_only_inside_of_the_models_forward_pass():
    model = built("gpt2", "w8a8g8k8")
    model(input_ids=TOKENS)
    x = torch.randn(100, 100, requires_grad=True) * 2
    (gradient,) = torch.autograd.grad((x**3).sum(), x)
    assert torch.equal(gradient, 3 * x.detach() ** 2)


def test_a_pass_that_fails_leaves_no_hook_behind():
    model = built("gpt2", "w8a8g8k8")
    with pytest.raises((IndexError, RuntimeError)):
        model(input_ids=torch.full((1, 4), 10_000))
    x = torch.randn(100, 100, requires_grad=True) * 2
    (gradient,) = torch.autograd.grad((x**3).sum(), x)
    assert torch.equal(gradient, 3 * x.detach() ** 2)


@pytest.mark.parametrize("without", [torch.no_grad, torch.inference_mode])
def test_evaluation_and_prediction_keep_nothing(without):
    model, kept = built("gpt2", "w8a8g8k8").eval(), []
    with without(), model.pennyweight_conversion.saved.watched(kept.append):
        logits = model(input_ids=TOKENS).logits
    assert kept == []
    assert torch.equal(logits, model(input_ids=TOKENS).logits)


def test_activation_checkpointing_of_blocks_still_trains():
    model = built("gpt2", "w8a8g8k8")
    whole = gradients(model)
    model.zero_grad()
    model.activation_checkpointing_enable({"use_reentrant": False})
    again = gradients(model)
    for name in whole:
        assert functional.cosine_similarity(whole[name].flatten(), again[name].flatten(), dim=0) > 0.999, name


@pytest.mark.parametrize("copied", [deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_a_copy_writes_what_it_keeps_too(copied):
    model = built("gpt2", "w8a8g8k8")
    copy = copied(model)
    assert copy.pennyweight_conversion.saved is not model.pennyweight_conversion.saved
    expected, told = gradients(model), gradients(copy)
    assert all(torch.equal(expected[name], told[name]) for name in expected)


def test_the_conversion_says_so():
    assert "all else that is kept for the backward pass is kept in int8/row" in str(
        built("gpt2", "w8a8g8k8").pennyweight_conversion
    )


def test_a_gradient_of_torch_func_is_refused_in_one_sentence_and_leaves_nothing_open() -> None:
    model = built("gpt2", "penny8k8")
    embedded = torch.randn(2, 8, 64)
    with pytest.raises(ValueError, match="^this model writes what autograd saves .* use backward"):
        torch.func.grad(lambda x: model(inputs_embeds=x).logits.sum())(embedded)
    assert not model.pennyweight_conversion.saved._here.open
    assert gradients(model)
