"""Steps of a training that is only looked at or timed: nothing is written, nothing kept."""

from dataclasses import dataclass

import torch

from pennyweight.data import Corpus
from pennyweight.numerics import key
from pennyweight.training import Run
from pennyweight.training.gradient import Gradient
from pennyweight.training.machine import device
from pennyweight.training.schedule import learning_rate
from pennyweight.training.state import Training


@dataclass
class Stepping:
    """A training that takes one step a call, as the loop does, and returns its loss.

    Ancestor: `pennyweight.training.loop.Loop`, whose first steps these are, bit for bit, where gradients are held.
    """

    training: Training

    @classmethod
    def begin(cls, run: Run, corpus: Corpus) -> "Stepping":
        """Before its first step. Errors: ValueError for a model or data that does not fit the run."""
        with torch.random.fork_rng(devices=[]):
            return cls(Training.begin(run, corpus, device()))

    def __call__(self) -> float:
        """Takes the next step."""
        training, run, progress = self.training, self.training.run, self.training.progress
        for group in training.optimizer.param_groups:
            group["lr"] = learning_rate(run.schedule, progress.step, run.steps, run.optimizer.lr)
        torch.manual_seed(key(run.seed, progress.step, "dropout", "") >> 1)
        gradient = Gradient(
            model=training.model, objective=run.objective, precision=training.conversion.recipe.precision,
            clip=run.clip, check=lambda *_: None, previous=None,
            batches=[training.sampler.next().to(device()) for _ in range(run.accumulate)],
        )  # fmt: skip
        loss = run.strategy.step(gradient, training.optimizer).item()
        gradient.clear()
        progress.step += 1
        return loss
