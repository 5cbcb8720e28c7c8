"""Standings: the runs of a comparison set side by side by recipe, each against the baseline of its own table."""

import json
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from pennyweight.experiments.reaching import NEAR, seconds_to
from pennyweight.experiments.results import Row, finished
from pennyweight.experiments.statistics import Mark, Spread, mark, paired, relative, spread, verdict


def counted_loss(row: Row) -> float:
    """The loss that counts against a recipe: of its own forward pass or of the model as saved, whichever is larger."""
    plain = row.get("val_loss_plain")
    return max(row["val_loss"], plain) if isinstance(plain, int | float) else row["val_loss"]


@dataclass(frozen=True)
class Standing:
    """How one recipe stands against the baseline. Percentages are of the baseline's run with the same seed.

    `cost` counts the larger of val_loss and val_loss_plain against the recipe, and the baseline's own val_loss.
    """

    recipe: str
    is_baseline: bool
    runs: tuple[Row, ...]  # finished ones
    failed: tuple[Row, ...]
    loss: Spread | None = None  # nats a token
    difference: Spread | None = None  # nats a token, to the baseline
    cost: Spread | None = None  # percent of the baseline's loss
    memory: Spread | None = None  # percent of the baseline's peak
    speed: Spread | None = None  # percent of the baseline's tokens a second
    seconds: Spread | None = None  # of steps to the table's target; None where a finished run has not reached it
    delay: Spread | None = None  # percent of the baseline's seconds to the target

    @property
    def verdict(self) -> str:
        """What the cost means in words."""
        if self.is_baseline:
            return "the baseline"
        if not self.runs:
            return "no finished run"
        return verdict(self.cost) if self.cost else "no run of the baseline to compare with"

    @property
    def mark(self) -> Mark:
        """The verdict as a sign; a recipe without a finished run fails."""
        if not self.runs:
            return "fails"
        return mark(self.cost) if self.cost else "open"

    def mean(self, key: str) -> float | None:
        """The mean of a field over the finished runs; None where no run tells it."""
        values = [row[key] for row in self.runs if isinstance(row.get(key), int | float)]
        return math.fsum(values) / len(values) if values else None


@dataclass(frozen=True)
class Table:
    """Runs that may be compared: the same data and the same number of tokens."""

    data_hash: str
    tokens: int
    baseline: str
    standings: tuple[Standing, ...]
    target: float | None = None  # validation loss: NEAR times the mean at which the baseline ends

    @property
    def alone(self) -> bool:
        """Whether there is one recipe only, and nothing to compare."""
        return len(self.standings) == 1

    @property
    def rows(self) -> list[Row]:
        """Every run of the table, finished or not."""
        return [row for standing in self.standings for row in (*standing.runs, *standing.failed)]


def _by_seed(rows: Iterable[Row], value: Callable[[Row], Any]) -> dict[int, float]:
    told = {int(row.get("seed") or 0): value(row) for row in rows}
    return {seed: float(number) for seed, number in told.items() if isinstance(number, int | float)}


def _spread(by_seed: dict[int, float]) -> Spread | None:
    return spread(list(by_seed.values())) if by_seed else None


def _reached(runs: Sequence[Row], target: float | None) -> dict[int, float]:
    """Seconds to the target by seed; nothing where one of the runs has not reached it."""
    told = {} if target is None else _by_seed(runs, lambda row: seconds_to(row, target))
    return told if len(told) == len(runs) else {}


def _percent(rows: Iterable[Row], baseline: Iterable[Row], key: str) -> Spread | None:
    """Percent by which `key` differs from the baseline's, paired by seed."""
    base = {seed: value for seed, value in _by_seed(baseline, lambda row: row.get(key)).items() if value > 0}
    return _spread(relative(_by_seed(rows, lambda row: row.get(key)), base))


def standing(
    recipe: str, rows: Sequence[Row], baseline: Sequence[Row], *, is_baseline: bool = False, target: float | None = None
) -> Standing:
    """How the runs `rows` of one recipe stand against the runs `baseline`, and how soon they were at `target`."""
    runs = tuple(row for row in rows if finished(row))
    failed = tuple(row for row in rows if not finished(row))
    base = [row for row in baseline if finished(row)]
    reached = _reached(runs, target)
    own = Standing(
        recipe, is_baseline, runs, failed, _spread(_by_seed(runs, lambda row: row["val_loss"])),
        seconds=_spread(reached),
    )  # fmt: skip
    if is_baseline:
        return own
    counted, against = _by_seed(runs, counted_loss), _by_seed(base, lambda row: row["val_loss"])
    cost = relative(counted, against)
    return Standing(
        recipe, is_baseline, runs, failed, own.loss,
        difference=_spread(paired(counted, against)), cost=_spread(cost),
        memory=_percent(runs, base, "peak_memory_bytes"), speed=_percent(runs, base, "tokens_per_second"),
        seconds=own.seconds, delay=_spread(relative(reached, _reached(base, target))),
    )  # fmt: skip


def tables(rows: Sequence[Row]) -> list[Table]:
    """The runs set side by side: one table for each data hash, number of tokens and model, never two in one.

    A run that did not finish stands in the table of the runs it was meant for (same data and model, or the first one).
    The baseline is bf16 where it is there, else the first recipe.
    """
    keys: dict[tuple[str, str, int], list[Row]] = {}
    for row in rows:
        if finished(row):
            keys.setdefault(_key(row), []).append(row)
    for row in rows:
        if not finished(row):
            own = _key(row)
            meant = next((key for key in keys if key[:2] == own[:2]), None) or next(iter(keys), own)
            keys.setdefault(meant, []).append(row)
    order = {str(row["recipe"]): place for place, row in reversed(list(enumerate(rows)))}
    return [_table(data_hash, tokens, members, order) for (data_hash, _, tokens), members in keys.items()]


def _key(row: Row) -> tuple[str, str, int]:
    """What runs of one table share: data, model (what its config says, where the row tells it), tokens."""
    config = (row.get("run") or {}).get("config") or {}
    return str(row.get("data_hash") or ""), json.dumps(config.get("says"), sort_keys=True), int(row.get("tokens") or 0)


def _table(data_hash: str, tokens: int, members: Sequence[Row], order: dict[str, int]) -> Table:
    names = sorted({str(row["recipe"]) for row in members}, key=order.__getitem__)
    baseline = "bf16" if "bf16" in names else names[0]
    of = {name: [row for row in members if str(row["recipe"]) == name] for name in names}
    ordered = [baseline, *(name for name in names if name != baseline)]
    ends = [row["val_loss"] for row in of[baseline] if finished(row)]
    target = NEAR * math.fsum(ends) / len(ends) if ends else None
    stood = [standing(one, of[one], of[baseline], is_baseline=one == baseline, target=target) for one in ordered]
    return Table(data_hash, tokens, baseline, tuple(stood), target)
