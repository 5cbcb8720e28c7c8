"""Evidence: what the arms of a study came to, by arm and seed, as the judges of its claims read it."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

from pennyweight.analysis import Look
from pennyweight.experiments.results import Row, finished
from pennyweight.experiments.statistics import Spread, paired, spread

RISE = 1.0  # nats above its own running minimum from which on a loss counts as broken down
PATIENCE = 100  # steps that it stays there, or to the end
BASELINE = "bf16"


def breaks_down(curve: Sequence[tuple[int, float]]) -> bool:
    """Whether a training loss is above its running minimum by more than RISE for PATIENCE steps on end, or to the end.

    Source: the protocol in docs/methods/quantized-pretraining.md, section 11.
    """
    lowest, above = math.inf, 0
    for _, loss in curve:
        if not (isinstance(loss, int | float) and math.isfinite(loss)):
            return True
        lowest = min(lowest, loss)
        above = above + 1 if loss > lowest + RISE else 0
        if above >= PATIENCE:
            return True
    return above > 0


@dataclass(frozen=True)
class Evidence:
    """What was measured of one part of a study: arm -> seed -> its row, its looks, and what was measured afterwards.

    Only runs that ended stand here, finished or diverged. `margin`: nats within which a loss counts as the same.
    """

    rows: Mapping[str, Mapping[int, Row]]
    looks: Callable[[Row], Sequence[Look]] = lambda _: ()
    after: Mapping[int, Mapping[str, Any]] = field(default_factory=dict)
    margin: float = 0.01

    def losses(self, arm: str) -> dict[int, float]:
        """Seed -> final validation loss, of the runs that finished."""
        return {seed: float(row["val_loss"]) for seed, row in self.rows.get(arm, {}).items() if finished(row)}

    def diverged(self, arm: str) -> list[int]:
        """The seeds whose run broke down: no number any more, or `breaks_down`."""
        rows = self.rows.get(arm, {})
        return [seed for seed, row in rows.items() if not finished(row) or breaks_down(row.get("curve") or ())]

    def difference(self, arm: str, baseline: str = BASELINE) -> Spread | None:
        """Nats by which the final validation loss differs from the baseline's of the same seed; None: no pair."""
        return spread_of(paired(self.losses(arm), self.losses(baseline)))

    def seen(self, arm: str, measure: str, *, last: int | None = None) -> dict[int, float]:
        """Seed -> a measure of the looks at its run, the mean over layers and then looks (only the `last` ones)."""
        told = {}
        for seed, row in self.rows.get(arm, {}).items():
            means = []
            for look in list(self.looks(row))[-last if last else None :]:
                found = [number for one in look.measures.values() if (number := one.get(measure)) is not None]
                means += [fmean(found)] if found else []
            if means:
                told[seed] = fmean(means)
        return told

    def sharpness(self, arm: str, name: str) -> dict[int, float]:
        """Seed -> the logarithm of a sharpness, the mean over the later half of its looks that tell it above zero."""
        told = {}
        for seed, row in self.rows.get(arm, {}).items():
            found = [look.sharpness.get(name) for look in self.looks(row) if look.sharpness]
            later = [math.log(value) for value in found[len(found) // 2 :] if value is not None and value > 0]
            if later:
                told[seed] = fmean(later)
        return told


def spread_of(by_seed: Mapping[int, float]) -> Spread | None:
    """The spread over the seeds, of the numbers that are finite; None where there is none."""
    values = [value for value in by_seed.values() if math.isfinite(value)]
    return spread(values) if values else None
