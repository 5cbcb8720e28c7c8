"""Heat: what diagnosis saw of a run, as maps of layer by step and as sentences; the template only draws.

Positions are cells: column c, row r of a map is the square from (c, r) to (c + 1, r + 1).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pennyweight.analysis import MEASURES, Blamed, Look
from pennyweight.analysis.blame import breaks
from pennyweight.experiments import charts, wording
from pennyweight.experiments.results import Row, is_single
from pennyweight.experiments.statistics import Mark
from pennyweight.training import read_ledger
from pennyweight.training.folder import LEDGER

COLUMNS = 60  # looks that a map shows; of more, evenly spread ones and the last
SHADES = 9
NAMED = 3  # layers that a sentence names
ENDLESS = 900.0  # decibels beyond which nothing was lost, or nothing was left (`analysis.look.short`)


@dataclass(frozen=True)
class Cells:
    """The cells of one shade (0 best … SHADES - 1 worst), as an SVG path."""

    shade: int
    path: str


@dataclass(frozen=True)
class Map:
    """One measure of every layer over the steps: rows are layers, columns looks."""

    title: str
    rows: tuple[str, ...]
    columns: int
    cells: tuple[Cells, ...]
    last: tuple[str, ...]  # number of each row in the last column
    begin: str
    end: str
    over: str  # what a column is called, and each one's name
    names: tuple[str, ...]
    told: str  # every number, as the page's script reads them: rows apart by ";", columns by " "


@dataclass(frozen=True)
class Seen:
    """What diagnosis saw of one run: where it breaks, maps, what sharpness was, and what looking cost."""

    name: str
    said: tuple[str, ...]
    mark: Mark  # "fails" where it breaks
    maps: tuple[Map, ...]
    sharpness: tuple[tuple[str, ...], list[tuple[str, ...]]] | None = None
    slices: tuple[Map, ...] = ()
    curve: charts.Chart | None = None


def looks_of(folder: Path) -> list[Look]:
    """The looks in the ledger of a run folder, in the order of their steps; none where there is no ledger."""
    path = folder / LEDGER
    lines = read_ledger(path) if path.is_file() else []
    return [Look.from_line(line) for line in lines if line["kind"] == "diagnosis"]


def seen_of(rows: Sequence[Row], folder: Path) -> list[Seen]:
    """What was seen of the runs of a report: of the run in `folder`, or of the first seed of each recipe."""
    if is_single(folder):
        places = [(rows[0], folder)]
    else:
        first: dict[str, Row] = {}
        for row in sorted(rows, key=lambda row: int(row.get("seed") or 0)):
            if row.get("folder"):
                first.setdefault(str(row["recipe"]), row)
        places = [(row, folder / str(row["folder"])) for row in first.values()]
    told = [(row, looks_of(place)) for row, place in places]
    return [seen(f"{row['recipe']}, seed {row.get('seed') or 0}", looks, row) for row, looks in told if looks]


def seen(name: str, looks: Sequence[Look], row: Mapping[str, Any]) -> Seen:
    """What some looks at one run say."""
    sharp = [look for look in looks if look.sharpness]
    return Seen(
        name,
        (breaking(looks), cost(looks, row)),
        "fails" if breaks(looks) else "holds",
        tuple(maps(looks)),
        sharpness_grid(sharp) if sharp else None,
        tuple(plane(sharp[-1])) if sharp else (),
        curve(sharp[-1]) if sharp else None,
    )


def breaking(looks: Sequence[Look]) -> str:
    """Where the run breaks, in a sentence."""
    found = breaks(looks)
    if found is None:
        return f"No layer got three bits worse than it was, in {len(looks)} look{'s' if len(looks) != 1 else ''}."
    step, broken = found
    names = [f"{one.layer} ({_change(one)})" for one in broken[:NAMED]]
    more = f", and {len(broken) - NAMED} more" if len(broken) > NAMED else ""
    return f"Breaks at step {step:,}: {'; '.join(names)}{more}."


def _change(one: Blamed) -> str:
    before, now = number(one.before, one.measure), number(one.now, one.measure)
    return f"{MEASURES[one.measure][0]} from {before} to {now}"


def cost(looks: Sequence[Look], row: Mapping[str, Any]) -> str:
    """What looking cost, sharpness told apart."""
    seconds, sharp = sum(one.seconds for one in looks), sum(one.sharpness_seconds for one in looks)
    whole = row.get("seconds")
    share = f", {100 * seconds / (whole - seconds - sharp):.1f} % of the rest of the run" if whole else ""
    apart = f"; sharpness took {wording.duration(sharp)} besides" if sharp else ""
    return f"Looking took {wording.duration(seconds)}{share}{apart}."


def maps(looks: Sequence[Look]) -> list[Map]:
    """A map for every measure that the looks hold."""
    layers = list(dict.fromkeys(layer for look in looks for layer in look.measures))
    names = {name for look in looks for found in look.measures.values() for name in found}
    return [one for name in MEASURES if name in names and (one := _map(name, looks, layers)) is not None]


def _map(name: str, looks: Sequence[Look], layers: Sequence[str]) -> Map | None:
    title, worse = MEASURES[name]
    columns = [look for look in looks if any(name in found for found in look.measures.values())]
    every = math.ceil(len(columns) / COLUMNS)
    columns = columns[::-1][::every][::-1]
    rows = [layer for layer in layers if any(name in look.measures.get(layer, {}) for look in columns)]
    values = [[look.measures.get(layer, {}).get(name) for look in columns] for layer in rows]
    middle = 1.0 if name.endswith("norm_ratio") else 0.0
    told = [number(line[-1], name) for line in values]
    cells = shaded(values, worse, middle)
    names = tuple(f"{look.step:,}" for look in columns)
    ends = f"step {names[0]}", f"step {names[-1]}"
    return Map(title, tuple(rows), len(columns), cells, tuple(told), *ends, "step", names, _told(values, name))


def _told(values: Sequence[Sequence[float | None]], measure: str = "") -> str:
    return ";".join(" ".join(number(value, measure) for value in row) for row in values)


def shaded(values: Sequence[Sequence[float | None]], worse: int, middle: float = 0.0) -> tuple[Cells, ...]:
    """The cells of a matrix of numbers by shade, from the best number (0) to the worst; None leaves its cell blank.

    worse: +1 where larger is worse, -1 where smaller is, 0 where farther from `middle` is. Endless decibels are the
    best or the worst number there is.
    """
    badness = [[None if v is None else _badness(v, worse, middle) for v in row] for row in values]
    known = [b for row in badness for b in row if b is not None and abs(b) < ENDLESS]
    low, high = (min(known), max(known)) if known else (0.0, 0.0)
    width = (high - low) or 1.0
    found: dict[int, list[str]] = {}
    for r, row in enumerate(badness):
        for c, bad in enumerate(row):
            if bad is not None:
                share = min(1.0, max(0.0, (bad - low) / width))
                found.setdefault(min(SHADES - 1, int(share * SHADES)), []).append(f"M{c} {r}h1v1h-1z")
    return tuple(Cells(shade, "".join(squares)) for shade, squares in sorted(found.items()))


def _badness(value: float, worse: int, middle: float) -> float:
    if worse:
        return value * worse
    return abs(math.log2(value)) if middle and value > 0 else abs(value - middle)


def number(value: float | None, measure: str = "") -> str:
    """A measure in three digits, a cosine in five; decibels that have no end in words."""
    if value is None:
        return ""
    if abs(value) >= ENDLESS:
        return "all" if value > 0 else "nothing"
    return f"{value:.5f}" if measure.endswith("cosine") else f"{value:.3g}"


def sharpness_grid(looks: Sequence[Look]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """A line for each time that sharpness was measured."""
    header = ("step", "loss", "m-sharpness", "largest eigenvalue", "by", "seconds")
    return header, [
        (
            f"{look.step:,}", wording.number(look.sharpness.get("loss"), 4),
            number(look.sharpness.get("m_sharpness")), number(look.sharpness.get("eigenvalue")),
            str(look.sharpness.get("by", "")), wording.number(look.sharpness_seconds, 2),
        )
        for look in looks
    ]  # fmt: skip


def plane(look: Look) -> list[Map]:
    """The 2-D slice of the loss as a map, where there is one."""
    rows = look.sharpness.get("slice_2d") or []
    if not rows:
        return []
    names = tuple(f"row {place + 1}" for place in range(len(rows)))
    told = tuple(number(row[-1]) for row in rows)
    title = f"Loss over two directions after {look.step:,} steps: the weights stand in the middle"
    across = tuple(str(place + 1) for place in range(len(rows[0])))
    return [Map(title, names, len(across), shaded(rows, 1), told, "", "", "column", across, _told(rows))]


def curve(look: Look) -> charts.Chart | None:
    """The 1-D slice of the loss as a chart, where there is one."""
    points = [(float(a), float(loss)) for a, loss in look.sharpness.get("slice_1d") or [] if loss is not None]
    if len(points) < 2:
        return None
    heights = [y for _, y in points]
    margin = 0.06 * (max(heights) - min(heights)) or 0.01
    window = charts.Window(points[0][0], points[-1][0], min(heights) - margin, max(heights) + margin)
    up = charts.ticks(window.low, window.high)
    told = charts.told([(x, [y]) for x, y in points])
    line = charts.Line("loss", 1, "M" + " L".join(window.path(points)), "", window.down(points[-1][1]), told)
    return charts.Chart(
        f"Loss along a direction after {look.step:,} steps",
        "Nats a token at w + alpha d, alpha in units of the weights' own norms, row by row.",
        (line,),
        tuple(charts.Tick(window.across(x), f"{x:g}") for x in charts.ticks(window.left, window.right)),
        tuple(charts.Tick(window.down(y), wording.number(y, charts.decimals(up))) for y in up),
        unit="alpha",
        over="alpha",
    )
