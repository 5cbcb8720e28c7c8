"""A layer computed by the compiled operators is the layer that PyTorch's own operators compute on the same codes."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from transformers.pytorch_utils import Conv1D

from pennyweight.kernels import compiled
from pennyweight.nn import quantize

pytestmark = pytest.mark.skipif(compiled.missing() is not None, reason=str(compiled.missing()))

Results = Callable[..., list[Tensor]]
Agree = Callable[[list[Tensor], list[Tensor], float], None]
RECIPES = ["w8a8g8", "penny8", "w8a8"]


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("kind", ["linear", "conv1d", "no bias"])
@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("shape", [(70, 40), (2, 33, 40), (1, 40), (5, 8, 2, 40)])
def test_both_ways_agree(
    recipe: str,
    kind: str,
    autocast: bool,
    shape: tuple[int, ...],
    results: Results,
    agree: Agree,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    torch.manual_seed(0)
    layer = Conv1D(24, 40) if kind == "conv1d" else nn.Linear(40, 24, bias=kind == "linear")
    model = nn.Sequential(layer)
    quantize(model, recipe)
    x = torch.randn(shape)
    fast = results(model, x, autocast=autocast)
    monkeypatch.setattr(compiled, "missing", lambda: "hidden by a test")
    slow = results(model, x, autocast=autocast)
    tolerance = 2e-2 if autocast else 1e-5  # bfloat16 outputs may differ by one rounding, and what follows with them
    agree(fast, slow, tolerance)


class Seen(TorchDispatchMode):
    """The names of our operators, in the order in which they are called."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace == "pennyweight":
            self.names.append(func._opname)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    ("recipe", "names"),
    [
        ("w8a8g8", ["write_rows", "written_linear", "int8_linear_backward"]),
        ("penny8", ["write_rows", "written_linear", "int8_linear_backward"]),
        ("w8a8", ["write_rows", "written_linear", "decoded_grad_input", "decoded_grad_weight"]),
        ("w8a8g8s", ["write_rows", "int8_linear", "write_rows"]),
        ("w4a4", []),
    ],
)
def test_only_plain_int8_rows_take_the_compiled_way(recipe: str, names: list[str], results: Results) -> None:
    model = nn.Sequential(nn.Linear(64, 64))
    quantize(model, recipe)
    with Seen() as seen:
        results(model, torch.randn(9, 64), autocast=True)
    assert seen.names == names
