"""Gradients freed layer by layer move the weights as gradients held do, bit for bit, and never stand together."""

import dataclasses
import hashlib
import math

import pytest
import torch
from torch import nn

from pennyweight.numerics import Counter
from pennyweight.optim import AdamW
from pennyweight.training import Checkpoint, Diverged, read_ledger, train
from pennyweight.training.freed import Freed, freed_bytes
from pennyweight.training.gradient import Gradient

LAYERS = ((8, 96), (96, 64), (64, 8))


class Tied(nn.Module):
    """An embedding whose weight is the head's too, with a layer between."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(80, 64)
        self.between = nn.Linear(64, 64)
        self.drop = nn.Dropout(0.2)

    def forward(self, tokens):
        hidden = self.drop(self.between(self.embedding(tokens)).tanh())
        return hidden @ self.embedding.weight.T


def objective(model, tokens):
    return nn.functional.cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())


def trained(kind, *, clip, steps=4, previous=False, **moments):
    """The weights, the losses and the norms of a few steps."""
    torch.manual_seed(0)
    model = Tied()
    optimizer = AdamW(model.named_parameters(), lr=1e-2, **moments)
    losses, norms = [], []
    for step in range(steps):
        torch.manual_seed(100 + step)
        tokens = torch.randint(0, 80, (2, 17))
        settings = {"model": model, "objective": objective, "precision": "fp32", "clip": clip, "batches": [tokens]}
        settings |= {"check": lambda *_, **__: None, "previous": norms[-1] if previous and norms else None}
        gradient = Gradient(**settings) if kind is Gradient else Freed(**settings, optimizer=optimizer)
        losses.append(optimizer.step(gradient).item())
        norms.append(gradient.norm)
        gradient.clear()
    return [p.detach().clone() for p in model.parameters()], losses, norms


@pytest.mark.parametrize("moments", [{}, {"m": "int8/block128", "v": "log8/block128"}], ids=["fp32", "8 bits"])
@pytest.mark.parametrize(("clip", "previous"), [(None, False), (0.05, True)])
def test_freed_is_held_bit_for_bit(moments, clip, previous):
    weights, losses, norms = trained(Gradient, clip=clip, previous=previous, **moments)
    found = trained(Freed, clip=clip, previous=previous, **moments)
    assert all(torch.equal(a, b) for a, b in zip(weights, found[0], strict=True))
    assert (losses, norms) == found[1:]
    unclipped = trained(Gradient, clip=None, **moments)[0]
    assert torch.equal(unclipped[0], weights[0]) is (clip is None)


def test_the_first_step_is_cut_by_its_own_norm():
    weights, losses, norms = trained(Gradient, clip=0.05, steps=1)
    found = trained(Freed, clip=0.05, steps=1)
    assert all(torch.equal(a, b) for a, b in zip(weights, found[0], strict=True))
    assert (losses, norms) == found[1:]


def test_every_gradient_is_gone_before_the_next_one_comes():
    torch.manual_seed(0)
    model = nn.Sequential(*(nn.Linear(*sizes) for sizes in LAYERS))
    standing = []

    class Watching(AdamW):
        def take(self, parameter):
            standing.append(sum(p.grad.nbytes for p in model.parameters() if p.grad is not None))
            assert standing[-1] == parameter.nbytes
            super().take(parameter)

    optimizer = Watching(model.parameters())
    gradient = freed(model, optimizer, torch.randn(4, 8))
    optimizer.step(gradient)
    assert len(standing) == 2 * len(LAYERS)
    assert gradient.memory_bytes == max(standing) == 4 * 96 * 64
    assert all(p.grad is None for p in model.parameters())


def freed(model, optimizer, *batches, **settings):
    settings = {"precision": "fp32", "clip": None, "check": lambda *_, **__: None, **settings}
    return Freed(
        model=model, objective=lambda m, x: m(x).square().mean(), batches=list(batches), optimizer=optimizer, **settings
    )


def test_a_gradient_that_is_no_number_moves_nothing_from_there_on():
    torch.manual_seed(0)
    model = nn.Sequential(*(nn.Linear(*sizes) for sizes in LAYERS))
    model[1].weight.register_hook(lambda gradient: gradient * math.nan)
    before = [p.detach().clone() for p in model.parameters()]
    told = []
    optimizer = AdamW(model.parameters())
    freed(model, optimizer, torch.randn(4, 8), check=lambda *words, **more: told.append((*words, more)))()
    moved = [not torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True)]
    assert moved[:3] == [False, False, False]
    assert moved[4:] == [True, True]  # the last layer's gradients came first
    assert math.isfinite(told[0][0])
    assert math.isnan(told[1][1])
    assert told[1][2] == {"where": "the gradient of 1.weight"}


def test_a_loss_that_is_no_number_moves_nothing():
    model = nn.Linear(8, 8)
    before = model.weight.detach().clone()

    def stop(loss, norm, where=None):
        if not loss.isfinite():
            raise Diverged("stop", step=1, where="")

    with pytest.raises(Diverged):
        freed(model, AdamW(model.parameters()), torch.full((1, 8), math.inf), check=stop)()
    assert torch.equal(model.weight, before)


def test_the_pass_that_measures_leaves_no_trace_in_the_noise():
    model, counter, x = nn.Linear(8, 8), Counter(seed=3), torch.randn(2, 8)
    seen = []

    def count(module, args):
        counter.micro_batch += 1
        seen.append((counter.micro_batch, torch.rand(1).item()))

    model.register_forward_pre_hook(count)
    freed(model, AdamW(model.parameters()), x, clip=1e-3, counter=counter)()
    assert seen == [seen[0]] * 2
    assert counter.micro_batch == 1


def test_an_optimizer_that_needs_all_gradients_is_refused():
    model = nn.Linear(8, 8)
    with pytest.raises(TypeError, match="SGD needs them all at once: hold them"):
        freed(model, torch.optim.SGD(model.parameters()), torch.ones(1, 8))
    with pytest.raises(ValueError, match="of one micro-batch, got 2"):
        freed(model, AdamW(model.parameters()), torch.ones(1, 8), torch.ones(1, 8))


def test_a_method_that_asks_twice_is_refused():
    model = nn.Linear(8, 8)
    gradient = freed(model, AdamW(model.parameters()), torch.ones(1, 8))
    gradient()
    with pytest.raises(ValueError, match="asks for the gradient twice needs all gradients at once"):
        gradient()


def test_what_stands_is_the_largest_and_the_one_that_waits():
    model = Tied()
    assert freed_bytes(model, None) == 4 * 80 * 64
    assert freed_bytes(model, model.embedding.weight) == 2 * 4 * 80 * 64


def weights_of(folder):
    return hashlib.sha256((folder / "model" / "model.safetensors").read_bytes()).hexdigest()


@pytest.mark.parametrize(
    "recipe", ["penny8", *(pytest.param(r, marks=pytest.mark.long) for r in ("bf16", "penny4", "penny8-nomaster"))]
)
def test_a_run_that_frees_is_the_run_that_holds_bit_for_bit(small, tmp_path, recipe):
    run = small(recipe=recipe, steps=3, clip=0.5, clip_by="previous")
    held = train(run, tmp_path / "held", progress=False)
    lean = train(dataclasses.replace(run, gradients="freed"), tmp_path / "freed", progress=False)
    assert held.curve == lean.curve
    assert weights_of(tmp_path / "held") == weights_of(tmp_path / "freed")
    head = 4 * 512 * 64  # tied: the loss makes its gradient early, and the embedding adds as much to it at the end
    assert lean.memory["gradients"] == {"predicted": 2 * head, "measured": 2 * head}
    assert held.memory["gradients"]["measured"] > 4 * head
    norms = [
        [line["gradient_norm"] for line in read_ledger(tmp_path / name / "ledger.jsonl") if line["kind"] == "step"]
        for name in ("held", "freed")
    ]
    assert norms[0] == norms[1]
    assert len(norms[0]) == 3


@pytest.mark.parametrize("recipe", ["penny8", "penny8-nomaster"])
def test_a_run_that_frees_goes_on_bit_for_bit_with_the_norm_of_the_step_before(small, tmp_path, recipe):
    run = small(recipe=recipe, steps=6, clip=0.5, clip_by="previous", gradients="freed")
    straight = train(run, tmp_path / "straight", progress=False)
    part = dataclasses.replace(run, checkpoint=Checkpoint(every=3))
    train(part, tmp_path / "r", progress=False)
    for gone in ("result.json", "checkpoints/step-000006", "model"):
        path = tmp_path / "r" / gone
        path.unlink() if path.is_file() else [p.unlink() for p in path.iterdir()] and path.rmdir()
    assert train(part, tmp_path / "r", progress=False).curve == straight.curve
    assert weights_of(tmp_path / "r") == weights_of(tmp_path / "straight")


def test_no_checkpoint_is_made_of_weights_that_moved_in_a_step_that_failed(small, tmp_path, monkeypatch):
    from pennyweight.training import loop as loop_room

    before = loop_room.Loop.step

    def poisoned(self):
        if self.training.progress.step == 2:
            weight = self.training.model.transformer.h[0].mlp.c_fc.weight
            weight.register_hook(lambda gradient: gradient * math.inf)
        before(self)

    monkeypatch.setattr(loop_room.Loop, "step", poisoned)
    run = small(steps=4, clip=None, gradients="freed", checkpoint=Checkpoint(every=1))
    with pytest.raises(Diverged, match=r"at step 3 the gradient's norm is .*the last checkpoint is step-000002"):
        train(run, tmp_path / "r", progress=False)
    assert sorted(p.name for p in (tmp_path / "r" / "checkpoints").iterdir()) == ["step-000001", "step-000002"]
    told = read_ledger(tmp_path / "r" / "ledger.jsonl")[-1]
    assert (told["kind"], told["where"]) == ("divergence", "the gradient of transformer.h.0.mlp.c_fc.weight")
