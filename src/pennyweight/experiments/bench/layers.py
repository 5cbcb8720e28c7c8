"""Layers: the products of a linear layer alone, and a whole layer forward and backward."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers.pytorch_utils import Conv1D

from pennyweight.experiments.bench.rounds import Built, Question, Side
from pennyweight.experiments.bench.sizes import Sizes
from pennyweight.kernels import Codes, int8_linear, int8_product, is_compiled, write_rows
from pennyweight.nn import quantize
from pennyweight.training.gradient import precise

UNCOMPILED = "the C++ kernels are not here"
BF16, FP32 = torch.bfloat16, torch.float32


def products(sizes: Sizes) -> list[Question]:
    """Y = X W^T + b alone, for each shape."""
    return [_product(sizes.tokens, *shape) for shape in sizes.layers]


def _product(tokens: int, inputs: int, outputs: int) -> Question:
    x, weight, bias = torch.randn(tokens, inputs), torch.randn(outputs, inputs) / inputs**0.5, torch.zeros(outputs)
    written, codes = write_rows(x), write_rows(weight).numbers
    low = [tensor.to(BF16) for tensor in (x, weight, bias)]

    def ours(left: Codes) -> Tensor:
        assert left.scales is not None
        return int8_linear(left.numbers, left.scales, weight, bias, turned=False, dtype=BF16)

    why = None if is_compiled(written.numbers, weight, BF16) else UNCOMPILED
    sides = (
        Side("bf16 F.linear", lambda: Built(lambda: functional.linear(*low)), "bf16"),
        Side("fp32 F.linear", lambda: Built(lambda: functional.linear(x, weight, bias))),
        Side("int8 product of codes, no scales", lambda: Built(lambda: int8_product(written.numbers, codes)), "int8"),
        Side("int8, X written before", lambda: Built(lambda: ours(written)), "int8", why),
        Side("int8, X written inside", lambda: Built(lambda: ours(write_rows(low[0]))), "int8", why),
    )
    return Question("products", f"{inputs} to {outputs}", sides, 2.0 * tokens * inputs * outputs, "operations")


def layers(sizes: Sizes) -> list[Question]:
    """One linear layer forward and backward: three products, the weight cast or written inside the step."""
    return [_layer(sizes.tokens, *shape) for shape in sizes.layers]


def _layer(tokens: int, inputs: int, outputs: int) -> Question:
    linear = partial(_step, lambda: nn.Linear(inputs, outputs), tokens, inputs, outputs)
    conv1d = partial(_step, lambda: Conv1D(outputs, inputs), tokens, inputs, outputs)
    sides = (
        Side("bf16 F.linear", partial(linear, low=True)),
        Side("bf16 Conv1D", partial(conv1d, low=True)),
        Side("bf16 autocast, nn.Linear", partial(linear, precision="bf16")),
        Side("fp32 F.linear", partial(linear, precision="fp32")),
        Side("w8a8g8, nn.Linear", partial(linear, precision="bf16", recipe="w8a8g8")),
        Side("w8a8g8, Conv1D", partial(conv1d, precision="bf16", recipe="w8a8g8")),
    )
    return Question("layer", f"{inputs} to {outputs}", sides, 6.0 * tokens * inputs * outputs, "operations")


def _step(
    make: Callable[[], nn.Module], tokens: int, inputs: int, outputs: int,
    *, low: bool = False, precision: str = "fp32", recipe: str | None = None,
) -> Built:  # fmt: skip
    """`low`: everything in bf16; else fp32 weights, under autocast where the precision is bf16."""
    dtype = BF16 if low or precision == "bf16" else FP32
    model = nn.Sequential(make().to(BF16 if low else FP32))
    if recipe is not None:
        quantize(model, recipe)
    x = torch.randn(tokens, inputs, dtype=dtype, requires_grad=True)
    g = torch.randn(tokens, outputs, dtype=dtype)
    held = [x, *model.parameters()]

    def call() -> None:
        with precise(precision, "cpu"):
            y = model(x)
        y.backward(g)
        for tensor in held:
            tensor.grad = None

    return Built(call)
