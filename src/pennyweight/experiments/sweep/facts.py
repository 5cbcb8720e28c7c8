"""Facts of a sweep: what its report says, as plain words and numbers, before it is HTML or Markdown."""

import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, Literal

from pennyweight.experiments import bars, charts, facts, wording
from pennyweight.experiments.facts import Grid
from pennyweight.experiments.results import DONE, Row
from pennyweight.experiments.standings import Standing, Table, tables
from pennyweight.experiments.statistics import THRESHOLDS, Mark
from pennyweight.experiments.sweep.grid import label
from pennyweight.training import Run

MOST_MAPS = 12  # pictures of one table
MOST_CURVES = 8  # lines of one chart, as many as there are colours
HOT = (1.0, 10.0)  # percent above the lowest loss where a map is hottest: its highest loss, within these
SPARED = ("difference", "perplexity", "time")  # columns of a comparison that the axes' take the room of


@dataclass(frozen=True)
class Spot:
    """One cell of a heat map: its loss and cost as text, and its heat from 0 (the lowest loss) to 1."""

    loss: str
    cost: str
    heat: float | None


@dataclass(frozen=True)
class Map:
    """The loss over two axes, the others held."""

    title: str
    across: str
    down: str
    columns: tuple[str, ...]
    lines: tuple[tuple[str, tuple[Spot, ...]], ...]


@dataclass(frozen=True)
class Section:
    """One table of comparable cells, and what is drawn from it."""

    summary: str
    headlines: tuple[str, ...]
    marks: tuple[Mark | Literal[""], ...]  # of the headlines; the first has none
    comparison: Grid
    maps: tuple[Map, ...]
    costs: bars.Costs | None
    curves: tuple[charts.Chart, ...]
    runs: Grid
    baseline: str


@dataclass(frozen=True)
class SweepFacts:
    """The whole report of a sweep."""

    title: str
    summary: str
    sections: tuple[Section, ...]
    unfinished: tuple[str, ...]
    machine: tuple[tuple[str, str], ...]
    command: str
    files: str


def labelled(rows: Sequence[Row]) -> list[Row]:
    """The cells as runs of a comparison, each called what tells it from the others; the baseline first.

    The baseline is bf16, the first such cell; else the first cell.
    """
    told = [{**row, "recipe": label(str(row["recipe"]), row["axes"].items()), "plain": row["recipe"]} for row in rows]
    first = next((row["recipe"] for row in told if row["plain"] == "bf16"), told[0]["recipe"] if told else "")
    return sorted(told, key=lambda row: row["recipe"] != first)


def axes_of(rows: Sequence[Row]) -> dict[str, tuple[str, ...]]:
    """Every axis of these cells with its values, in the order of the cells."""
    names = list(dict.fromkeys(name for row in rows for name in row["axes"]))
    return {name: tuple(dict.fromkeys(row["axes"][name] for row in rows if name in row["axes"])) for name in names}


def sweep_facts(rows: Sequence[Row], base: Run, *, files: str) -> SweepFacts:
    """Everything there is to say about the cells of a sweep of `base`, whose numbers stand in `files` too."""
    named = labelled(rows)
    said = facts.facts(named, files=files)
    counts = {
        status: sum(row["status"] == status for row in rows) for status in dict.fromkeys(r["status"] for r in rows)
    }
    states = wording.listing([f"{count} {status}" for status, count in counts.items()])
    axes = axes_of(rows)
    over = " × ".join(f"{name} ({len(values)})" for name, values in axes.items())
    seeds = len({row["seed"] for row in rows})
    return SweepFacts(
        title=f"A sweep over {wording.listing(list(axes))}",
        summary=f"{over} × {seeds} seed{'s' if seeds != 1 else ''}: {len(rows)} different cells, {states}.",
        sections=tuple(_section(one.table, one, axes) for one in said.sections),
        unfinished=tuple(_unfinished(row) for row in named if row["status"] != DONE),
        machine=said.machine,
        command=_command(axes, base, seeds, rows),
        files=files,
    )


def _unfinished(row: Row) -> str:
    return f"{row['recipe']}, seed {row['seed']}: {row['status']}" + (f": {row['error']}" if row.get("error") else "")


def _section(table: Table, drawn: facts.Section, axes: Mapping[str, tuple[str, ...]]) -> Section:
    headlines = _headlines(table)
    return Section(
        summary=wording.summary(table, counted="cells", timed="may have had others beside them"),
        headlines=tuple(said for _, said in headlines),
        marks=tuple(mark for mark, _ in headlines),
        comparison=comparison(table, list(axes)),
        maps=tuple(_maps(table, axes)),
        costs=drawn.costs,
        curves=drawn.curves if len(table.standings) <= MOST_CURVES else (),
        runs=drawn.runs,
        baseline=table.baseline,
    )


def comparisons(rows: Sequence[Row]) -> list[Grid]:
    """The main tables: a line for each cell, its seeds together."""
    return [comparison(table, list(axes_of(rows))) for table in tables(labelled(rows))]


def comparison(table: Table, axes: Sequence[str]) -> Grid:
    """The table of a comparison with a column for each axis."""
    header, lines = facts.comparison(table)
    kept = [place for place, name in enumerate(header) if place and name.partition(" to ")[0] not in SPARED]
    told = []
    for one, line in zip(table.standings, lines, strict=True):
        values = _axes(one)
        told.append((line[0], *(values.get(name, wording.NOTHING) for name in axes), *(line[place] for place in kept)))
    return ("cell", *axes, *(header[place] for place in kept)), told


def _axes(one: Standing) -> dict[str, str]:
    return next((row["axes"] for row in (*one.runs, *one.failed)), {})


def _headlines(table: Table) -> list[tuple[Mark | Literal[""], str]]:
    """Which cell is the lowest, and which stay within which share of the baseline's loss, and whether all do surely."""
    told = [(one.cost, one) for one in table.standings if one.cost]
    if not told:
        return []
    cost, lowest = min(told, key=lambda pair: pair[0].mean)
    found: list[tuple[Mark | Literal[""], str]] = [
        ("", f"Of the others {lowest.recipe} costs least: {wording.percent(cost.mean)} of {table.baseline}'s loss.")
    ]
    before = -math.inf
    for limit in (*THRESHOLDS, math.inf):
        inside = [one for cost, one in told if before < cost.mean <= limit]
        where, mark = (
            (f"Within {limit:g} % on average", "holds")
            if limit < math.inf
            else (f"Beyond {THRESHOLDS[-1]:g} %", "fails")
        )
        if inside:
            sure = mark if all(one.mark == mark for one in inside) else "open"
            found.append((sure, f"{where}: {wording.listing([one.recipe for one in inside])}."))
        before = limit
    return found


def _maps(table: Table, axes: Mapping[str, tuple[str, ...]]) -> list[Map]:
    """The loss over the first two axes that vary, one picture for each value of the others; none with too many."""
    varied = {name: values for name, values in axes.items() if len(values) > 1}
    if len(varied) < 2:
        return []
    down, across, *held = varied
    if math.prod(len(varied[name]) for name in held) > MOST_MAPS:
        return []
    losses = [one.loss.mean for one in table.standings if one.loss]
    maps = []
    for values in product(*(varied[name] for name in held)):
        fixed = dict(zip(held, values, strict=True))
        lines = tuple(
            (value, tuple(_spot(table, {**fixed, down: value, across: other}, losses) for other in varied[across]))
            for value in varied[down]
        )
        title = ", ".join(f"{name}={value}" for name, value in fixed.items())
        maps.append(Map(title, across, down, varied[across], lines))
    return maps


def _spot(table: Table, wanted: Mapping[str, str], losses: Sequence[float]) -> Spot:
    """What stands at a place of a map; nothing where no cell of this table is made by these values."""
    found = next((one for one in table.standings if _is_at(_axes(one), wanted)), None)
    if found is None:
        return Spot("", "", None)
    if found.loss is None:
        return Spot(wording.NOTHING, str(found.failed[0]["status"]), None)
    low = min(losses)
    coolest, hottest = (low * (1 + percent / 100) for percent in HOT)
    heat = min(1.0, (found.loss.mean - low) / (min(max(*losses, coolest), hottest) - low))
    cost = wording.percent(found.cost.mean) if found.cost else "baseline" if found.is_baseline else ""
    return Spot(wording.number(found.loss.mean, 4), cost, heat)


def _is_at(axes: Mapping[str, str], wanted: Mapping[str, str]) -> bool:
    return all(axes.get(name) == value for name, value in wanted.items())


def _command(axes: Mapping[str, tuple[str, ...]], base: Run, seeds: int, rows: Sequence[Row]) -> str:
    """The command that makes these cells again."""
    grid = shlex.join(f"{name}={','.join(values)}" for name, values in axes.items())
    written: dict[str, Any] = base.to_dict()
    threads = next((row["threads"] for row in rows), 1)
    flags = " ".join(facts.flags(written))
    begun, *changed = base.recipe.name.split("+")
    recipe = shlex.join([f"recipe={begun}", *(f"recipe.{one}" for one in changed)])
    tail = f" --set {recipe}" if base.recipe.name != "bf16" else ""
    return f"pennyweight sweep --grid {grid} --seeds {seeds} --threads {threads} {flags}".rstrip() + tail
