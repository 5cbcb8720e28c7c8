"""What each component would lose, on tensors made by hand and on those of a real short run."""

import math

import pytest
import torch

from pennyweight.data import prepare
from pennyweight.experiments.search.sensitivity import BEST_DB, Seen, Sensitivity, decibels, losses, sensitivity
from pennyweight.experiments.search.space import OPTIONS, Candidate
from pennyweight.training import Run, resolved


def test_decibels_are_of_the_mean_noise() -> None:
    assert decibels([0.01, 0.03]) == pytest.approx(-10 * math.log10(0.02))
    assert decibels([0.0, 0.0]) == BEST_DB


def test_what_a_format_can_say_loses_nothing_and_an_outlier_costs_the_others() -> None:
    exact = torch.tensor([[-127.0, 3.0, 64.0, 1.0]])
    seen = Seen(x={"calm": torch.full((2, 4), 5.0), "wild": torch.tensor([[1000.0, 3.1, 2.2, 1.3]])}, w={"w": exact})
    assert losses(seen, "weights", Candidate(weights="8"))["w"] < 1e-12
    told = losses(seen, "activations", Candidate(activations="8"))
    assert told["calm"] < 1e-10 < told["wild"]
    step = 1000 / 127
    errors = [value - round(value / step) * step for value in (1000.0, 3.1, 2.2, 1.3)]
    signal = sum(value**2 for value in (1000.0, 3.1, 2.2, 1.3))
    assert told["wild"] == pytest.approx(sum(error**2 for error in errors) / signal, rel=1e-4)


def test_v_loses_what_the_step_loses() -> None:
    v = torch.rand(1, 512) * 1e-6 + 1e-9
    told = {bits: losses(Seen(v=[v]), "v", Candidate(v=bits))["0"] for bits in ("8", "4")}
    assert 0 < told["8"] < told["4"] < 0.1


def test_fewer_bits_leave_less_of_every_component_of_a_real_run(base: Run) -> None:
    run = resolved(base)
    corpus = prepare(run.data.source, tokenizer=run.data.tokenizer, validation=run.data.validation)
    found = sensitivity(run, corpus, OPTIONS)
    for name, fewer in (("weights", "4b32"), ("activations", "4b32"), ("m", "4"), ("v", "4"), ("saved", "4")):
        assert found.noise[name]["8"] > found.noise[name][fewer] + 10, name
    assert 30 < found.noise["gradients"]["8"] < 60
    assert sorted(found.layers) == [
        f"transformer.h.0.{one}" for one in ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
    ]
    assert found.tokens == 17 * 2 * 16
    assert Sensitivity.from_dict(found.to_dict()) == found
    assert sensitivity(run, corpus, OPTIONS) == found  # counted noise: the same again
