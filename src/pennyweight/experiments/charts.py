"""Charts: where every line of the report's curves stands, in percent of its frame; the template only draws.

Positions are shares of the frame, so that one drawing fits every width while its words keep their size.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from pennyweight.experiments import rescued
from pennyweight.experiments.results import Row
from pennyweight.experiments.standings import Standing, Table
from pennyweight.experiments.statistics import THRESHOLDS
from pennyweight.experiments.wording import number
from pennyweight.recipes import Recipe

SHADES = 8  # colours of the template's palette; 0 is ink, for the baseline
LABEL_ROOM = 7.5  # percent of a chart's height that one line of words takes


@dataclass(frozen=True)
class Tick:
    """A mark on an axis."""

    at: float
    text: str


@dataclass(frozen=True)
class Line:
    """One line of a chart: an SVG path in a frame of 1000 x 1000, its band, and its label at height `at` (percent).

    `told` says what stands at each point of the path, in its order: the step, the height, and that of each seed.
    """

    name: str
    shade: int
    path: str
    band: str
    at: float
    told: str = ""
    seeds: tuple[int, ...] = ()


@dataclass(frozen=True)
class Mark:
    """A moment of one recipe: a line across the chart at `at` percent from the left."""

    at: float
    shade: int
    text: str


@dataclass(frozen=True)
class Chart:
    """Lines over tokens, or over what `unit` says; `over`: what the points of a line are called, `height`: its unit."""

    title: str
    note: str
    lines: tuple[Line, ...]
    across: tuple[Tick, ...]
    up: tuple[Tick, ...]
    zero: float | None = None
    marks: tuple[Mark, ...] = ()
    unit: str = "tokens"
    over: str = "step"
    height: str = ""
    fallen: tuple[tuple[int, str], ...] = ()  # (shade, path) of what a run left when its guard went back


Points = list[tuple[float, float]]


def ticks(low: float, high: float, *, wanted: int = 4) -> list[float]:
    """Round numbers (1, 2, 2.5 or 5 times a power of ten apart) between low and high."""
    width = high - low
    if not width > 0:
        return [low]
    rough = width / wanted
    power = 10 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [step * place for place in range(first, math.floor(high / step + 1e-9) + 1)]


def decimals(marks: Sequence[float]) -> int:
    """How many decimals tell the marks of an axis apart."""
    if len(marks) < 2:
        return 2
    step = marks[1] - marks[0]
    return next(
        digits for digits in range(7) if abs(step * 10**digits - round(step * 10**digits)) < 1e-6 or digits == 6
    )


def smooth(points: Points, *, share: float = 0.03) -> Points:
    """Exponential average over `share` of the points, free of the bias to its beginning; at most 240 points stay."""
    keep = 1 - 1 / max(1.0, share * len(points))
    total = weight = 0.0
    averaged: Points = []
    for x, y in points:
        total = keep * total + y
        weight = keep * weight + 1
        averaged.append((x, total / weight))
    every = max(1, math.ceil(len(averaged) / 240))
    return averaged[::-1][::every][::-1]


def curve(row: Row, key: str) -> Points:
    """The points (step, loss) of a row, without those that are no number."""
    pairs = row.get(key) or []
    return [(float(x), float(y)) for x, y in pairs if isinstance(y, int | float) and math.isfinite(y)]


def spread_out(heights: Sequence[float], room: float = LABEL_ROOM) -> list[float]:
    """Label positions nearest to `heights`, in their order, at least `room` apart, all within 0 and 100."""
    order = sorted(range(len(heights)), key=heights.__getitem__)
    room = min(room, 100 / max(1, len(heights)))
    placed = [0.0] * len(heights)
    lowest = room / 2
    for index in order:
        placed[index] = max(lowest, heights[index])
        lowest = placed[index] + room
    highest = 100 - room / 2
    for index in reversed(order):
        placed[index] = min(placed[index], highest)
        highest = placed[index] - room
    return placed


def _columns(curves: Sequence[Points]) -> list[tuple[float, list[float]]]:
    """The height of every curve at the steps that all have."""
    by_step = [dict(points) for points in curves if points]
    shared = sorted(set.intersection(*(set(points) for points in by_step))) if by_step else []
    return [(step, [points[step] for points in by_step]) for step in shared]


def _over_seeds(columns: Sequence[tuple[float, list[float]]]) -> tuple[Points, Points, Points]:
    """Mean, lowest and highest over seeds."""
    return (
        [(step, math.fsum(values) / len(values)) for step, values in columns],
        [(step, min(values)) for step, values in columns],
        [(step, max(values)) for step, values in columns],
    )


def told(columns: Sequence[tuple[float, Sequence[float]]]) -> str:
    """Points as the page's script reads them: step, mean and each seed's height, with four decimals."""
    return ";".join(
        f"{step:g} " + " ".join(number(value, 4) for value in (math.fsum(values) / len(values), *values))
        for step, values in columns
    )


@dataclass(frozen=True)
class Window:
    """The part of the plane that a chart shows."""

    left: float
    right: float
    low: float
    high: float

    def across(self, x: float) -> float:
        """Percent from the left."""
        return 100 * (x - self.left) / ((self.right - self.left) or 1.0)

    def down(self, y: float) -> float:
        """Percent from the top."""
        return 100 * (self.high - y) / (self.high - self.low)

    def path(self, points: Points) -> list[str]:
        """Places in a frame of 1000 x 1000; what is far outside is brought to one frame's height from it."""
        return [f"{10 * self.across(x):.1f} {min(2000.0, max(-1000.0, 10 * self.down(y))):.1f}" for x, y in points]


Named = tuple[Standing, int, list[Points]]  # a recipe, its colour, its curve for each seed
Told = tuple[Standing, int, Points, Points, Points]  # a recipe, its colour, mean, lowest and highest over seeds


def _window(told: Sequence[Told], *, clip: bool, zero: bool) -> Window:
    """What of these curves is worth showing: the steep beginning (`clip`) and runaway recipes leave through the top."""
    left = min(points[0][0] for _, _, points, _, _ in told)
    right = max(points[-1][0] for _, _, points, _, _ in told)
    calm = [one for one in told if one[2][-1][1] <= THRESHOLDS[-1]] if zero else []
    begin = left + 0.3 * (right - left) if calm else left + 0.08 * (right - left) if clip else left
    heights = [y for _, _, _, low, high in calm or told for points in (low, high) for x, y in points if x >= begin]
    low, high = min(heights), max(heights)
    if zero:
        low, high = min(low, 0.0), max(high, THRESHOLDS[0])
    margin = 0.06 * (high - low) or 0.01
    return Window(left, right, low - margin, high + margin)


def _chart(
    title: str,
    note: str,
    named: Sequence[Named],
    per_step: float,
    *,
    clip: bool = False,
    unit: str = "",
    zero: bool = False,
    falls: bool = False,
) -> Chart | None:
    """Mean curves with the band of their seeds; None where there is nothing to draw.

    falls: also what the first seed of a recipe left when its guard went back.
    """
    every = [(one, shade, _columns(curves), _seeds(one, curves)) for one, shade, curves in named]
    every = [one for one in every if len(one[2]) > 1]
    if not every:
        return None
    drawn = [(one, shade, *_over_seeds(columns)) for one, shade, columns, _ in every]
    window = _window(drawn, clip=clip, zero=zero)
    ends = spread_out([min(100.0, max(0.0, window.down(points[-1][1]))) for _, _, points, _, _ in drawn])
    lines = tuple(
        Line(one.recipe, shade, "M" + " L".join(window.path(mean)), _band(window, low, high), at, told(columns), seeds)
        for (one, shade, mean, low, high), (_, _, columns, seeds), at in zip(drawn, every, ends, strict=True)
    )
    up = ticks(window.low, window.high)
    across = ticks(window.left * per_step, window.right * per_step)
    digits = decimals(up)
    marks = [
        Mark(window.across(step), shade, f"{one.recipe}: {said}")
        for one, shade, _ in named
        for row in one.runs[:1]
        for step, said in [*switches(row), *rescued.moments(row)]
    ]
    left = [(shade, points) for one, shade, _ in named for row in one.runs[:1] for points in rescued.falls(row)]
    return Chart(
        title,
        note,
        lines,
        tuple(Tick(window.across(x / per_step), short(x)) for x in across),
        tuple(Tick(window.down(y), number(y, digits) + unit) for y in up),
        window.down(0.0) if zero else None,
        tuple(mark for mark in marks if 0 <= mark.at <= 100),
        height=unit,
        fallen=tuple((shade, "M" + " L".join(window.path(points))) for shade, points in left if falls),
    )


def _seeds(standing: Standing, curves: Sequence[Points]) -> tuple[int, ...]:
    """The seeds that have a curve."""
    return tuple(int(row.get("seed") or 0) for row, points in zip(standing.runs, curves, strict=True) if points)


def switches(row: Row) -> list[tuple[int, str]]:
    """(step, what is said of it) of each time that the recipe of a run gave way to another."""
    described, steps = (row.get("run") or {}).get("recipe"), row.get("steps")
    if not isinstance(described, dict) or not steps:
        return []
    found = Recipe.from_dict(described).switches(int(steps))
    return [(step, f"{recipe.name} from step {step + 1} on") for step, recipe in found]


def _band(window: Window, low: Points, high: Points) -> str:
    """The area between the lowest and the highest seed; nothing where they are one."""
    return "M" + " L".join([*window.path(low), *reversed(window.path(high))]) + " Z" if low != high else ""


def short(tokens: float) -> str:
    """A count of tokens on an axis: 500 k, 1.5 M."""
    for size_of, letter in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if tokens >= size_of:
            return f"{tokens / size_of:g}{letter}"
    return f"{tokens:g}"


def curves(table: Table) -> list[Chart]:
    """Validation loss, its difference to the baseline, and training loss: mean over seeds, band from low to high."""
    per_step = next((row["tokens"] / row["steps"] for row in table.rows if row.get("tokens") and row.get("steps")), 1.0)
    named = list(zip(table.standings, shades(table), strict=True))
    valid = [(one, shade, [curve(row, "validation") for row in one.runs]) for one, shade in named]
    train = [(one, shade, [smooth(curve(row, "curve")) for row in one.runs]) for one, shade in named]
    base = {int(row.get("seed") or 0): dict(curve(row, "validation")) for row in table.standings[0].runs}
    gap: list[tuple[Standing, int, list[Points]]] = []
    for one, shade in named[1:]:
        gap.append(
            (one, shade, [_gap(curve(row, "validation"), base.get(int(row.get("seed") or 0), {})) for row in one.runs])
        )
    band = " The band spans the seeds." if max((len(one.runs) for one, _ in named), default=0) > 1 else ""
    smoothed = f"Nats a token, smoothed over 3 % of the run.{band}"
    drawn = [
        _chart("Validation loss", f"Nats a token on the fixed validation set.{band}", valid, per_step, clip=True),
        _chart(
            f"Validation loss against {table.baseline}", f"Percent of {table.baseline}'s loss at the same step.{band}",
            gap, per_step, unit=" %", zero=True,
        ),
        _chart("Training loss", smoothed, train, per_step, clip=True, falls=True),
    ]  # fmt: skip
    return [chart for chart in drawn if chart]


def _gap(points: Points, base: dict[float, float]) -> Points:
    return [(step, 100 * (loss / base[step] - 1)) for step, loss in points if base.get(step)]


def shades(table: Table) -> list[int]:
    """The colour of each recipe: ink for the baseline, then the palette in order, again from 1 when it ends."""
    return [0 if place == 0 else 1 + (place - 1) % (SHADES - 1) for place in range(len(table.standings))]
