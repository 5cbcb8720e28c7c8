"""Layers: the products of a linear layer alone, and a whole layer forward and backward."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers.pytorch_utils import Conv1D

from pennyweight.experiments.bench.rounds import Built, Question, Side
from pennyweight.experiments.bench.sizes import Sizes
from pennyweight.kernels import Codes, float8_is_fast, int8_linear, int8_product, is_compiled, multiply, write_rows
from pennyweight.nn import quantize
from pennyweight.recipes.precision import precise

UNCOMPILED = "the kernels are not here"
BF16, FP32, E4M3 = torch.bfloat16, torch.float32, torch.float8_e4m3fn
FLOAT8 = "we4m3ae4m3ge4m3"


def products(sizes: Sizes) -> list[Question]:
    """Y = X W^T + b alone, for each shape."""
    return [_product(sizes.device, sizes.tokens, *shape) for shape in sizes.layers]


def _product(device: str, tokens: int, inputs: int, outputs: int) -> Question:
    with torch.device(device):
        x, weight, bias = torch.randn(tokens, inputs), torch.randn(outputs, inputs) / inputs**0.5, torch.zeros(outputs)
    written, codes = write_rows(x), write_rows(weight).numbers
    low = [tensor.to(BF16) for tensor in (x, weight, bias)]

    def ours(left: Codes) -> Tensor:
        assert left.scales is not None
        return int8_linear(left.numbers, left.scales, weight, bias, turned=False, dtype=BF16)

    why = None if is_compiled(written.numbers, weight, BF16) else UNCOMPILED

    def float8() -> Tensor:
        return multiply(write_rows(low[0], kind=E4M3), write_rows(weight, kind=E4M3), bias=bias, dtype=BF16)

    sides = [
        Side("bf16 F.linear", lambda: Built(lambda: functional.linear(*low)), "bf16"),
        Side("fp32 F.linear", lambda: Built(lambda: functional.linear(x, weight, bias))),
        Side("int8 product of codes, no scales", lambda: Built(lambda: int8_product(written.numbers, codes)), "int8"),
        Side("int8, X written before", lambda: Built(lambda: ours(written)), "int8", why),
        Side("int8, X written inside", lambda: Built(lambda: ours(write_rows(low[0]))), "int8", why),
    ]
    if device != "cpu":
        no_float8 = why if float8_is_fast() else "no float8 here"
        sides.append(Side("e4m3, X and W written inside", lambda: Built(float8), missing=no_float8))
    return Question("products", f"{inputs} to {outputs}", tuple(sides), 2.0 * tokens * inputs * outputs, "operations")


def layers(sizes: Sizes) -> list[Question]:
    """One linear layer forward and backward: three products, the weight cast or written inside the step."""
    return [_layer(sizes.device, sizes.tokens, *shape) for shape in sizes.layers]


def _layer(device: str, tokens: int, inputs: int, outputs: int) -> Question:
    linear = partial(_step, lambda: nn.Linear(inputs, outputs), device, tokens, inputs, outputs)
    conv1d = partial(_step, lambda: Conv1D(outputs, inputs), device, tokens, inputs, outputs)
    sides = [
        Side("bf16 F.linear", partial(linear, low=True)),
        Side("bf16 Conv1D", partial(conv1d, low=True)),
        Side("bf16 autocast, nn.Linear", partial(linear, precision="bf16")),
        Side("fp32 F.linear", partial(linear, precision="fp32")),
        Side("w8a8g8, nn.Linear", partial(linear, precision="bf16", recipe="w8a8g8")),
        Side("w8a8g8, Conv1D", partial(conv1d, precision="bf16", recipe="w8a8g8")),
    ]
    if device != "cpu":
        sides.append(Side(f"{FLOAT8}, nn.Linear", partial(linear, precision="bf16", recipe=FLOAT8)))
    return Question("layer", f"{inputs} to {outputs}", tuple(sides), 6.0 * tokens * inputs * outputs, "operations")


def _step(
    make: Callable[[], nn.Module], device: str, tokens: int, inputs: int, outputs: int,
    *, low: bool = False, precision: str = "fp32", recipe: str | None = None,
) -> Built:  # fmt: skip
    """`low`: everything in bf16; else fp32 weights, under autocast where the precision is bf16."""
    dtype = BF16 if low or precision == "bf16" else FP32
    model = nn.Sequential(make()).to(device, BF16 if low else FP32)
    if recipe is not None:
        quantize(model, recipe)
    x = torch.randn(tokens, inputs, dtype=dtype, device=device, requires_grad=True)
    g = torch.randn(tokens, outputs, dtype=dtype, device=device)
    held = [x, *model.parameters()]

    def call() -> None:
        with precise(precision, device):
            y = model(x)
        y.backward(g)
        for tensor in held:
            tensor.grad = None

    return Built(call)
