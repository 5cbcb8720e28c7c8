"""Saved: what a layer keeps for its backward pass is codes, kept once, where autograd can see it."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.pytorch_utils import Conv1D

from pennyweight.nn import quantize
from pennyweight.numerics import cast
from pennyweight.recipes import LinearCasts, Product, Recipe, recipe

TOKENS, IN, OUT = 128, 256, 64
ROW8 = cast("int8/row")


def casts(backward: Any, **more: Any) -> LinearCasts:
    written = Product(ROW8, ROW8)
    gradient = written if backward == "requantized" else Product(ROW8)
    return LinearCasts(written, gradient, gradient, backward=backward, **more)


def saved_bytes(module: nn.Module, *inputs: Any, without: tuple[Tensor, ...] = (), **options: Any) -> int:
    """Bytes that autograd keeps, each storage once, parameters and `without` left out."""
    seen = {t.untyped_storage().data_ptr() for t in (*module.parameters(), *without)}
    total = 0

    def pack(tensor: Tensor) -> Tensor:
        nonlocal total
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in seen:
            seen.add(storage.data_ptr())
            total += storage.nbytes()
            kept.append(tensor)  # so that no address is used twice
        return tensor

    kept: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        module(*inputs, **options)
    return total


@pytest.mark.parametrize(
    ("wanted", "kept"),
    [
        (casts("folded"), TOKENS * IN + 4 * TOKENS),
        (casts("forward", way="emulated"), TOKENS * IN + 4 * TOKENS),
        (casts("requantized"), TOKENS * IN + 4 * IN),
        (casts("requantized", saved=cast("int4/block32")), TOKENS * IN // 2 + 4 * TOKENS * IN // 32),
        (casts("original", saved=ROW8), TOKENS * IN + 4 * TOKENS),
        (casts("original"), 4 * TOKENS * IN),
        (LinearCasts(Product(cast("int4/row"), ROW8), Product(ROW8), Product(ROW8)), TOKENS * IN // 2 + 4 * TOKENS),
    ],
)
@pytest.mark.parametrize("kind", [nn.Linear, Conv1D])
def test_saved_bytes_are_those_of_the_codes(wanted: LinearCasts, kept: int, kind: type) -> None:
    layer = nn.Linear(IN, OUT) if kind is nn.Linear else Conv1D(OUT, IN)
    quantize(layer, Recipe("test", wanted, head=True))
    x = torch.randn(TOKENS, IN)
    found = saved_bytes(layer, x.clone().requires_grad_())
    assert abs(found - kept) <= 0.02 * kept


def test_a_full_precision_layer_keeps_four_times_as_much() -> None:
    x = torch.randn(TOKENS, IN)
    assert saved_bytes(nn.Linear(IN, OUT), x.clone().requires_grad_()) == 4 * TOKENS * IN


def test_under_autocast_the_unwritten_input_is_kept_in_the_autocast_dtype() -> None:
    layer = nn.Linear(IN, OUT)
    quantize(layer, Recipe("test", casts("original"), head=True))
    with torch.autocast("cpu", torch.bfloat16):
        assert saved_bytes(layer, torch.randn(TOKENS, IN)) == 2 * TOKENS * IN


def test_frozen_weights_keep_no_input() -> None:
    layer = nn.Linear(IN, OUT)
    quantize(layer, Recipe("test", casts("folded"), head=True))
    layer.weight.requires_grad_(False)
    assert saved_bytes(layer, torch.randn(TOKENS, IN, requires_grad=True)) == 0


class Fed(nn.Module):
    """Three layers on one input, as q, k and v are."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = nn.Linear(IN, OUT), nn.Linear(IN, OUT), nn.Linear(IN, OUT)

    def forward(self, x: Tensor, *, change: bool = False) -> Tensor:
        y = self.q(x) + self.k(x)
        if change:
            x.mul_(2.0)
        return y + self.v(x)


def test_layers_fed_by_one_tensor_share_one_saved_copy() -> None:
    model = Fed()
    quantize(model, Recipe("test", casts("folded")))
    assert saved_bytes(model, torch.randn(TOKENS, IN)) == TOKENS * IN + 4 * TOKENS


def test_a_tensor_changed_in_between_is_written_again() -> None:
    model, plain = Fed(), Fed()
    plain.load_state_dict(model.state_dict())
    quantize(model, Recipe("test", casts("folded")))
    x = torch.randn(TOKENS, IN)
    wanted = plain(x.clone(), change=True)
    assert (model(x, change=True) - wanted).abs().max() < 0.05  # 8 bits of three sums near 3


def test_the_shared_copy_goes_with_its_input() -> None:
    model = Fed()
    quantize(model, Recipe("test", casts("folded")))
    x = torch.randn(TOKENS, IN)
    with torch.no_grad():
        model(x)
    shared = model.q.layer.shared  # type: ignore[union-attr]
    assert shared._last  # type: ignore[union-attr]
    del x
    assert not shared._last  # type: ignore[union-attr]


def test_inference_mode_and_no_grad_work_and_keep_nothing() -> None:
    model = Fed()
    quantize(model, Recipe("test", casts("folded")))
    x = torch.randn(TOKENS, IN)
    with torch.no_grad():
        wanted = model(x)
        assert saved_bytes(model, x) == 0
    with torch.inference_mode():
        assert torch.equal(model(torch.clone(x)), wanted)


def test_llama_keeps_the_input_of_q_k_v_and_of_gate_and_up_once() -> None:
    config = LlamaConfig(
        num_hidden_layers=1, hidden_size=64, intermediate_size=96, num_attention_heads=4, vocab_size=50
    )
    model = LlamaForCausalLM(config).model.layers[0]
    conversion = quantize(model, recipe("w8a8g8"))
    calls: list[tuple[int, ...]] = []
    shared = model.self_attn.q_proj.layer.shared
    write = shared.write

    def counted(x: Tensor, matrix: Tensor, how: Any) -> Any:
        before = shared._last
        written = write(x, matrix, how)
        if shared._last is not before:
            calls.append(tuple(matrix.shape))
        return written

    shared.write = counted
    positions = (torch.ones(1, 8, 16), torch.zeros(1, 8, 16))
    model(torch.randn(1, 8, 64), position_embeddings=positions)
    assert len(conversion.converted) == 7
    assert calls == [(8, 64), (8, 64), (8, 64), (8, 96)]  # q k v; o; gate up; down


@pytest.mark.parametrize("backward", ["original", "forward", "requantized", "folded"])
def test_a_weight_changed_in_place_before_backward_is_noticed(backward: str) -> None:
    layer = nn.Linear(IN, OUT)
    quantize(layer, Recipe("test", casts(backward), head=True))
    y = layer(torch.randn(4, IN, requires_grad=True))
    with torch.no_grad():
        layer.weight.mul_(2.0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


def test_saved_tensor_hooks_may_move_what_is_kept() -> None:
    torch.manual_seed(0)
    layer = nn.Linear(IN, OUT)
    quantize(layer, Recipe("test", casts("folded"), head=True))
    x, hooks = torch.randn(4, IN), (lambda tensor: tensor.clone(), lambda tensor: tensor)
    layer(x).sum().backward()
    wanted = layer.weight.grad
    layer.weight.grad = None
    with torch.autograd.graph.saved_tensors_hooks(*hooks):
        y = layer(x)
    y.sum().backward()
    assert wanted is not None
    assert layer.weight.grad is not None
    assert torch.equal(layer.weight.grad, wanted)
