"""Diagnosis is cheap enough to leave on: its share of a training, measured in turn with the steps of one process."""

import time
from pathlib import Path

import pytest
import torch

from pennyweight.analysis.passes import Lens
from pennyweight.analysis.watch import Watch
from pennyweight.data import prepare
from pennyweight.training import Diagnosis, Run, resolved
from pennyweight.training.gradient import Gradient
from pennyweight.training.ledger import Ledger
from pennyweight.training.state import Training

TURNS = 12


@pytest.mark.long
@pytest.mark.parametrize("recipe", ["bf16", "penny8"])
def test_looking_at_the_default_interval_takes_a_small_share_of_the_steps(recipe: str, tmp_path: Path) -> None:
    torch.set_num_threads(2)
    run, interval = resolved(Run(recipe=recipe)), Diagnosis()
    data = run.data
    corpus = prepare(data.source, tokenizer=data.tokenizer, validation=data.validation, progress=lambda told: None)
    training = Training.begin(run, corpus, "cpu")
    watch = Watch(Lens(training.model, run.objective, run.recipe.precision), training.optimizer, 1, 2)
    steps: list[float] = []
    looks: dict[bool, list[float]] = {False: [], True: []}  # by whether gradients are compared too
    with Ledger(tmp_path / "ledger.jsonl") as ledger:
        for step in range(1, TURNS + 3):
            batch = training.sampler.next()
            gradient = Gradient(
                model=training.model, objective=run.objective, precision=run.recipe.precision, clip=run.clip,
                batches=[batch], check=lambda *_: None,
            )  # fmt: skip
            times = [time.perf_counter()]
            watch.before(step, batch)
            times.append(time.perf_counter())
            run.strategy.step(gradient, training.optimizer)
            times.append(time.perf_counter())
            ledger.write("diagnosis", step, **watch.after(step).to_line())
            times.append(time.perf_counter())
            gradient.clear()
            if step > 2:  # the first ones warm up
                steps.append(times[2] - times[1])
                looks[step % 2 == 0].append(times[1] - times[0] + times[3] - times[2])
    # the fastest of each, for what else the machine does only ever adds
    one, plain, compared = map(min, (steps, looks[False], looks[True]))
    assert interval.every <= 50
    share = plain / (interval.every * one) + (compared - plain) / (interval.fidelity_every * one)
    assert share < 0.05, (
        f"{share:.1%}: a step {one * 1e3:.0f} ms, a look {plain * 1e3:.0f}, {compared * 1e3:.0f} with gradients"
    )
