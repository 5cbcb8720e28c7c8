"""Rescued: what the guard of a run saw and did, as sentences, as moments of a curve, and the curves that it left."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pennyweight.experiments.results import Row, finished
from pennyweight.experiments.statistics import Mark
from pennyweight.experiments.wording import number


@dataclass(frozen=True)
class Seen:
    """One thing that a guard saw: of which run, in a sentence, and how that is marked."""

    name: str
    said: str
    mark: Mark  # "open": it was only said, or the run has no end yet; "holds": it went back, and the run ended


def sentences(rows: Sequence[Row]) -> tuple[Seen, ...]:
    """All that the guards of these runs saw, in the order of the runs and of time."""
    return tuple(
        Seen(
            f"{row['recipe']}, seed {row.get('seed') or 0}",
            f" {sentence(one, row)}",
            "holds" if one.get("back") is not None and finished(row) else "open",
        )
        for row in rows
        for one in row.get("guard") or []
    )


def sentence(one: Mapping[str, Any], row: Row) -> str:
    """What the guard saw, and what it did."""
    end = f"; the run ended at {number(row.get('val_loss'), 4)}" if finished(row) else ""
    saw = f"At step {one['step']:,} the guard saw: {one['what']}"
    if one.get("back") is None:
        return f"{saw}. It said so and did nothing{end}."
    return f"{saw}. It went back to step {one['back']:,} and on with {one['raised']}{end}."


def moments(row: Row) -> list[tuple[int, str]]:
    """(step, what is said of it) of each alarm, and of each step that the run went on from."""
    found: list[tuple[int, str]] = []
    for one in row.get("guard") or []:
        back = one.get("back")
        went = "" if back is None else f", back to step {back}"
        found.append((int(one["step"]), f"the guard saw {one['what']}{went}"))
        if back is not None:
            found.append((int(back), f"on with {one['raised']}"))
    return found


def falls(row: Row) -> list[list[tuple[float, float]]]:
    """The curves (step, training loss) that were left when the guard went back, where there is more than one point."""
    every = [one.get("curve") or [] for one in row.get("guard") or []]
    curves = [[(float(x), float(y)) for x, y in points if isinstance(y, int | float)] for points in every]
    return [points for points in curves if len(points) > 1]
