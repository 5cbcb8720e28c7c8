"""Bars: where the costs, the memory and the speeds of the report stand, in percent of their frame."""

import math
from dataclasses import dataclass

from pennyweight.experiments.charts import Tick, shades
from pennyweight.experiments.results import Row
from pennyweight.experiments.standings import Standing, Table
from pennyweight.experiments.statistics import THRESHOLDS
from pennyweight.experiments.wording import NOTHING, bracket, count, percent, size

REST = "everything else (temporaries, allocator)"  # of the peak that is in no category

NAME_ROOM = 11.0  # percent of the axis of costs that one name takes on a phone


@dataclass(frozen=True)
class Cost:
    """One recipe's loss difference: the mean, each seed and the interval, in percent of the frame."""

    name: str
    shade: int
    dot: float
    seeds: tuple[float, ...]
    bar: tuple[float, float] | None
    beyond: bool
    text: str
    said: str


@dataclass(frozen=True)
class Costs:
    """What every recipe costs in loss, on one axis."""

    rows: tuple[Cost, ...]
    marks: tuple[Tick, ...]
    zero: float


def costs(table: Table) -> Costs | None:
    """The loss difference of each recipe with its 95 % interval; what is far beyond leaves at the right."""
    told = [(one, shade, one.cost) for one, shade in zip(table.standings, shades(table), strict=True) if one.cost]
    if not told:
        return None
    near = [cost for _, _, cost in told if cost.mean <= THRESHOLDS[-1]] or [cost for _, _, cost in told]
    reach = [bound for cost in near for bound in (cost.mean, cost.low, cost.high) if bound is not None]
    widest = 2 * max(max(abs(cost.mean) for cost in near), THRESHOLDS[0])
    high = min(max(*reach, THRESHOLDS[0]), widest + THRESHOLDS[0]) * 1.08
    low = max(min(*reach, 0.0), -widest) * 1.08 - 0.04 * high

    def at(value: float) -> float:
        return min(100.0, max(0.0, 100 * (value - low) / (high - low)))

    rows = tuple(
        Cost(
            one.recipe, shade, at(cost.mean), tuple(at(value) for value in cost.values) if len(cost.values) > 1 else (),
            (at(cost.low), at(cost.high)) if cost.low is not None and cost.high is not None else None,
            cost.mean > high, " ".join(filter(None, [percent(cost.mean), bracket(cost, 2)])),
            one.verdict,
        )
        for one, shade, cost in told
    )  # fmt: skip
    return Costs(rows, _named([(at(limit), limit) for limit in (0.0, *THRESHOLDS) if limit <= high]), at(0.0))


def _named(marks: list[tuple[float, float]]) -> tuple[Tick, ...]:
    """Marks with their names, as far as these have room on a phone."""
    named, free = [], 0.0
    for at, limit in marks:
        named.append(Tick(at, f"{limit:g} %" if at >= free else ""))
        free = at + NAME_ROOM if at >= free else free
    return tuple(named)


@dataclass(frozen=True)
class Piece:
    """A piece of a bar: its width in percent of the frame."""

    name: str
    shade: int
    width: float
    text: str


@dataclass(frozen=True)
class Stack:
    """The memory of one recipe by category, predicted and measured."""

    name: str
    predicted: tuple[Piece, ...]
    measured: tuple[Piece, ...]
    totals: tuple[str, str]


def categories(table: Table) -> list[str]:
    """The memory categories that any run tells, in the order they are told, and what else the peak held."""
    told = list(dict.fromkeys(name for row in table.rows for name in (row.get("memory") or {})))
    return [*told, REST] if any(_rest(row) for row in table.rows) else told


def memory_of(standing: Standing, category: str, way: str) -> float | None:
    """Bytes of a category, predicted or measured, mean over the runs."""
    if category == REST:
        told = [_rest(row) if way == "measured" else None for row in standing.runs]
    else:
        told = [((row.get("memory") or {}).get(category) or {}).get(way) for row in standing.runs]
    values = [value for value in told if isinstance(value, int | float)]
    return math.fsum(values) / len(values) if values else None


def _rest(row: Row) -> float | None:
    """Bytes of the peak that no category holds; None where a run does not tell, or where they held as much."""
    told = [(one or {}).get("measured") for one in (row.get("memory") or {}).values()]
    measured = [one for one in told if isinstance(one, int | float)]
    peak = row.get("peak_memory_bytes")
    if not isinstance(peak, int | float) or not measured or len(measured) < len(told):
        return None
    return max(0.0, peak - math.fsum(measured)) or None


def stacks(table: Table) -> list[Stack]:
    """Memory by category for each recipe with a finished run, on one scale."""
    names = categories(table)
    held = {
        one.recipe: {
            way: [(name, memory_of(one, name, way) or 0.0) for name in names] for way in ("predicted", "measured")
        }
        for one in table.standings
        if one.runs
    }
    widest = max((sum(value for _, value in way) for ways in held.values() for way in ways.values()), default=0.0)
    if not widest:
        return []

    def pieces(way: list[tuple[str, float]]) -> tuple[Piece, ...]:
        return tuple(Piece(name, names.index(name), 100 * value / widest, size(value)) for name, value in way if value)

    return [
        Stack(
            one.recipe, pieces(held[one.recipe]["predicted"]), pieces(held[one.recipe]["measured"]),
            (_total(held[one.recipe]["predicted"]), _total(held[one.recipe]["measured"])),
        )
        for one in table.standings
        if one.runs
    ]  # fmt: skip


def _total(way: list[tuple[str, float]]) -> str:
    total = sum(value for _, value in way)
    return size(total) if total else NOTHING


def speeds(table: Table) -> list[Piece]:
    """Tokens a second of each recipe, on one scale."""
    told = [
        (one, shade, one.mean("tokens_per_second")) for one, shade in zip(table.standings, shades(table), strict=True)
    ]
    fastest = max((speed for _, _, speed in told if speed), default=0.0)
    return [Piece(one.recipe, shade, 100 * speed / fastest, count(speed)) for one, shade, speed in told if speed]
