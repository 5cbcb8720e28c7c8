"""Watch: who looks at a training while it runs: when, at what, and how long that takes."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from pennyweight.analysis.look import Look
from pennyweight.analysis.passes import Found, Lens, look
from pennyweight.analysis.sharpness import sharpness
from pennyweight.analysis.updates import Update
from pennyweight.optim import AdamW

FIRST = 10  # step of an early look beside those at the interval: what breaks from the start on breaks soon
SEQUENCES = 2  # of a batch, on which the two passes of a look are made
ALPHAS = tuple(x / 4 for x in range(-4, 5))  # a slice in training: nine points
ALPHAS_2D = tuple(x / 2 for x in range(-2, 3))  # and five times five


@dataclass
class Watch:
    """Looks before a step (`before`) and after it (`after`); between looks it holds nothing.

    every, fidelity_every, sharpness_every: steps between two looks, two comparisons of gradients with full precision,
    two measurements of sharpness; 0: never. Where there are looks, there is one at step FIRST too. A comparison or a
    sharpness is part of a look, or makes one.
    """

    lens: Lens
    optimizer: AdamW
    every: int
    fidelity_every: int = 0
    sharpness_every: int = 0
    seed: int = 0
    recipe: str = ""  # by which the model is converted
    _update: Update | None = field(default=None, init=False)
    _found: Found = field(default_factory=Found, init=False)
    _sharp: Mapping[str, object] = field(default_factory=dict, init=False)
    _seconds: list[float] = field(default_factory=lambda: [0.0, 0.0], init=False)

    def due(self, step: int) -> bool:
        """Whether step number `step`, counted from 1, is looked at."""
        if step == FIRST and self.every > 0:
            return True
        return any(_falls(step, every) for every in (self.every, self.fidelity_every, self.sharpness_every))

    def before(self, step: int, batch: Tensor) -> None:
        """Looks at the model that is about to learn from `batch` [b, context + 1] in step number `step`."""
        began = time.perf_counter()
        tokens = batch[:SEQUENCES]
        self._found = look(self.lens, tokens, gradients=_falls(step, self.fidelity_every))
        self._update = Update(self.lens, self.optimizer)
        looked = time.perf_counter()
        if _falls(step, self.sharpness_every):
            points = {"alphas": ALPHAS, "alphas_2d": ALPHAS_2D, "seed": self.seed}
            self._sharp = sharpness(self.lens.model, self.lens.objective, tokens, **points).to_dict()
        self._seconds = [looked - began, time.perf_counter() - looked]

    @torch.no_grad()
    def after(self, step: int) -> Look:
        """What was seen, with what the step did, whose gradients still stand (but see `updates.moved`)."""
        assert self._update is not None
        began = time.perf_counter()
        found, sharp, (seconds, sharp_seconds) = self._found, self._sharp, self._seconds
        for layer, measures in self._update.after().measures.items():
            found.measures.setdefault(layer, {}).update(measures)
        self._update, self._found, self._sharp = None, Found(), {}
        seconds += time.perf_counter() - began
        return Look(step, found.measures, found.top, sharp, seconds, sharp_seconds if sharp else 0.0, self.recipe)


def _falls(step: int, every: int) -> bool:
    return every > 0 and step % every == 0
