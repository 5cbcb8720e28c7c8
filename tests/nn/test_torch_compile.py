"""A converted model under torch.compile: one graph where the compiled operators know every layer, else breaks."""

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest
import torch
from functorch.compile import make_boxed_func, min_cut_rematerialization_partition
from torch import Tensor, fx, nn
from torch._dynamo.backends.common import aot_autograd
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from pennyweight.kernels import compiled
from pennyweight.nn import before_head, plain_head, quantize

pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # torch's, tracing
here = pytest.mark.skipif(compiled.missing() is not None, reason=str(compiled.missing()))
TOKENS = torch.randint(0, 61, (2, 17), generator=torch.Generator().manual_seed(0))


Made = Callable[[str, str], nn.Module]


@pytest.fixture(autouse=True)
def fresh() -> None:
    torch._dynamo.reset()


@pytest.fixture
def made(small_model: Callable[..., nn.Module]) -> Made:
    """A small model of a family, converted by a recipe, always the same."""

    def quantized(family: str, recipe: str) -> nn.Module:
        torch.manual_seed(0)
        model = small_model(family, blocks=2, width=32).train()
        quantize(model, recipe)
        return model

    return quantized


def losses(model: Callable[..., Any], steps: int = 2, autocast: bool = True) -> list[Tensor]:
    """Of so many passes on the same tokens, with gradients added up."""
    found = []
    for _ in range(steps):
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            logits = model(input_ids=TOKENS[:, :-1], use_cache=False).logits
        loss = functional.cross_entropy(logits.float().flatten(0, 1), TOKENS[:, 1:].flatten())
        loss.backward()
        found.append(loss.detach())
    return found


def meet(model: nn.Module, other: nn.Module) -> None:
    """The same gradients and counters, bit for bit."""
    for a, b in zip(model.parameters(), other.parameters(), strict=True):
        assert a.grad is not None
        assert b.grad is not None
        assert torch.equal(a.grad, b.grad)
    assert model.pennyweight_conversion.counter == other.pennyweight_conversion.counter


@here
@pytest.mark.parametrize(
    ("family", "recipe", "autocast"),
    [
        ("gpt2", "penny8", True),
        ("gpt2", "w8a8", False),
        ("llama", "w8a8", True),
        ("llama", "w8a8g8", False),
        ("gpt2", "penny8-nomaster", True),
    ],
)
def test_one_graph_trains_like_the_eager_model_bit_for_bit(
    family: str, recipe: str, autocast: bool, made: Made
) -> None:
    model = made(family, recipe)
    other = deepcopy(model)
    whole = torch.compile(other, backend="aot_eager", fullgraph=True)
    assert losses(whole, autocast=autocast) == losses(model, autocast=autocast)
    meet(model, other)
    assert model.pennyweight_conversion.counter.micro_batch == 2


@here
def test_a_model_inside_of_what_is_compiled_counts_its_passes_too(made: Made) -> None:
    model = made("llama", "penny8")
    other = deepcopy(model)

    def call(**inputs: Any) -> Any:
        return other(**inputs)

    assert losses(torch.compile(call, backend="aot_eager", fullgraph=True), 3) == losses(model, 3)
    meet(model, other)


@here
def test_the_compiler_writes_an_input_once_for_all_layers_it_feeds(made: Made) -> None:
    written = []

    def look(graph: fx.GraphModule, inputs: list[Any]) -> Callable[..., Any]:
        written.append(sum("write_rows" in str(node.target) for node in graph.graph.nodes))
        return make_boxed_func(graph.forward)

    model = made("llama", "w8a8g8")
    backend = aot_autograd(fw_compiler=look, partition_fn=min_cut_rematerialization_partition)  # inductor's own
    losses(torch.compile(model, backend=backend, fullgraph=True), 1)
    assert max(written) == 2 * 4  # in each block: q k v; o; gate up; down


@here
@pytest.mark.long
@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")  # torch's own, while it imports its compiler
@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_inductor_agrees_to_rounding(family: str, made: Made) -> None:
    model = made(family, "penny8")
    other = deepcopy(model)
    whole = torch.compile(other, fullgraph=True)
    torch.testing.assert_close(losses(whole, autocast=False), losses(model, autocast=False), rtol=1e-5, atol=1e-5)
    for a, b in zip(model.parameters(), other.parameters(), strict=True):
        assert a.grad is not None
        # a number next to the middle between two codes may go to the other one
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-2, atol=1e-2 * float(a.grad.abs().max()))


@pytest.mark.long
@pytest.mark.parametrize("recipe", ["w8a8g8", "w8a8g8s", "w4a4"])
def test_without_the_operators_or_with_other_casts_the_graph_breaks_and_nothing_else(
    recipe: str, monkeypatch: pytest.MonkeyPatch, made: Made
) -> None:
    if recipe == "w8a8g8":
        monkeypatch.setattr(compiled, "missing", lambda: "hidden by a test")
    model = made("llama", recipe)
    other = deepcopy(model)
    assert losses(torch.compile(other, backend="eager")) == losses(model)
    meet(model, other)


@here
def test_other_dtypes_break_the_graph_and_nothing_else() -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4)).double()
    quantize(model, "w8a8g8")
    x = torch.randn(5, 8, dtype=torch.float64)
    assert torch.equal(torch.compile(model, backend="aot_eager")(x), model(x))


@here
def test_a_compiled_pass_that_is_recomputed_counts_once() -> None:
    model = nn.Sequential(nn.Linear(8, 8))
    counter = quantize(model, "w8a8g8").counter
    whole = torch.compile(model, backend="aot_eager", fullgraph=True)
    x = torch.randn(5, 8, requires_grad=True)
    for number in (1, 2):
        checkpoint(whole, x, use_reentrant=False).sum().backward()  # type: ignore[union-attr]
        assert counter.micro_batch == number
    with torch.no_grad():
        whole(x)
    model.eval()
    whole(x)
    assert counter.micro_batch == 2


@here
@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_the_head_of_a_compiled_model_opens_and_the_model_stays_compiled(family: str, made: Made) -> None:
    model, graphs = made(family, "penny8"), []

    def count(graph: fx.GraphModule, inputs: list[Any]) -> Callable[..., Any]:
        graphs.append(graph)
        return graph.forward

    whole: Any = torch.compile(model, backend=count, fullgraph=True)
    numbers = []
    for _ in range(3):
        head = plain_head(whole, TOKENS)
        assert head is model.lm_head
        assert torch.equal(before_head(whole, head, TOKENS), before_head(model, head, TOKENS))
        numbers.append(len(graphs))
    assert numbers[0] == numbers[-1] > 0
