"""Shared: one input is written once within a forward pass, and never mistaken for another one."""

import pickle
from collections.abc import Callable
from copy import deepcopy
from threading import Barrier, Thread
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import LlamaConfig, LlamaForCausalLM

from pennyweight.nn import quantize
from pennyweight.nn import shared as room
from pennyweight.nn.operands import Raw

IN, OUT = 32, 16


class Fed(nn.Module):
    """Three layers on one input, as q, k and v are; `between` happens before the last one."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.q, self.k, self.v = nn.Linear(IN, OUT), nn.Linear(IN, OUT), nn.Linear(IN, OUT)
        self.between: Callable[[Tensor], object] = lambda x: None

    def forward(self, x: Tensor) -> Tensor:
        y = self.q(x) + self.k(x)
        self.between(x)
        return y + self.v(x)


class Wrapped(nn.Module):
    """A model whose one block is recomputed in the backward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.body = Fed()

    def forward(self, x: Tensor) -> Tensor:
        return checkpoint(self.body, x.relu(), use_reentrant=False)  # type: ignore[return-value]


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """The shapes of the inputs that were written, in order."""
    shapes: list[tuple[int, ...]] = []

    class Counted(Raw):
        def write(self) -> Any:
            shapes.append(tuple(self.tensor.shape))
            return super().write()

    monkeypatch.setattr(room, "Raw", Counted)
    return shapes


def fed() -> Fed:
    model = Fed()
    quantize(model, "w8a8g8")
    return model


def test_llama_keeps_the_input_of_q_k_v_and_of_gate_and_up_once(written: list[tuple[int, ...]]) -> None:
    config = LlamaConfig(
        num_hidden_layers=1, hidden_size=64, intermediate_size=96, num_attention_heads=4, vocab_size=50
    )
    model = LlamaForCausalLM(config).model.layers[0]
    conversion = quantize(model, "w8a8g8")
    model(torch.randn(1, 8, 64), position_embeddings=(torch.ones(1, 8, 16), torch.zeros(1, 8, 16)))
    assert len(conversion.converted) == 7
    assert written == [(8, 64), (8, 64), (8, 64), (8, 96)]  # q k v; o; gate up; down


def test_a_tensor_changed_in_between_is_written_again() -> None:
    model, plain = fed(), Fed()
    model.between = plain.between = lambda x: x.mul_(2.0)
    x = torch.randn(8, IN)
    wanted = plain(x.clone())
    assert (model(x) - wanted).abs().max() < 0.05  # 8 bits of three sums near 3


@pytest.mark.parametrize("mode", ["training", "evaluation", "no_grad"])
@pytest.mark.parametrize("way", ["numpy", "data", "data set", "storage"])
def test_an_input_that_changes_uncounted_between_two_passes_is_written_again(mode: str, way: str) -> None:
    model, fresh = fed(), torch.randn(8, IN)
    model.train(mode == "training")
    x = torch.randn(8, IN)
    with torch.set_grad_enabled(mode != "no_grad"):
        model(x)
        version = x._version
        if way == "numpy":
            x.numpy()[:] = fresh.numpy()
        elif way == "data":
            x.data.copy_(fresh)
        elif way == "data set":
            x.data = fresh.clone()
        else:
            x.untyped_storage().copy_(fresh.untyped_storage())
        assert x._version == version
        assert torch.equal(model(x), fed()(fresh))


def test_a_layer_called_alone_writes_its_input_each_time() -> None:
    model, x, fresh = fed(), torch.randn(8, IN), torch.randn(8, IN)
    model.q(x)
    x.data.copy_(fresh)
    assert torch.equal(model.q(x), fed().q(fresh))


def test_a_pass_that_failed_is_over(written: list[tuple[int, ...]]) -> None:
    model = fed()

    def fail(x: Tensor) -> None:
        raise KeyError("between")

    model.between = fail
    x = torch.randn(8, IN)
    with pytest.raises(KeyError):
        model(x)
    model.v(x)
    assert len(written) == 2


def test_the_shared_copy_goes_with_its_input_and_with_its_pass() -> None:
    model = fed()
    here = model.q.layer.shared._here  # type: ignore[union-attr]
    seen: list[bool] = []

    class Fleeting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.q = nn.Linear(IN, OUT)

        def forward(self, x: Tensor) -> Tensor:
            x = x + 1
            y = self.q(x)
            here = self.q.layer.shared._here  # type: ignore[union-attr]
            seen.append(here.last is not None)
            del x
            seen.append(here.last is not None)
            return y

    fleeting, x = Fleeting(), torch.randn(8, IN)
    quantize(fleeting, "w8a8g8")
    with torch.no_grad():
        fleeting(x)
        assert seen == [True, False]
        model(x)
    assert here.last is None


def test_recomputation_writes_an_input_once_too(written: list[tuple[int, ...]]) -> None:
    model = Wrapped()
    quantize(model, "w8a8g8")
    loss = model(torch.randn(8, IN, requires_grad=True)).sum()
    assert len(written) == 1
    loss.backward()
    assert len(written) == 2


def test_codes_made_in_inference_mode_are_not_trained_on() -> None:
    class Half(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.q, self.k = nn.Linear(IN, OUT), nn.Linear(IN, OUT)

        def forward(self, x: Tensor) -> Tensor:
            with torch.inference_mode():
                self.q(x)
            return self.k(x)

    half = Half()
    quantize(half, "w8a8g8")
    x = torch.randn(8, IN)
    with torch.inference_mode():
        half(x)
    half(x).sum().backward()
    assert half.k.weight.grad is not None


def test_threads_do_not_see_each_others_inputs(written: list[tuple[int, ...]]) -> None:
    model = fed().eval()
    inputs = [torch.randn(8, IN) for _ in range(2)]
    with torch.no_grad():
        wanted = [model(x) for x in inputs]
    written.clear()
    both, found = Barrier(2, timeout=60), {}
    model.between = lambda x: both.wait()  # both threads have written their input before either uses it again

    def work(number: int) -> None:
        with torch.no_grad():
            found[number] = model(inputs[number])

    threads = [Thread(target=work, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(torch.equal(found[number], wanted[number]) for number in range(2))
    assert len(written) == 2


@pytest.mark.parametrize("copied", [deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_a_copy_shares_its_own_inputs(copied: Callable[[nn.Module], Any], written: list[tuple[int, ...]]) -> None:
    model = nn.Sequential(nn.Linear(IN, OUT))
    quantize(model, "w8a8g8")
    copy, x = copied(model), torch.randn(8, IN)
    assert copy[0].layer.shared is not model[0].layer.shared  # type: ignore[union-attr]
    assert copy[0].layer.shared.counter is copy.pennyweight_conversion.counter
    assert torch.equal(copy(x), model(x))
    assert copy[0].layer.shared._here.inside is False
    assert len(written) == 2
