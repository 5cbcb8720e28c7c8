"""Linear: three products whose operands are written as the recipe says, in every backward mode."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint
from transformers.pytorch_utils import Conv1D

from pennyweight.nn import quantize
from pennyweight.nn.operands import Raw, Written, multiply
from pennyweight.numerics import cast
from pennyweight.recipes import LinearCasts, Product, Recipe, recipe

TOKENS, IN, OUT = 24, 40, 16
ROW8 = cast("int8/row")


def layer(casts: LinearCasts | None, *, dtype: torch.dtype = torch.float64, bias: bool = True) -> nn.Linear:
    torch.manual_seed(0)
    linear = nn.Linear(IN, OUT, bias=bias, dtype=dtype)
    if casts is not None:
        quantize(linear, Recipe("test", casts, head=True))
    return linear


def data(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(TOKENS, IN, generator=generator, dtype=torch.float64)
    grad = torch.randn(TOKENS, OUT, generator=generator, dtype=torch.float64) * torch.rand(
        TOKENS, 1, generator=generator
    )
    return x.to(dtype), grad.to(dtype)


def results(linear: nn.Module, x: Tensor, grad: Tensor) -> dict[str, Tensor]:
    x = x.clone().requires_grad_()
    linear.zero_grad()
    y = linear(x)
    y.backward(grad)
    assert x.grad is not None
    return {"y": y.detach(), "x": x.grad, **{name: p.grad.clone() for name, p in linear.named_parameters()}}


def rows(x: Tensor, bits: int) -> Tensor:
    """The oracle's symmetric quantiser: one scale for each row."""
    scale = x.abs().amax(-1, keepdim=True) / (2 ** (bits - 1) - 1)
    return (x / scale).round() * scale


def assert_close(found: dict[str, Tensor], wanted: dict[str, Tensor], bound: float) -> None:
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        assert (found[name] - value).abs().max() <= bound * value.abs().max(), name


def eight(backward: Any, **more: Any) -> LinearCasts:
    written = Product(ROW8, ROW8)
    gradient = written if backward == "requantized" else Product(ROW8)
    return LinearCasts(written, gradient, gradient, backward=backward, **more)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("bias", [True, False])
def test_no_casts_is_torch_linear_bit_for_bit(dtype: torch.dtype, bias: bool) -> None:
    x, grad = data(dtype)
    wanted = results(layer(None, dtype=dtype, bias=bias), x, grad)
    found = results(layer(LinearCasts(backward="original"), dtype=dtype, bias=bias), x, grad)
    assert all(torch.equal(found[name], value) for name, value in wanted.items())


def test_no_casts_is_transformers_conv1d_bit_for_bit() -> None:
    x, grad = data(torch.float32)
    torch.manual_seed(0)
    conv = Conv1D(OUT, IN)
    wanted = results(conv, x, grad)
    quantize(conv, Recipe("test", LinearCasts(backward="original"), head=True))
    found = results(conv, x, grad)
    assert all(torch.equal(found[name], value) for name, value in wanted.items())


@pytest.mark.parametrize(("w", "a", "g"), [(8, 8, 8), (4, 4, 8), (4, 8, None), (None, 4, 4), (4, None, None)])
def test_paper_recipes_compute_what_the_published_code_computes(w: int | None, a: int | None, g: int | None) -> None:
    def published(bits: int | None, granularity: str = "row") -> Any:
        return None if bits is None else cast(f"int{bits}/{granularity}/published")

    casts = LinearCasts(
        Product(published(a), published(w)),
        grad_weight=Product(published(g, "column")),
        backward="original",
        way="emulated",
    )
    linear = layer(casts)
    x, grad = data()
    weight, bias = linear.weight.detach(), linear.bias.detach()
    wanted = {
        "y": (rows(x, a) if a else x) @ (rows(weight, w) if w else weight).T + bias,
        "x": grad @ weight,
        "weight": (rows(grad, g) if g else grad).T @ x,
        "bias": grad.sum(0),
    }
    assert_close(results(linear, x, grad), wanted, 1e-12)  # 1e-12: order of float64 sums


@pytest.mark.parametrize(
    "texts", [("int8/row", "int8/row"), ("int4/tensor", "int4/column"), ("int4/row/hadamard8", "nf4/block16")]
)
def test_forward_mode_is_the_gradient_through_rounding(texts: tuple[str, str]) -> None:
    left, right = map(cast, texts)
    linear = layer(LinearCasts(Product(left, right), backward="forward", way="emulated"))
    x, grad = data()
    plain = layer(None)
    leaf = x.clone().requires_grad_()
    rounded_x = leaf + (left(leaf) - leaf).detach()
    rounded_w = plain.weight + (right(plain.weight) - plain.weight).detach()
    y = functional.linear(rounded_x, rounded_w, plain.bias)
    y.backward(grad)
    wanted = {"y": y.detach(), "x": leaf.grad, "weight": plain.weight.grad, "bias": plain.bias.grad}
    assert_close(results(linear, x, grad), wanted, 1e-6)  # type: ignore[arg-type]  # 1e-6: float32 scales of codes


@pytest.mark.parametrize(("left", "right"), [("hadamard8", "hadamard8"), ("hadamard8", "hadamard4")])
def test_rotations_meet_only_where_both_operands_carry_the_same_one(left: str, right: str) -> None:
    a, b = cast(f"int4/row/{left}"), cast(f"int4/row/{right}")
    linear = layer(LinearCasts(Product(a, b), Product(a), Product(a), backward="forward", way="emulated"))
    x, grad = data()
    weight = linear.weight.detach()
    wanted = {
        "y": a(x) @ b(weight).T + linear.bias.detach(),
        "x": a(grad) @ b(weight),
        "weight": a(grad.T) @ a(x),
        "bias": grad.sum(0),
    }
    assert_close(results(linear, x, grad), wanted, 1e-12)  # 1e-12: turning back and forth in float64


@pytest.mark.parametrize("way", ["real", "emulated"])
def test_folded_moves_the_forward_scales_into_the_gradient_before_it_is_written(way: Any) -> None:
    linear = layer(eight("folded", way=way))
    x, grad = data()
    weight = linear.weight.detach()
    s_w, s_x = weight.abs().amax(1, keepdim=True) / 127, x.abs().amax(1, keepdim=True) / 127
    q_w, q_x = (weight / s_w).round(), (x / s_x).round()
    wanted = {
        "y": (q_x * s_x) @ (q_w * s_w).T + linear.bias.detach(),
        "x": rows(grad * s_w.T, 8) @ q_w,
        "weight": rows((grad * s_x).T, 8) @ q_x,
        "bias": grad.sum(0),
    }
    assert_close(results(linear, x, grad), wanted, 1e-6)  # 1e-6: the card's bound between the two ways


@pytest.mark.parametrize("way", ["real", "emulated"])
def test_requantized_writes_weight_and_input_again_along_the_summed_dimension(way: Any) -> None:
    linear = layer(eight("requantized", way=way))
    x, grad = data()
    weight = linear.weight.detach()
    wanted = {
        "y": rows(x, 8) @ rows(weight, 8).T + linear.bias.detach(),
        "x": rows(grad, 8) @ rows(weight.T, 8).T,
        "weight": rows(grad.T, 8) @ rows(x.T, 8).T,
        "bias": grad.sum(0),
    }
    assert_close(results(linear, x, grad), wanted, 1e-6)  # 1e-6: the card's bound between the two ways


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_layer_in_long_blocks_computes_the_same_really_and_emulated(dtype: torch.dtype) -> None:
    block, row = cast("int8/block64"), cast("int8/row")
    casts = LinearCasts(Product(block, block), Product(row, block), Product(row, block), backward="requantized")
    generator = torch.Generator().manual_seed(1)
    x, grad = (torch.randn(128, columns, generator=generator).to(dtype) for columns in (192, 64))
    found = []
    for way in ("real", "emulated"):
        torch.manual_seed(0)
        made = nn.Sequential(nn.Linear(192, 64))
        quantize(made, Recipe("test", replace(casts, way=way), head=True))
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            found.append(results(made, x, grad))
    bound = 1e-5 if dtype == torch.float32 else 2e-2  # float32 sums; the emulated operands are rounded to bfloat16
    assert_close(found[0], found[1], bound)


@pytest.mark.parametrize("text", ["int8/square8", "int8/tensor"])
def test_one_set_of_codes_serves_all_three_products(text: str) -> None:
    one = cast(text)
    casts = LinearCasts(Product(one, one), Product(one), Product(one), backward="forward", way="real")
    x, grad = data()
    real = results(layer(casts), x, grad)
    emulated = results(layer(replace(casts, way="emulated")), x, grad)
    assert_close(real, emulated, 1e-6)  # 1e-6: the card's bound between the two ways


@pytest.mark.parametrize("name", ["w8a8", "w8a8g8", "w4a4g4", "w8b16a8b16g8b16", "w4b32ha4b32hg4b32sh"])
def test_every_mode_stays_near_the_unwritten_gradients(name: str) -> None:
    casts = recipe(name).linear
    assert casts is not None
    x, grad = data()
    wanted = results(layer(None), x, grad)
    for key, value in results(layer(casts), x, grad).items():
        cosine = functional.cosine_similarity(value.flatten(), wanted[key].flatten(), dim=0)
        assert cosine > (0.999 if "8" in name else 0.95), key


def test_folding_before_writing_changes_nothing_but_the_rounding() -> None:
    x, grad = data()
    weight = layer(None).weight.detach()
    written_w, written_x = ROW8.write(weight), ROW8.write(x)
    for written, gradient in ((written_w, grad), (written_x, grad.T)):
        right = Written(written, turned=True)
        folded = Raw(gradient).folded(right.scales.T)
        found = multiply(folded, right.unscaled(), real=False, dtype=torch.float64)
        wanted = gradient @ (written.codes.double() * written.scales.double())
        assert (found - wanted).abs().max() <= 1e-12 * wanted.abs().max()  # 1e-12: order of two products


@pytest.mark.parametrize("backward", ["original", "forward", "requantized", "folded"])
def test_the_bias_gradient_is_of_the_unwritten_gradient(backward: str) -> None:
    x, grad = data()
    assert torch.allclose(results(layer(eight(backward)), x, grad)["bias"], grad.sum(0), rtol=1e-14, atol=0)


@pytest.mark.parametrize("backward", ["original", "forward", "requantized", "folded"])
def test_conv1d_computes_what_the_linear_layer_computes(backward: str) -> None:
    x, grad = data(torch.float32)
    linear = layer(eight(backward), dtype=torch.float32)
    conv = Conv1D(OUT, IN)
    with torch.no_grad():
        conv.weight.copy_(linear.weight.T)
        conv.bias.copy_(linear.bias)
    quantize(conv, Recipe("test", eight(backward), head=True))
    wanted = results(linear, x, grad)
    found = results(conv, x, grad)
    found["weight"] = found["weight"].T
    assert_close(found, wanted, 1e-6)  # 1e-6: sums in another order where a product is emulated


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_gives_its_own_dtype_and_full_precision_parameter_gradients(dtype: torch.dtype) -> None:
    linear = layer(eight("folded"), dtype=torch.float32)
    x, grad = data(torch.float32)
    wanted = results(linear, x, grad)
    leaf = x.clone().requires_grad_()
    linear.zero_grad()
    with torch.autocast("cpu", dtype):
        y = linear(leaf)
    assert y.dtype == dtype
    y.backward(grad.to(dtype))
    assert linear.weight.grad is not None
    assert linear.weight.grad.dtype == torch.float32
    assert leaf.grad is not None
    assert leaf.grad.dtype == torch.float32
    assert (y - wanted["y"]).abs().max() < 0.02  # bfloat16 has 8 bits
    assert (linear.weight.grad - wanted["weight"]).abs().max() < 0.02 * wanted["weight"].abs().max()


def test_tiny_gradients_survive_folding_in_float16() -> None:
    casts = eight("folded", way="emulated")
    x, grad = data(torch.float16)
    small = layer(casts, dtype=torch.float16)
    found = results(small, x, (grad * 2.0**-14).half())
    wanted = results(small, x, grad)
    for name in ("x", "weight"):
        scaled = found[name].double() * 2.0**14
        assert (scaled - wanted[name]).abs().max() < 0.02 * wanted[name].abs().max()  # float16 subnormals


@pytest.mark.parametrize("name", ["w8a8g8", "w4b32ha4b32hg4b32sh"])
def test_a_second_backward_pass_gives_the_same_gradients(name: str) -> None:
    casts = recipe(name).linear
    linear = layer(casts, dtype=torch.float32)
    x, grad = data(torch.float32)
    leaf = x.requires_grad_()
    y = linear(leaf)
    first = torch.autograd.grad(y, [leaf, linear.weight], grad, retain_graph=True)
    linear.pennyweight_conversion.counter.advance()  # type: ignore[union-attr, operator]
    second = torch.autograd.grad(y, [leaf, linear.weight], grad)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_stochastic_noise_moves_with_the_step_and_not_with_recomputation() -> None:
    casts = recipe("w4b32ha4b32hg4b32sh").linear
    x, grad = data(torch.float32)
    linear = layer(casts, dtype=torch.float32)
    counter = linear.pennyweight_conversion.counter  # type: ignore[union-attr]
    first = results(linear, x, grad)
    assert counter.micro_batch == 1  # type: ignore[union-attr]
    second = results(linear, x, grad)
    assert not torch.equal(first["x"], second["x"])
    counter.micro_batch = 0  # type: ignore[union-attr]
    again = results(linear, x, grad)
    assert all(torch.equal(first[name], again[name]) for name in first)


def test_checkpointing_recomputes_the_same_codes() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(IN, IN), nn.GELU(), nn.Linear(IN, OUT))

    class Recomputed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.on = model, False

        def forward(self, x: Tensor) -> Tensor:
            return checkpoint(self.body, x, use_reentrant=False) if self.on else self.body(x)

    whole = Recomputed()
    conversion = quantize(whole, Recipe("test", recipe("w4b32ha4b32hg4b32sh").linear))
    x, grad = data(torch.float32)
    wanted = results(whole, x, grad)
    conversion.counter.micro_batch, whole.on = 0, True
    found = results(whole, x, grad)
    assert conversion.counter.micro_batch == 1
    assert all(torch.equal(found[name], value) for name, value in wanted.items())


def test_a_whole_model_that_is_recomputed_counts_once_and_draws_the_same_noise() -> None:
    x, grad = data(torch.float32)
    models = [layer(recipe("w4b32ha4b32hg4b32sh").linear, dtype=torch.float32) for _ in range(2)]
    leaves = [x.clone().requires_grad_() for _ in models]
    for _ in range(2):
        models[0](leaves[0]).backward(grad)
        y = checkpoint(models[1], leaves[1], use_reentrant=False)
        y.backward(grad)  # type: ignore[union-attr]
    counters = [model.pennyweight_conversion.counter for model in models]  # type: ignore[union-attr]
    assert counters[1].micro_batch == counters[0].micro_batch == 2  # type: ignore[union-attr]
    assert torch.equal(*(leaf.grad for leaf in leaves))  # type: ignore[arg-type]
    assert torch.equal(*(model.weight.grad for model in models))  # type: ignore[arg-type]


def test_a_meta_model_gives_shapes_as_a_plain_one_does() -> None:
    with torch.device("meta"):
        model, x = nn.Linear(IN, OUT), torch.ones(TOKENS, IN, requires_grad=True)
    quantize(model, Recipe("test", eight("folded"), head=True))
    y = model(x)
    y.sum().backward()
    assert (y.device.type, tuple(y.shape)) == ("meta", (TOKENS, OUT))
    assert x.grad is not None
    assert tuple(x.grad.shape) == (TOKENS, IN)


def test_accumulated_micro_batches_equal_one_batch_where_no_group_crosses_a_token() -> None:
    casts = LinearCasts(Product(ROW8, ROW8), Product(ROW8), backward="forward", way="emulated")
    x, grad = data()
    linear = layer(casts)
    wanted = results(linear, x, grad)
    halves = [results(linear, x[part], grad[part]) for part in (slice(0, 10), slice(10, TOKENS))]
    for name in ("weight", "bias"):
        assert torch.allclose(halves[0][name] + halves[1][name], wanted[name], atol=1e-12)


@pytest.mark.parametrize(("x_needs", "w_needs"), [(True, False), (False, True), (False, False)])
def test_only_needed_gradients_are_computed(x_needs: bool, w_needs: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    for name in ("_grad_input", "_grad_weight"):
        function = getattr(__import__("pennyweight.nn.linear", fromlist=[name]), name)

        def counted(*args: Any, name: str = name, function: Any = function) -> Tensor:
            calls.append(name)
            return function(*args)

        monkeypatch.setattr(f"pennyweight.nn.linear.{name}", counted)
    linear = layer(eight("folded"))
    linear.weight.requires_grad_(w_needs)
    x, grad = data()
    linear(x.requires_grad_(x_needs)).backward(grad)
    assert calls == ["_grad_input"] * x_needs + ["_grad_weight"] * w_needs
    assert linear.bias.grad is not None


def test_integer_inputs_and_wrong_widths_are_refused_in_one_sentence() -> None:
    linear = layer(eight("folded"), dtype=torch.float32)
    with pytest.raises(TypeError, match="floating-point inputs, got torch.int64"):
        linear(torch.ones(2, IN, dtype=torch.int64))
    with pytest.raises(ValueError, match=f"last dimension is {IN}"):
        linear(torch.ones(2, IN + 1))
    with pytest.raises(TypeError, match="holds torch.float32, got an input of torch.bfloat16"):
        linear(torch.ones(2, IN, dtype=torch.bfloat16))


def test_transforms_of_torch_func_are_refused_in_one_sentence() -> None:
    linear, (x, _) = layer(eight("folded"), dtype=torch.float32), data(torch.float32)
    for transformed in (torch.func.vmap(linear), torch.func.grad(lambda x: linear(x).sum())):
        with pytest.raises(
            ValueError, match="^layer  ?is written by a function of autograd, which of torch.func only jvp"
        ):
            transformed(x)
    assert linear(x).shape == (TOKENS, OUT)


def test_a_nan_in_one_token_stays_in_that_token() -> None:
    linear = layer(eight("folded"), dtype=torch.float32)
    x, _ = data(torch.float32)
    x[3, 5] = float("nan")
    bad = linear(x).isnan()
    assert bad[3].all()
    assert bad.sum() == OUT


def test_training_goes_on_when_private_operators_are_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    x, grad = data(torch.float32)
    wanted = results(layer(eight("folded", way="real"), dtype=torch.float32), x, grad)
    monkeypatch.delattr(torch, "_int_mm")
    monkeypatch.delattr(torch, "_scaled_mm")
    found = results(layer(eight("folded", way="real"), dtype=torch.float32), x, grad)
    assert all(torch.equal(found[name], value) for name, value in wanted.items())
