"""A layer that takes the GPU's operators computes what PyTorch's own operators compute on the same codes."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from pennyweight.kernels import operators
from pennyweight.kernels.gpu import door
from pennyweight.nn import quantize

pytestmark = pytest.mark.skipif(door.obstacle() is not None, reason=str(door.obstacle()))
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


Results = Callable[..., list[Tensor]]
Agree = Callable[[list[Tensor], list[Tensor], float], None]
WAYS = {"w8a8g8": {"write_rows", "int8_linear", "int8_linear_backward"}, "w8a8": {"write_rows", "int8_linear"}}


@pytest.mark.parametrize("recipe", WAYS)
@pytest.mark.parametrize("kind", ["linear", "conv1d"])
@pytest.mark.parametrize("autocast", [False, True])
def test_both_ways_agree(
    recipe: str, kind: str, autocast: bool, results: Results, agree: Agree, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(Conv1D(24, 40) if kind == "conv1d" else nn.Linear(40, 24)).to(DEVICE)
    quantize(model, recipe)
    x = torch.randn(2, 33, 40, device=DEVICE)
    there = door.operators()
    taken = set()

    class Seen:
        def __getattr__(self, name: str) -> object:
            taken.add(name)
            return getattr(there, name)

    monkeypatch.setattr(operators, "fused", lambda device: Seen())
    monkeypatch.setattr(operators, "triton", lambda device: Seen())
    fast = results(model, x, autocast=autocast)
    turned = {"write_turned"} if (kind, recipe) == ("conv1d", "w8a8") else set()  # W^T, decoded backward
    assert taken == WAYS[recipe] | turned
    monkeypatch.setattr(operators, "fused", lambda device: None)
    monkeypatch.setattr(operators, "triton", lambda device: None)
    slow = results(model, x, autocast=autocast)
    # bfloat16 outputs may differ by one rounding (the interpreter cuts off instead), and what follows with them
    tolerance = 4e-2 if autocast else 1e-5
    agree(fast, slow, tolerance)
