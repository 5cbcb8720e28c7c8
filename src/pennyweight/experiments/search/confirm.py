"""Confirm: whether a recipe is within the budget on fresh seeds, each against bf16 with the same seed."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from pennyweight.experiments.results import Row
from pennyweight.experiments.search.progress import Shown
from pennyweight.experiments.search.trainings import Trainings
from pennyweight.experiments.standings import counted_loss
from pennyweight.experiments.statistics import relative, spread
from pennyweight.experiments.wording import percent
from pennyweight.recipes import Recipe
from pennyweight.training import Run, TrainingFailed

HOPELESS = 5.0  # times the budget: a recipe that loses so much on the first seed needs no other


@dataclass(frozen=True, kw_only=True)
class Confirmed:
    """What a recipe came to on fresh seeds. Differences in percent of bf16's loss of the same seed; positive is worse.

    The loss that counts is the larger of the recipe's own and of the model as saved; of bf16 its own.
    """

    name: str
    cost: float
    share: float  # of bf16's cost
    differences: dict[int, float]  # seed -> percent; only of seeds that were run to the end
    mean: float  # infinity where a run did not finish
    low: float | None
    high: float | None
    within: bool  # the mean is at most the budget
    surely: bool  # and so is the upper end of the 95 % interval
    error: str | None
    runs: int
    measured: dict[str, int]  # category -> bytes that a step really held, of the first seed

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON."""
        return asdict(self)


def confirm(
    base: Run, chosen: Sequence[tuple[Recipe, float]], seeds: Sequence[int], limit: float, trainings: Trainings,
    shown: Shown, cost: float,
) -> list[Confirmed]:  # fmt: skip
    """Trains these recipes on the seeds, in their order, until one is within `limit` percent; `cost` is bf16's.

    Errors: TrainingFailed where bf16 itself has no result.
    """
    if not chosen:
        return []
    baseline: dict[int, Row] = {}
    for seed, row in zip(seeds, trainings.all([replace(base, seed=seed) for seed in seeds]), strict=True):
        if row["status"] != "finished":
            raise TrainingFailed(f"bf16 with seed {seed} has no result to compare with: {row['error']}")
        baseline[seed] = row
    found: list[Confirmed] = []
    for recipe, own in chosen:
        rows: dict[int, Row] = {}
        for part in (seeds[:1], seeds[1:]):
            runs = [replace(base, recipe=recipe, seed=seed) for seed in part]
            rows |= dict(zip(part, trainings.all(runs), strict=True))
            if any(over(row, baseline[seed]) > HOPELESS * limit for seed, row in rows.items()):
                break
        one = confirmed(str(recipe), own, own / cost, rows, baseline, limit)
        found.append(one)
        shown.say(f"{one.name}, {one.share:.3f} of bf16's cost: {percent(one.mean)} on {len(rows)} fresh seeds")
        if one.within:
            break
    return found


def over(row: Row, baseline: Row) -> float:
    """How far a run's loss is over bf16's, in percent; infinity where it did not finish."""
    return 100 * (counted_loss(row) / baseline["val_loss"] - 1) if row["status"] == "finished" else math.inf


def confirmed(
    name: str, cost: float, share: float, rows: Mapping[int, Row], baseline: Mapping[int, Row], limit: float
) -> Confirmed:
    """What the runs of one recipe, by seed, say against those of bf16. Within wants every seed of bf16 to be there."""
    ended = {seed: counted_loss(row) for seed, row in rows.items() if row["status"] == "finished"}
    differences = relative(ended, {seed: row["val_loss"] for seed, row in baseline.items()})
    error = next((str(row["error"]) for row in rows.values() if row["status"] != "finished"), None)
    told = spread(list(differences.values())) if differences and error is None else None
    within = told is not None and told.mean <= limit and len(differences) == len(baseline)
    first = next((row for row in rows.values() if row["status"] == "finished"), {})
    measured = {part: sizes["measured"] for part, sizes in first.get("memory", {}).items()}
    return Confirmed(
        name=name, cost=cost, share=share, differences=differences, mean=told.mean if told else math.inf,
        low=told.low if told else None, high=told.high if told else None, within=within,
        surely=within and told is not None and told.high is not None and told.high <= limit,
        error=error, runs=len(rows), measured=measured,
    )  # fmt: skip
