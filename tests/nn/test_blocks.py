"""The blocks of a converted model compile in place, in one graph each, and compute what they computed."""

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from pennyweight.kernels import compiled
from pennyweight.nn import compile_blocks, quantize

pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # torch's, tracing
TOKENS = torch.randint(0, 61, (2, 17), generator=torch.Generator().manual_seed(0))


def step(model: nn.Module) -> Tensor:
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(input_ids=TOKENS[:, :-1], use_cache=False).logits
    loss = functional.cross_entropy(logits.float().flatten(0, 1), TOKENS[:, 1:].flatten())
    loss.backward()
    return loss.detach()


@pytest.mark.skipif(compiled.missing() is not None, reason=str(compiled.missing()))
@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_ten_blocks_are_one_graph_and_train_like_the_eager_ones(
    family: str, small_model: Callable[..., nn.Module], monkeypatch: pytest.MonkeyPatch
) -> None:
    torch._dynamo.reset()
    graphs = []

    def backend(graph: fx.GraphModule, inputs: list[Any]) -> Callable[..., Any]:
        graphs.append(graph)
        return graph.forward

    whole = nn.Module.compile
    monkeypatch.setattr(nn.Module, "compile", lambda block, **how: whole(block, **how, backend=backend, fullgraph=True))
    torch.manual_seed(0)
    model = small_model(family, blocks=10, width=64).train()
    quantize(model, "penny8")
    other = deepcopy(model)
    assert compile_blocks(other) == 10
    assert other.state_dict().keys() == model.state_dict().keys()
    assert torch.equal(step(other), step(model))
    assert len(graphs) == 1
    for a, b in zip(model.parameters(), other.parameters(), strict=True):
        assert a.grad is not None
        assert b.grad is not None
        assert torch.equal(a.grad, b.grad)
    assert other.pennyweight_conversion.counter.micro_batch == 1  # type: ignore[union-attr]


def test_models_without_blocks_and_machines_without_a_compiler_are_refused(
    small_model: Callable[..., nn.Module], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ValueError, match="Sequential has no list of them"):
        compile_blocks(nn.Sequential(nn.Linear(3, 3)))
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(ValueError, match="there is no 'no-such-compiler' here"):
        compile_blocks(small_model("llama", blocks=1, width=64))
