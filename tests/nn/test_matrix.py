"""Matrix: every recipe, format, granularity, dtype and shape of input runs forward and backward, or refuses."""

from dataclasses import replace
from itertools import cycle, product
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from pennyweight.nn import quantize
from pennyweight.numerics import Cast, cast
from pennyweight.optim import AdamW
from pennyweight.recipes import PRODUCTS, LinearCasts, Product, Recipe, names, recipe

IN, OUT = 33, 18
FORMATS = ["int2", "int3", "int4", "int5", "int6", "int7", "int8", "uint4", "uint8", "ternary", "mxint8"]
FORMATS += ["e4m3", "e5m2", "e3m2", "e2m3", "e2m1", "nf4", "dynamic8", "dynamic4"]
GRANULARITIES = ["tensor", "row", "column", "block8", "block32", "square8"]
EXTRAS = ["", "/stochastic", "/hadamard16"]
BACKWARDS = ["original", "forward", "requantized", "folded"]
LEADING: list[tuple[int, ...]] = [(), (1,), (5,), (2, 3), (2, 1, 3), (0,), (2, 0)]
DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64]
LAYOUTS = ["contiguous", "transposed", "sliced", "expanded"]
NOTATIONS = [
    "w8a8",
    "w8a8g8",
    "w4ca8tg8m8v8",
    "w4b32ha4b32hg4b32sh",
    "w8b16a8b16g8b16",
    "w4a4g4",
    "w8ta8tg8t",
    "w3",
    "a5",
]


def input_of(leading: tuple[int, ...], dtype: torch.dtype, layout: str) -> Tensor:
    torch.manual_seed(0)
    if layout == "transposed" and leading:
        return torch.randn(IN, *leading[1:], leading[0]).to(dtype).transpose(0, -1)
    if layout == "sliced":
        return torch.randn(*leading, 2 * IN).to(dtype)[..., ::2]
    if layout == "expanded" and leading:
        return torch.randn(IN).to(dtype).expand(*leading, IN)
    return torch.randn(*leading, IN).to(dtype)


def check(casts: LinearCasts, leading: tuple[int, ...], dtype: torch.dtype, layout: str, kind: Any = nn.Linear) -> None:
    torch.manual_seed(0)
    layer = (nn.Linear(IN, OUT) if kind is nn.Linear else Conv1D(OUT, IN)).to(dtype)
    quantize(layer, Recipe("test", casts, head=True))
    x = input_of(leading, dtype, layout).requires_grad_()
    y = layer(x)
    assert y.shape == (*leading, OUT)
    assert y.dtype == dtype
    y.sum().backward()
    for tensor in (x, *layer.parameters()):
        assert tensor.grad is not None
        assert tensor.grad.shape == tensor.shape
        assert tensor.grad.dtype == dtype
        assert tensor.grad.isfinite().all()


def build(text: str, backward: str) -> LinearCasts | None:
    """The same cast in every slot it may stand in; None where the recipe itself refuses, in one sentence."""
    one: Cast = cast(text)
    written = Product(one, one)
    gradient = written if backward == "requantized" else Product(one)
    try:
        return LinearCasts(written, gradient, gradient, backward=backward)  # type: ignore[arg-type]
    except ValueError as refusal:
        sentence = str(refusal)
    assert backward == "folded"
    assert "\n" not in sentence
    return None


def cast_text(form: str, granularity: str, extra: str) -> str | None:
    """The text of a cast; None where the cast itself refuses, in one sentence."""
    text = f"{form}/{granularity}{extra}"
    try:
        return str(cast(text))
    except ValueError as refusal:
        sentence = str(refusal)
    assert "\n" not in sentence
    return None


@pytest.mark.parametrize("backward", BACKWARDS)
@pytest.mark.parametrize("granularity", GRANULARITIES)
def test_granularities_and_formats_run_or_refuse(granularity: str, backward: str) -> None:
    ran = 0
    for number, form in enumerate(FORMATS):
        text = cast_text(form, granularity, EXTRAS[number % len(EXTRAS)])
        casts = None if text is None else build(text, backward)
        if casts is not None:
            dtype, layout = DTYPES[number % len(DTYPES)], LAYOUTS[number % 3]
            check(casts, LEADING[2 + number % 3], dtype, layout, (nn.Linear, Conv1D)[number % 2])
            ran += 1
    assert ran >= 10 or (backward == "folded" and granularity not in ("row", "tensor"))


@pytest.mark.parametrize("leading", LEADING, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_shapes_and_dtypes_run(leading: tuple[int, ...], dtype: torch.dtype) -> None:
    for number, text in enumerate(NOTATIONS):
        casts = recipe(text).linear
        assert casts is not None
        check(casts, leading, dtype, LAYOUTS[number % len(LAYOUTS)])


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_give_what_the_contiguous_input_gives(layout: str) -> None:
    casts = recipe("w8a8g8").linear
    assert casts is not None
    layer = nn.Linear(IN, OUT)
    quantize(layer, Recipe("test", casts, head=True))
    x = input_of((4, 3), torch.float32, layout)
    assert torch.equal(layer(x), layer(x.contiguous()))


@pytest.mark.parametrize("tokens", [1, 7, 33])
@pytest.mark.parametrize("backward", BACKWARDS)
@pytest.mark.parametrize("granularity", ["tensor", "row", "block8", "block32", "square8", "square32"])
def test_real_and_emulated_agree_wherever_real_is_possible(granularity: str, backward: str, tokens: int) -> None:
    ran = 0
    for number, form in enumerate(FORMATS):
        text = cast_text(form, granularity, "" if number % 2 else "/hadamard16")
        casts = None if text is None else build(text, backward)
        if casts is None or all(casts.way_of(product)[0] == "plain" for product in PRODUCTS):
            continue
        try:
            real = replace(casts, way="real")
        except ValueError:
            continue
        x = torch.randn(tokens, IN, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
        found, wanted = (gradients(way, x) for way in (real, replace(casts, way="emulated")))
        for a, b in zip(found, wanted, strict=True):
            assert (a - b).abs().max() <= 1e-6 * b.abs().max(), (text, a.shape)  # 1e-6: the card's bound
        ran += 1
    assert ran >= 5 or backward in ("forward", "folded")


def gradients(casts: LinearCasts, x: Tensor) -> list[Tensor]:
    """Output, input gradient and weight gradient of one fixed layer."""
    torch.manual_seed(0)
    layer = nn.Linear(IN, OUT, dtype=torch.float64)
    quantize(layer, Recipe("test", casts, head=True))
    leaf = x.clone().requires_grad_()
    y = layer(leaf)
    y.backward(torch.randn(y.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2)))
    assert leaf.grad is not None
    assert layer.weight.grad is not None
    return [y.detach(), leaf.grad, layer.weight.grad]


@pytest.mark.parametrize("name", names())
def test_every_named_recipe_trains_a_small_model(name: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(IN, OUT), nn.GELU(), nn.Linear(OUT, IN))
    quantize(model, name)
    # weights without a master copy are moved by our optimizer only
    plain = recipe(name).weights is None
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1) if plain else AdamW(model.parameters(), lr=1e-2)
    x = torch.randn(7, IN)
    losses = []
    for _ in range(5):
        with torch.autocast("cpu", torch.bfloat16, enabled=recipe(name).precision == "bf16"):
            loss = (model(x) - x).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]


@pytest.mark.long
@pytest.mark.parametrize("backward", BACKWARDS)
@pytest.mark.parametrize("form", FORMATS)
def test_the_full_product_runs_or_refuses(form: str, backward: str) -> None:
    turns = cycle(product(LAYOUTS, (nn.Linear, Conv1D)))
    for granularity, extra in product(GRANULARITIES, EXTRAS):
        text = cast_text(form, granularity, extra)
        casts = None if text is None else build(text, backward)
        if casts is None:
            continue
        for leading, dtype in product(LEADING, DTYPES):
            layout, kind = next(turns)
            check(casts, leading, dtype, layout, kind)
