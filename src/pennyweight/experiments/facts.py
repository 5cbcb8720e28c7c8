"""Facts: everything the report says, as plain words and numbers, before it is HTML or Markdown."""

import math
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pennyweight.experiments import bars, charts, rescued, wording
from pennyweight.experiments.heat import Seen
from pennyweight.experiments.results import Row
from pennyweight.experiments.standings import Standing, Table, tables
from pennyweight.experiments.statistics import Mark
from pennyweight.recipes import PRODUCTS, Recipe
from pennyweight.training import Run
from pennyweight.training.settings import flat

Grid = tuple[tuple[str, ...], list[tuple[str, ...]]]  # a header and its lines
EVERYDAY = {"model": "--model", "data.source": "--data", "steps": "--steps"}  # flags that stand for a setting


@dataclass(frozen=True)
class Section:
    """One table of comparable runs and all that is drawn from it."""

    table: Table
    summary: str
    headlines: tuple[str, ...]
    marks: tuple[Mark, ...]  # of the headlines
    costs: bars.Costs | None
    comparison: Grid
    curves: tuple[charts.Chart, ...]
    stacks: tuple[bars.Stack, ...]
    categories: tuple[str, ...]
    memory: Grid
    speeds: tuple[bars.Piece, ...]
    runs: Grid
    shades: dict[str, int]


@dataclass(frozen=True)
class Written:
    """How one recipe writes its tensors: the table, its notes, how much is in few bits, what was left and why."""

    name: str
    grid: Grid
    notes: tuple[str, ...]
    shares: tuple[str, ...]
    exceptions: tuple[str, ...]


@dataclass(frozen=True)
class Facts:
    """The whole report."""

    title: str
    sections: tuple[Section, ...]
    recipes: tuple[Written, ...]
    machine: tuple[tuple[str, str], ...]
    commands: tuple[str, ...]
    warnings: tuple[str, ...]
    files: str  # that hold the same numbers for machines
    peak: str = wording.PEAK
    seen: tuple[Seen, ...] = ()  # by diagnosis
    guard: tuple[rescued.Seen, ...] = ()


def title_of(rows: Sequence[Row], found: Sequence[Table]) -> str:
    """What the report is called."""
    names = list(dict.fromkeys(str(row["recipe"]) for row in rows))
    baseline = found[0].baseline if found else ""
    others = [name for name in names if name != baseline]
    if not others:
        return f"What training in {wording.listing(names)} came to"
    return f"What {wording.listing(others)} {'cost' if len(others) > 1 else 'costs'} against {baseline}"


def facts(rows: Sequence[Row], *, files: str, seen: Sequence[Seen] = ()) -> Facts:
    """Everything there is to say about some runs, whose numbers stand in `files` too, and what diagnosis saw."""
    found = tables(rows)
    warnings = []
    if len(found) > 1:
        warnings.append(
            f"These runs saw different data or different numbers of tokens, so they stand in {len(found)} tables; "
            "numbers of different tables are not comparable."
        )
    sections = tuple(_section(table) for table in found)
    return Facts(
        title_of(rows, found),
        sections,
        _written(rows),
        machine_of(rows),
        _commands(rows),
        tuple(warnings),
        files,
        seen=tuple(seen),
        guard=rescued.sentences(rows),
    )


def _section(table: Table) -> Section:
    return Section(
        table=table,
        summary=wording.summary(table),
        headlines=_headlines(table),
        marks=tuple(one.mark for one in _told(table)),
        costs=bars.costs(table),
        comparison=comparison(table),
        curves=tuple(charts.curves(table)),
        stacks=tuple(bars.stacks(table)),
        categories=tuple(bars.categories(table)),
        memory=_memory(table),
        speeds=tuple(bars.speeds(table)),
        runs=_runs(table),
        shades=dict(zip((one.recipe for one in table.standings), charts.shades(table), strict=True)),
    )


def _headlines(table: Table) -> tuple[str, ...]:
    """A sentence for each recipe but the baseline, and for that one where it has no finished run."""
    return tuple(wording.headline(one, table.baseline) for one in _told(table))


def _told(table: Table) -> list[Standing]:
    return [one for one in table.standings if not one.is_baseline or not one.runs]


def comparison(table: Table) -> Grid:
    """The main table: one line per recipe, differences to the baseline (if there is any other) with their spread.

    A cell may have a second line: what belongs to its number.
    """
    header = ("recipe", "seeds", "validation loss", "perplexity", "peak memory", "tokens/s")
    if any(one.seconds for one in table.standings):
        header = (*header, f"time to loss {wording.number(table.target, 2)}")
    lines = [_line(one)[: len(header)] for one in table.standings]
    if table.alone:
        return header, lines
    header = (*header[:3], f"cost against {table.baseline}", "difference", *header[3:], "verdict")
    told = [(*line[:3], *_cost(one), *line[3:], one.verdict) for one, line in zip(table.standings, lines, strict=True)]
    return header, told


def _line(one: Standing) -> tuple[str, ...]:
    failed = f" of {len(one.runs) + len(one.failed)}" if one.failed else ""
    saved, bits = one.mean("val_loss_plain"), one.mean("bits_per_byte")
    return (
        one.recipe, f"{len(one.runs)}{failed}",
        _two(wording.with_deviation(one.loss, 4), f"{wording.number(saved, 4)} as saved" if saved is not None else ""),
        _two(wording.number(one.mean("perplexity"), 2), f"{wording.number(bits, 3)} bits/byte" if bits else ""),
        _two(wording.size(one.mean("peak_memory_bytes")), wording.change(one.memory)),
        _two(wording.count(one.mean("tokens_per_second")), wording.change_of_time(one.speed)),
        _two(wording.duration(one.seconds.mean if one.seconds else None), wording.change_of_time(one.delay)),
    )  # fmt: skip


def _cost(one: Standing) -> tuple[str, str]:
    """What a recipe costs in percent and in nats a token, each with its interval below."""
    cost, difference = one.cost, one.difference
    return (
        _two(wording.percent(cost.mean if cost else None), wording.bracket(cost, 2)),
        _two(wording.signed(difference.mean if difference else None, 4), wording.bracket(difference, 4)),
    )


def _two(number: str, beside: str) -> str:
    """A cell of two lines, or of one where nothing stands beside the number."""
    return f"{number}\n{beside}" if beside else number


def _runs(table: Table) -> Grid:
    header = ("recipe", "seed", "status", "validation loss", "as saved", "before step 1", "perplexity", "tokens",
              "steps", "tokens/s", "peak memory", "time")  # fmt: skip
    return header, [
        (
            str(row["recipe"]), str(row.get("seed", 0)), _status(row), wording.number(row.get("val_loss"), 4),
            wording.number(row.get("val_loss_plain"), 4), wording.number(row.get("initial_loss"), 4),
            wording.number(row.get("perplexity"), 2), wording.count(row.get("tokens")), wording.count(row.get("steps")),
            wording.count(row.get("tokens_per_second")), wording.size(row.get("peak_memory_bytes")),
            wording.duration(row.get("seconds")),
        )
        for row in table.rows
    ]  # fmt: skip


def _status(row: Row) -> str:
    status = str(row.get("status") or "finished")
    return f"{status}: {row['error']}" if row.get("error") else status


def _memory(table: Table) -> Grid:
    names = bars.categories(table)
    lines = []
    for one in table.standings:
        for name in names:
            predicted, measured = (bars.memory_of(one, name, way) for way in ("predicted", "measured"))
            if predicted is not None or measured is not None:
                gap = 100 * (measured / predicted - 1) if predicted and measured is not None else None
                lines.append(
                    (one.recipe, name, wording.size(predicted), wording.size(measured), wording.percent(gap, 1))
                )
    return ("recipe", "category", "predicted", "measured", "difference"), lines


def _written(rows: Sequence[Row]) -> tuple[Written, ...]:
    """How each recipe writes its tensors, told once a recipe."""
    told: dict[str, Written] = {}
    for row in rows:
        name = str(row["recipe"])
        described = (row.get("run") or {}).get("recipe")
        if name in told or not isinstance(described, dict):
            continue
        recipe = Recipe.from_dict(described)
        shares = (*_shares(row, recipe), *_swallowed([row for row in rows if str(row["recipe"]) == name]))
        told[name] = Written(name, recipe_grid(recipe), tuple(recipe.notes), shares, _exceptions(row))
    return tuple(told.values())


def recipe_grid(recipe: Recipe) -> Grid:
    """The recipe's table as a header and lines."""
    lines = recipe.table()
    header = tuple(lines[0]) if lines else ()
    return header, [tuple(str(line[column]) for column in header) for line in lines]


def _shares(row: Row, recipe: Recipe) -> tuple[str, ...]:
    """How much of the blocks' linear layers has both operands in few bits, in each product and in the states."""
    said = []
    if recipe.then and row.get("steps"):
        found = [after for _, after in charts.switches(row)]
        said.append(f"begins with {recipe.name}, then {wording.listing(found)}; what follows is of the last.")
        recipe = recipe.phases[-1]
    for key, bits in (("four_bit_share", 4), ("eight_bit_share", 8)):
        share = row.get(key) or {}
        if any(share.values()):
            products = [
                f"{product} {100 * share[product]:.1f} %" for product in (*PRODUCTS, *share) if product in share
            ]
            said.append(
                f"has both operands in at most {bits} bits in these shares of the multiply-adds of its blocks' linear "
                f"layers: {', '.join(dict.fromkeys(products))}."
            )
    if recipe.last and (blocks := _blocks(row)):
        kept = recipe.plain_blocks(blocks)
        which = f"the last {kept} of {blocks}" if kept else f"none of {blocks}"
        said.append(f"keeps {which} blocks in {recipe.precision} ({recipe.last:.0%} of them, rounded down).")
    states = [f"{slot} in {written}" for slot, written in (("m", recipe.m), ("v", recipe.v)) if written != "fp32"]
    if states:
        said.append(f"keeps {wording.listing(states)}.")
    return tuple(said)


def _swallowed(rows: Sequence[Row]) -> list[str]:
    """What steps on weights without a master lost: a sentence over the runs of one recipe, none where no run tells."""
    told = [row["swallowed_share"] for row in rows if isinstance(row.get("swallowed_share"), int | float)]
    if not told:
        return []
    mean = math.fsum(told) / len(told)
    return [f"swallowed, on average over the steps, {mean:.1%} of the numbers that a step should have moved."]


def _blocks(row: Row) -> int:
    """How many transformer blocks the names of a model's layers tell."""
    names = [*(row.get("converted") or []), *(name for name, _ in row.get("left") or [])]
    return len({found[1] for name in names if (found := re.search(r"\.(\d+)\.", str(name)))})


def _exceptions(row: Row) -> tuple[str, ...]:
    """Every layer that was left as it is, grouped by reason."""
    reasons: dict[str, list[str]] = {}
    for name, why in row.get("left") or []:
        reasons.setdefault(str(why), []).append(str(name))
    return tuple(f"{', '.join(wording.folded(names))} ({why})" for why, names in reasons.items())


def machine_of(rows: Sequence[Row]) -> tuple[tuple[str, str], ...]:
    """What ran it: every machine and every version that the runs tell, joined where they differ."""
    told: dict[str, list[str]] = {}
    for row in rows:
        for part in (row.get("machine") or {}, row.get("versions") or {}):
            for key, value in part.items():
                text = wording.size(value) if str(key).endswith("_bytes") and isinstance(value, int) else str(value)
                if text not in told.setdefault(str(key).removesuffix("_bytes"), []):
                    told[str(key).removesuffix("_bytes")].append(text)
    hashes = list(dict.fromkeys(str(row["data_hash"]) for row in rows if row.get("data_hash")))
    lines = [(key.replace("_", " "), " / ".join(values)) for key, values in told.items()]
    return (*lines, *(("data", value) for value in hashes))


def _commands(rows: Sequence[Row]) -> tuple[str, ...]:
    """The commands that train these runs again, one for each base run."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        if isinstance(row.get("run"), dict):
            groups.setdefault(" ".join(flags(row["run"])), []).append(row)
    commands = []
    for arguments, members in groups.items():
        recipes = list(dict.fromkeys(str(row["recipe"]) for row in members))
        seeds = sorted({int(row.get("seed") or 0) for row in members})
        tail = f" {arguments}" if arguments else ""
        if seeds == list(range(len(seeds))) and len(members) == len(recipes) * len(seeds) > 1:
            commands.append(f"pennyweight compare {shlex.join(recipes)} --seeds {len(seeds)}{tail}")
        else:
            commands += [
                f"pennyweight train --recipe {shlex.quote(str(row['recipe']))} --seed {row.get('seed') or 0}{tail}"
                for row in members
            ]
    return tuple(commands)


def flags(run: dict[str, Any]) -> list[str]:
    """The flags that make this run out of `Run()`, recipe and seed left out."""
    humble = flat(Run().to_dict())
    told = []
    for path, value in flat(run).items():
        if path.split(".")[0] in ("recipe", "seed", "config", "tracker") or humble.get(path) == value:
            continue
        if path == "weights.hash":
            continue
        path = path.removesuffix(".of")
        text = ",".join(map(str, value)) if isinstance(value, list) else str(value)
        told += [EVERYDAY[path], shlex.quote(text)] if path in EVERYDAY else ["--set", shlex.quote(f"{path}={text}")]
    return told


def comparisons(rows: Sequence[Row]) -> list[tuple[tuple[str, ...], list[tuple[str, ...]], list[str]]]:
    """For a terminal: header, lines and sentences of each table."""
    found = []
    for table in tables(rows):
        header, lines = comparison(table)
        found.append((header, lines, [wording.summary(table), *_headlines(table)]))
    return found
