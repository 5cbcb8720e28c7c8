"""Kept: what a layer keeps of its input for its backward pass is codes, kept once, where autograd can see it."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from pennyweight.nn import quantize
from pennyweight.numerics import cast
from pennyweight.recipes import LinearCasts, Product, Recipe

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

    def forward(self, x: Tensor) -> Tensor:
        return self.q(x) + self.k(x) + self.v(x)


def test_layers_fed_by_one_tensor_share_one_saved_copy() -> None:
    model = Fed()
    quantize(model, Recipe("test", casts("folded")))
    assert saved_bytes(model, torch.randn(TOKENS, IN)) == TOKENS * IN + 4 * TOKENS


def test_inference_mode_and_no_grad_work_and_keep_nothing() -> None:
    model = Fed()
    quantize(model, Recipe("test", casts("folded")))
    x = torch.randn(TOKENS, IN)
    with torch.no_grad():
        wanted = model(x)
        assert saved_bytes(model, x) == 0
    with torch.inference_mode():
        assert torch.equal(model(torch.clone(x)), wanted)


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
