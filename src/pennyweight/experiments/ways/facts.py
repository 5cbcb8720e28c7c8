"""Facts of three ways: what each recipe costs by each way, as numbers and plain words, before it is a page."""

import math
import shlex
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from pennyweight.experiments import bars, facts, wording
from pennyweight.experiments.facts import Grid
from pennyweight.experiments.results import Row, finished, finite
from pennyweight.experiments.standings import Standing, Table, standing
from pennyweight.experiments.ways.baseline import PLAIN
from pennyweight.nn.post_training import RULES

WAYS = {
    "baseline": "the baseline", "scratch": "from scratch", "tuned": "from the checkpoint",
    **{rule: f"post-training, {rule}" for rule in RULES},
}  # fmt: skip
ORDER = ("baseline", *RULES, "tuned", "scratch")


@dataclass(frozen=True)
class Line:
    """One recipe by one way, against the baseline; a continued training also against bf16 continued as long."""

    recipe: str
    way: str
    standing: Standing
    control: Standing | None

    def mean(self, key: str) -> float | None:
        """The mean of a field over the finished rows."""
        return self.standing.mean(key)


@dataclass(frozen=True)
class WaysFacts:
    """The whole report."""

    title: str
    summary: str
    headlines: tuple[str, ...]
    comparison: Grid
    costs: bars.Costs | None
    runs: Grid
    machine: tuple[tuple[str, str], ...]
    notes: tuple[str, ...]
    command: str
    files: str


def label(recipe: str, way: str) -> str:
    """What a line is called where recipe and way stand together."""
    if recipe == PLAIN:
        return PLAIN if way == "baseline" else f"{PLAIN}, trained on"
    return f"{recipe}, {WAYS[way]}"


def lines(rows: Sequence[Row]) -> list[Line]:
    """A line for each recipe and way, the baseline first, then recipe by recipe, post-training first."""
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((str(row["recipe"]), str(row["way"])), []).append(row)
    names = list(dict.fromkeys([PLAIN, *(name for name, _ in groups)]))
    baseline, control = groups.get((PLAIN, "baseline"), []), groups.get((PLAIN, "tuned"), [])
    told = []
    for name, way in sorted(groups, key=lambda one: (names.index(one[0]), ORDER.index(one[1]))):
        own = groups[name, way]
        stood = standing(label(name, way), own, baseline, is_baseline=way == "baseline")
        beside = standing(label(name, way), own, control) if way == "tuned" and name != PLAIN else None
        told.append(Line(name, way, stood, beside))
    return told


def comparison(rows: Sequence[Row]) -> Grid:
    """The one table."""
    header = ("recipe", "way", "seeds", "bits a weight", "weights as stored", "tokens trained on", "time",
              "validation loss", "cost against bf16", "difference", "verdict")  # fmt: skip
    return header, [_cells(one) for one in lines(rows)]


def _cells(one: Line) -> tuple[str, ...]:
    stood, cost, difference = one.standing, one.standing.cost, one.standing.difference
    failed = f" of {len(stood.runs) + len(stood.failed)}" if stood.failed else ""
    beside = one.control.cost if one.control else None
    against = f"{wording.percent(beside.mean)} against bf16 trained on" if beside else ""
    return (
        one.recipe, "trained on" if (one.recipe, one.way) == (PLAIN, "tuned") else WAYS[one.way],
        f"{len(stood.runs)}{failed}", wording.number(one.mean("bits"), 2), wording.size(one.mean("stored_bytes")),
        _tokens(one),
        wording.duration(one.mean("seconds")), wording.with_deviation(stood.loss, 4),
        "\n".join(filter(None, [wording.percent(cost.mean) if cost else "", wording.bracket(cost, 2), against])),
        f"{wording.signed(difference.mean, 4)}\n{wording.bracket(difference, 4)}".strip() if difference else "",
        stood.verdict,
    )  # fmt: skip


def _tokens(one: Line) -> str:
    extra = one.mean("extra_tokens")
    return f"{wording.count(one.mean('tokens'))}\n{f'{wording.count(extra)} after bf16' if extra else ''}".strip()


def summary(rows: Sequence[Row]) -> list[str]:
    """What was found, a sentence for the baseline and each recipe: its best rule of post-training, its other ways."""
    told = lines(rows)
    said = [_of_the_baseline(told)]
    for name in dict.fromkeys(one.recipe for one in told if one.recipe != PLAIN):
        own = {one.way: one for one in told if one.recipe == name}
        after = [own[rule] for rule in RULES if rule in own and own[rule].standing.cost]
        parts = []
        if after:
            best = min(after, key=lambda one: one.standing.cost.mean if one.standing.cost else math.inf)
            of = f", the best of {len(after)} rules" if len(after) > 1 else ""
            parts.append(f"{_cost(best)} after training (by {best.way}{of})")
        if "tuned" in own and own["tuned"].standing.cost:
            beside = own["tuned"].control
            over = f" ({_percent(beside)} against bf16 trained on as long)" if beside and beside.cost else ""
            parts.append(f"{_cost(own['tuned'])} from the checkpoint{over}")
        if "scratch" in own and own["scratch"].standing.cost:
            parts.append(f"{_cost(own['scratch'])} from scratch")
        bits = next(iter(own.values())).mean("bits")
        said.append(
            f"{name} ({wording.number(bits, 2)} bits a weight) costs {wording.listing(parts) or 'nothing known'}."
        )
    return said


def _of_the_baseline(told: Sequence[Line]) -> str:
    first = next((one for one in told if one.way == "baseline" and one.standing.runs), None)
    if first is None:
        return f"{PLAIN}, the baseline, has no finished run, so there is nothing to begin from."
    seeds = len(first.standing.runs)
    over = f"{seeds} seeds" if seeds > 1 else "One seed: the spread is unknown"
    end = f"{PLAIN} ends at {wording.with_deviation(first.standing.loss, 4)} nats a token"
    on = next((one for one in told if (one.recipe, one.way) == (PLAIN, "tuned") and one.standing.cost), None)
    more = f"; trained on for {wording.count(on.mean('extra_tokens'))} tokens, {_percent(on.standing)}" if on else ""
    return f"{over}, {wording.count(first.mean('tokens'))} tokens a run. {end}{more}."


def _percent(stood: Standing | None) -> str:
    return wording.percent(stood.cost.mean if stood and stood.cost else None)


def _cost(one: Line) -> str:
    interval = wording.bracket(one.standing.cost, 2)
    return f"{_percent(one.standing)}{f' {interval}' if interval else ''}"


def answers(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """The table for machines: one object a line, with {values, mean, deviation, low, high} of loss and costs."""
    return [_answer(one) for one in lines(rows)]


def _answer(one: Line) -> dict[str, Any]:
    stood = one.standing
    spreads = {"loss": stood.loss, "difference": stood.difference, "cost": stood.cost}
    spreads["cost_against_bf16_trained_on"] = one.control.cost if one.control else None
    keys = ("bits", "stored_bytes", "tokens", "extra_tokens", "seconds")
    return {
        "recipe": one.recipe, "way": one.way, "seeds": sorted(int(row["seed"]) for row in stood.runs),
        "unfinished": len(stood.failed), "verdict": stood.verdict, **{key: one.mean(key) for key in keys},
        **{name: None if spread is None else finite(asdict(spread)) for name, spread in spreads.items()},
    }  # fmt: skip


def ways_facts(rows: Sequence[Row], plan: dict[str, Any], *, files: str) -> WaysFacts:
    """Everything there is to say about the rows of a table that was planned so."""
    found = lines(rows)
    names = list(dict.fromkeys(one.recipe for one in found if one.recipe != PLAIN))
    first, *rest = summary(rows)
    stood = tuple(one.standing for one in found)
    return WaysFacts(
        title=f"{wording.listing(names)}: after training, from a checkpoint, and from scratch",
        summary=first,
        headlines=tuple(rest),
        comparison=comparison(rows),
        costs=bars.costs(Table("", 0, PLAIN, stood)),
        runs=_runs(rows),
        machine=facts.machine_of(rows),
        notes=_notes(plan),
        command=_command(names, rows, plan),
        files=files,
    )


def _runs(rows: Sequence[Row]) -> Grid:
    header = ("recipe", "way", "seed", "status", "validation loss", "as saved", "tokens", "time", "folder")
    return header, [
        (
            str(row["recipe"]), WAYS[str(row["way"])], str(row["seed"]),
            str(row.get("status")) + (f": {row['error']}" if row.get("error") else ""),
            wording.number(row.get("val_loss"), 4), wording.number(row.get("val_loss_plain"), 4),
            wording.count(row.get("tokens")), wording.duration(row.get("seconds")),
            str(row.get("folder") or wording.NOTHING),
        )
        for row in rows if finished(row) or row.get("error")
    ]  # fmt: skip


def _notes(plan: dict[str, Any]) -> tuple[str, ...]:
    return (
        "Every row of a seed begins from, or is held against, the bf16 run of that seed; differences are paired by "
        "seed, ± is the standard deviation over seeds, brackets are 95 % t-intervals.",
        "After training: the baseline's weights written by the recipe without another step. absmax rounds to nearest; "
        "mse and percentile cut each group first; gptq takes each column's error up in the columns behind it, looking "
        "at 8 batches of the training text; gptq-mse does so with the scales of mse. Its time is that of the writing.",
        f"From the checkpoint: trained on under the recipe for {plan['tune']:g} of the steps, at {plan['tune_lr']:g} "
        "of the learning rate with a schedule of its own, fresh moments and the text in another order; bf16 trained on "
        "is the same without the recipe. Its time is that of the steps behind the baseline's.",
        "Bits a weight: of the weights that the recipe writes, with their scales. Weights as stored: those in their "
        "codes, all others in two bytes.",
        "The cost counts the larger of the recipe's own validation loss and that with activations left unwritten.",
    )


def _command(names: Sequence[str], rows: Sequence[Row], plan: dict[str, Any]) -> str:
    """The command that makes this table again."""
    seeds = len({row["seed"] for row in rows})
    words = ["pennyweight", "ways", *names]
    begun = ["--from", plan["start"]] if plan["start"] else []
    shares = [f"--{name.replace('_', '-')} {plan[name]:g}" for name in ("tune", "tune_lr") if plan[name] != 0.1]
    rules = [f"--rule {rule}" for rule in plan["rules"]] if tuple(plan["rules"]) != RULES else []
    flags = [] if begun else facts.flags(plan["run"])
    return " ".join([shlex.join([*words, *begun]), f"--seeds {seeds}", *shares, *rules, *flags])
