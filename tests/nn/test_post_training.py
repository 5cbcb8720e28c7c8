"""A trained model is written without another step: by absmax as quantize does, by clipping rules with less error."""

from collections.abc import Callable
from copy import deepcopy

import pytest
import torch
from torch import Tensor, nn

from pennyweight.nn import plain_weights, post_train, quantize
from pennyweight.nn.post_training import stored_bytes
from pennyweight.numerics import cast

TOKENS = torch.arange(24).view(2, 12) % 61


@pytest.fixture(params=["gpt2", "llama"])
def model(request: pytest.FixtureRequest, small_model: Callable[..., nn.Module]) -> nn.Module:
    torch.manual_seed(3)
    return small_model(request.param, blocks=2, width=32).eval()


@torch.no_grad()
def logits(model: nn.Module) -> Tensor:
    return model(input_ids=TOKENS).logits


@pytest.mark.parametrize("recipe", ["w4", "w8a8", "w4b8a8g8", "penny8-nomaster"])
def test_absmax_is_quantize_bit_for_bit(model: nn.Module, recipe: str) -> None:
    other = deepcopy(model)
    post_train(model, recipe)
    quantize(other, recipe)
    assert torch.equal(logits(model), logits(other))


@pytest.mark.parametrize("rule", ["absmax", "mse", "percentile"])
def test_under_bf16_nothing_changes(model: nn.Module, rule: str) -> None:
    before = logits(model)
    conversion = post_train(model, "bf16", rule)
    assert torch.equal(logits(model), before)
    assert conversion.converted == []


def test_mse_leaves_no_weight_with_a_larger_error_and_some_with_a_smaller_one(model: nn.Module) -> None:
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    cut = deepcopy(model)
    post_train(model, "w3")
    post_train(cut, "w3", "mse")
    plain, better = plain_weights(model), plain_weights(cut)
    errors = [((plain[n] - w).square().sum(), (better[n] - w).square().sum()) for n, w in before.items()]
    assert all(one <= absmax for absmax, one in errors)
    assert any(one < absmax for absmax, one in errors)


def test_a_weight_that_another_module_reads_is_never_cut(small_model: Callable[..., nn.Module]) -> None:
    model = small_model("gpt2", blocks=1, width=32)
    embedding = model.get_input_embeddings().weight
    before = embedding.detach().clone()
    post_train(model, "paper-w4", "mse")  # writes the head too
    assert "lm_head" in model.pennyweight_conversion.converted
    assert torch.equal(embedding, before)


def test_weights_count_as_their_codes_and_scales_and_all_others_two_bytes(
    small_model: Callable[..., nn.Module],
) -> None:
    model = small_model("gpt2", blocks=1, width=32)
    whole, written, numbers = stored_bytes(model, "w4b32")
    rows = {"c_attn": (96, 32), "attn.c_proj": (32, 32), "c_fc": (128, 32), "mlp.c_proj": (32, 128)}
    assert numbers == sum(out * into for out, into in rows.values())
    assert written == sum(out * into // 2 + out * into // 32 * 4 for out, into in rows.values())
    every = sum(parameter.numel() for parameter in model.parameters())
    assert whole == written + 2 * (every - numbers)
    assert cast("int4/block32").bytes((96, 32)) == 96 * 16 + 96 * 4


def test_an_unknown_rule_changes_nothing_and_names_the_nearest(model: nn.Module) -> None:
    with pytest.raises(ValueError, match="'msee'; did you mean 'mse'"):
        post_train(model, "w4", "msee")
    assert not hasattr(model, "pennyweight_conversion")


@pytest.mark.parametrize("recipe", ["w4", "w4a8", "w4b8", "penny8-nomaster"])
def test_gptq_leaves_weights_on_the_codes_and_layers_that_do_not_write_them_again(
    model: nn.Module, recipe: str
) -> None:
    plain = deepcopy(model)
    post_train(model, recipe, "gptq", batches=[TOKENS])
    state = plain_weights(model)
    for name, module in plain.named_modules():
        if name not in model.pennyweight_conversion.converted:
            continue
        turned = type(module).__name__ == "Conv1D"
        before, after = (one.T if turned else one for one in (module.weight, state[f"{name}.weight"]))
        casts = next(line.casts for line in model.pennyweight_conversion.lines if line.name == name)
        scales = casts.output.right.write(before).scale_values()
        levels = after / scales.repeat_interleave(before.shape[1] // scales.shape[1], dim=1)
        assert torch.allclose(levels, levels.round(), atol=1e-3)


def test_gptq_keeps_the_outputs_of_layers_nearer_than_absmax_does(small_model: Callable[..., nn.Module]) -> None:
    torch.manual_seed(1)
    model = small_model("llama", blocks=1, width=32).eval()
    before, other = logits(model), deepcopy(model)
    post_train(model, "w3", "gptq", batches=[TOKENS])
    post_train(other, "w3")
    assert (logits(model) - before).square().mean() < (logits(other) - before).square().mean()


def test_gptq_wants_batches(model: nn.Module) -> None:
    with pytest.raises(ValueError, match="saw none; give it batches of tokens"):
        post_train(model, "w4", "gptq")
