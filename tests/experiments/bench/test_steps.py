"""Every side of a training step trains the same model on the same tokens."""

import pytest
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from pennyweight.experiments.bench import torchao_peer
from pennyweight.experiments.bench.rounds import Built
from pennyweight.experiments.bench.sizes import Sizes
from pennyweight.experiments.bench.steps import Shape, config_of, steps, tokens_of, use_linear

TINY = Sizes(layers=((64, 128),), matrices=2, width=48, depth=1, heads=2, vocabulary=128, batch=2, context=8)


def shape_of(name: str) -> Shape:
    return Shape(config_of(name, TINY), tokens_of(TINY))


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_all_sides_compute_the_same_loss_and_learn_alike(name: str) -> None:
    question = steps(name, TINY)[0]
    losses = {}
    for side in question.sides:
        if side.missing is None:
            built = side.build()
            losses[side.name] = [float(built.call()) for _ in range(3)]  # type: ignore[arg-type]  # a call of a step returns its loss
    exact = losses.pop("fp32")
    assert exact[2] < exact[0]
    assert len(losses) >= 5
    for told in losses.values():
        # 1 %: bf16's 8 bits and int8's, one layer deep, and of pure bf16's weights
        assert told == pytest.approx(exact, rel=1e-2)


def test_both_shapes_hold_about_as_many_parameters() -> None:
    sizes = Sizes()
    with torch.device("meta"):
        counts = [sum(p.numel() for p in nn.Module.parameters(_meta(name, sizes))) for name in ("gpt2", "llama")]
    assert counts[0] == pytest.approx(counts[1], rel=0.02)
    assert counts[0] == pytest.approx(49.2e6, rel=0.01)  # 12 x 6 x 768^2 + 8192 x 768 + 512 x 768 and the rest


def _meta(name: str, sizes: Sizes) -> nn.Module:
    from pennyweight.training.models import from_config

    return from_config(config_of(name, sizes), seed=0, device="meta")


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_attention_is_sdpa_and_nothing_is_dropped(name: str) -> None:
    model = shape_of(name).model()
    assert model.config._attn_implementation == "sdpa"
    assert all(module.p == 0 for module in model.modules() if isinstance(module, nn.Dropout))


def test_conv1d_becomes_the_linear_layer_that_computes_the_same() -> None:
    shape = shape_of("gpt2")
    model, turned = shape.model(), shape.model()
    assert use_linear(turned) == 4
    assert not any(isinstance(module, Conv1D) for module in turned.modules())
    expected, got = (one(input_ids=shape.tokens[:, 1:]).logits for one in (model, turned))
    torch.testing.assert_close(got, expected)  # float32, another order of sums


def test_the_peer_is_told_how_many_layers_it_got(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []

    def convert(blocks: nn.Module) -> int:
        seen.append(sum(isinstance(module, nn.Linear) for module in blocks.modules()))
        return seen[-1]

    monkeypatch.setattr(torchao_peer, "convert", convert)
    built = shape_of("gpt2").torchao()
    assert isinstance(built, Built)
    assert built.note == "4 linear layers converted"
    assert seen == [4]  # of one block; the tied head stays


def test_an_absent_peer_stands_among_the_sides(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torchao_peer, "missing", lambda: "not installed")
    whys = {side.name: side.missing for side in steps("gpt2", TINY)[0].sides}
    assert whys["torchao int8 training, pure bf16"] == "not installed"
    assert whys["penny8"] is None
