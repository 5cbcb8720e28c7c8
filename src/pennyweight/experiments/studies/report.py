"""The report of a study: its verdicts first, each with the numbers that it rests on, as a page, as text and as JSON."""

import json
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pennyweight.experiments import facts, wording
from pennyweight.experiments.facts import Grid
from pennyweight.experiments.markdown import bullets, code, grid, plain
from pennyweight.experiments.report import page
from pennyweight.experiments.results import finished, finite
from pennyweight.experiments.statistics import Mark, Spread
from pennyweight.experiments.studies.conduct import Outcome, outcome
from pennyweight.experiments.studies.evidence import PATIENCE, RISE, Evidence, spread_of
from pennyweight.experiments.studies.findings import Found
from pennyweight.experiments.studies.study import FAILS, HOLDS, UNTOLD, Effect, Part
from pennyweight.experiments.sweep.store import DIVERGED, FINISHED, RUNNING, WAITING
from pennyweight.experiments.wording import NOTHING
from pennyweight.training.files import write_whole

JSON = "study.json"
SHADES = {HOLDS: 3, FAILS: 2, UNTOLD: 0}
MARKS: dict[str, Mark] = {HOLDS: "holds", FAILS: "fails", UNTOLD: "open"}
ROOM = 0.08  # of the axis, left free at both ends


@dataclass(frozen=True)
class Drawn:
    """An effect as it is drawn: places in percent of the frame; no dot where nothing is known."""

    text: str
    limit: float
    zero: float
    dot: float | None = None
    bar: tuple[float, float] | None = None
    seeds: tuple[float, ...] = ()


@dataclass(frozen=True)
class Card:
    """A claim on the page."""

    found: Found
    shade: int
    mark: Mark
    effects: tuple[Drawn, ...]


@dataclass(frozen=True)
class StudyFacts:
    """Everything the page says."""

    title: str
    source: str
    summary: tuple[str, ...]
    warnings: tuple[str, ...]
    controls: tuple[Card, ...]
    cards: tuple[tuple[str, tuple[Card, ...]], ...]  # part -> its claims
    arms: tuple[tuple[str, Grid], ...]  # part -> its arms
    protocol: tuple[str, ...]
    unfinished: tuple[str, ...]
    command: str
    machine: tuple[tuple[str, str], ...]
    files: str


def told(effect: Effect) -> str:
    """An effect in words: what it is, its mean, its interval, and what it is held against."""
    values = effect.values
    said = f"{effect.what}: {_number(values, effect)}"
    if effect.diverged:
        said += f"; {effect.diverged} of {effect.seeds} runs broke down"
    if not effect.limit:
        return f"{said}; wanted {effect.wanted} 0"
    return f"{said}; wanted {effect.wanted} {wording.signed(effect.limit, 2)}{_unit(effect)}"


def _unit(effect: Effect) -> str:
    return f" {effect.unit}" if effect.unit else ""


def _number(values: Spread | None, effect: Effect) -> str:
    if values is None:
        return "not measured"
    digits = 1 if effect.unit == "dB" else 4 if effect.unit == "nat" else 3
    bracket = wording.bracket(values, digits)
    count = len(values.values)
    between = f" {bracket}, {count} seeds" if bracket else ", one seed"
    return f"{wording.signed(values.mean, digits)}{_unit(effect)}{between}"


def drawn(effect: Effect) -> Drawn:
    """Where the mean, the seeds, the interval, zero and the limit of an effect stand on an axis of its own."""
    values, limit = effect.values, effect.limit
    reach = [0.0, limit]
    if values is not None:
        reach += [*values.values, *(bound for bound in (values.low, values.high) if bound is not None)]
    low, high = min(reach), max(reach)
    width = (high - low) or 1.0
    low, high = low - ROOM * width, high + ROOM * width

    def at(value: float) -> float:
        return 100 * (value - low) / (high - low)

    if values is None:
        return Drawn(told(effect), at(limit), at(0.0))
    bar = (at(values.low), at(values.high)) if values.low is not None and values.high is not None else None
    return Drawn(told(effect), at(limit), at(0.0), at(values.mean), bar, tuple(map(at, values.values)))


def summary(one: Outcome) -> tuple[str, ...]:
    """What was found, in a few sentences."""
    found, asked, plan = one.findings, one.asked, one.plan
    runs = [row for row in one.rows if finished(row)]
    size = f" of {runs[0]['parameters_non_embedding']:,} parameters beside its embeddings" if runs else ""
    seeds = wording.listing([f"{part.seeds} paired seeds at {part.label}" for part in plan.parts])
    said = (
        f"Claims that hold: {found.count(HOLDS)}; that do not: {found.count(FAILS)}; that cannot be told at this "
        f"scale: {found.count(UNTOLD)}.",
        _controls(one),
        f"{one.done} of {len(plan.cells())} runs, {plan.tokens:,} tokens each ({asked['epochs']:.2f} times the text of "
        f"{asked['data']}), model {plan.base.model}{size}; {seeds}.",
        f"Of {sum(claim.decided for claim in found.claims)} decided verdicts "
        f"{sum(claim.together for claim in found.claims)} stay decided when every interval is asked to hold at once "
        "(Holm, 5 %).",
        str(asked["left_out"]),
    )
    return tuple(filter(None, said))


def _controls(one: Outcome) -> str:
    if one.findings.passed:
        return (
            "The study passed its own controls: equal arms are not found different, and the planted bad one is found."
        )
    failed = [f"{control.claim.text} ({control.part}: {control.judged.verdict})" for control in one.findings.controls
              if control.judged.verdict != HOLDS]  # fmt: skip
    return f"The study has not passed its own controls, so no verdict there is supported: {'; '.join(failed)}."


def arms_of(part: Part, evidence: Evidence) -> Grid:
    """The arms of a part: what each ends at, and against the first."""
    header = (
        "arm",
        "recipe",
        "seeds",
        "validation loss",
        f"against {part.arms[0].name}, nat",
        "broke down",
        "tokens/s",
    )
    lines = []
    for arm in part.arms:
        rows = evidence.rows.get(arm.name, {})
        values = evidence.difference(arm.name) if arm != part.arms[0] else None
        rates = spread_of({seed: row["tokens_per_second"] for seed, row in rows.items() if finished(row)})
        lines.append(
            (
                arm.name, str(arm.run.recipe), str(len(rows)),
                wording.with_deviation(spread_of(evidence.losses(arm.name)), 4),
                f"{wording.signed(values.mean, 4)}\n{wording.bracket(values, 4)}".strip() if values else NOTHING,
                str(len(evidence.diverged(arm.name))), wording.count(rates.mean if rates else None),
            )
        )  # fmt: skip
    return header, lines


def protocol(one: Outcome) -> tuple[str, ...]:
    """How it was measured and when a claim counts as decided."""
    margin = one.evidence[0][1].margin
    return (
        "Every arm begins from the weights and reads in the order of the bf16 arm of the same seed; differences are "
        "paired.",
        "Brackets are 95 % Student t-intervals over the seeds. Losses are those of the recipe's own forward pass, in "
        "nats a token, at the end of training.",
        f"As good as bf16: the whole interval lies below +{margin:g} nat. Costs quality: it lies above in whole, or "
        "most runs broke down. Anything else cannot be told, which is not evidence of no difference.",
        f"Broke down: a loss that is no number, or a training loss more than {RISE:g} nat above its own running "
        f"minimum for {PATIENCE} steps on end or to the end.",
        "No run reads its text more than four times.",
    )


def study_facts(one: Outcome) -> StudyFacts:
    """Everything there is to say about a study."""
    others = [row for row in one.rows if row["status"] not in (FINISHED, DIVERGED)]
    waiting = [row for row in others if row["status"] in (WAITING, RUNNING)]
    failed = [
        f"{row['axes'].get('arm')}, seed {row['seed']}: {row.get('error')}" for row in others if row not in waiting
    ]
    missing = len(one.plan.cells()) - one.done - len(failed)
    unfinished = ([f"{missing} runs are still to come"] if missing else []) + failed
    machine = facts.facts([row for row in one.rows if finished(row)][:1], files="").machine if one.done else ()
    return StudyFacts(
        title=one.study.title,
        source=one.study.source,
        summary=summary(one),
        warnings=() if one.findings.passed else (_controls(one),),
        controls=tuple(_card(found) for found in one.findings.controls),
        cards=tuple(
            (part.label, tuple(_card(found) for found in one.findings.claims if found.part == part.label))
            for part in one.plan.parts
        ),
        arms=tuple(
            (part.label, arms_of(part, evidence))
            for part, (_, evidence) in zip(one.plan.parts, one.evidence, strict=True)
        ),
        protocol=protocol(one),
        unfinished=tuple(unfinished),
        command=command(one),
        machine=tuple(machine),
        files=f"{JSON} (the verdicts), sweep/results.sqlite and sweep/results.json (every run)",
    )


def _card(found: Found) -> Card:
    verdict = found.judged.verdict if found.supported else UNTOLD
    return Card(found, SHADES[verdict], MARKS[verdict], tuple(drawn(effect) for effect in found.judged.effects))


def command(one: Outcome) -> str:
    """What was typed."""
    asked = one.asked
    minutes = f" --minutes {asked['minutes']:g}" if asked["minutes"] is not None else ""
    data = "" if asked["data"] == "stdlib" else f" --data {shlex.quote(asked['data'])}"
    return f"pennyweight study {one.study.name} --{asked['scale']}{data}{minutes}"


def to_dict(one: Outcome) -> dict[str, Any]:
    """The whole study as plain JSON."""
    arms = {
        f"{arm.name}, {part.label}": {
            "recipe": str(arm.run.recipe), "losses": evidence.losses(arm.name), "diverged": evidence.diverged(arm.name),
        }
        for part, (_, evidence) in zip(one.plan.parts, one.evidence, strict=True) for arm in part.arms
    }  # fmt: skip
    return finite(
        {
            **one.asked, "title": one.study.title, "source": one.study.source, "tokens": one.plan.tokens,
            "runs": len(one.plan.cells()), "runs_ended": one.done, "controls_passed": one.findings.passed,
            "summary": list(summary(one)), "controls": [found.to_dict() for found in one.findings.controls],
            "claims": [found.to_dict() for found in one.findings.claims], "arms": arms,
        }
    )  # fmt: skip


def lines_of(one: Outcome) -> Grid:
    """The verdicts as a table for the terminal and for Markdown."""
    several = len(one.plan.parts) > 1
    header = ("claim", *(["part"] if several else []), "verdict", "measured")
    lines = [
        (found.claim.text, *([found.part] if several else []), found.verdict,
         "\n".join(told(effect) for effect in found.judged.effects) or found.judged.said)
        for found in one.findings.claims
    ]  # fmt: skip
    return header, lines


def markdown(one: Outcome, said: StudyFacts) -> str:
    """The whole report as text."""
    parts = [f"# {plain(said.title)}", plain(said.source), bullets(said.summary), "## Verdicts", grid(lines_of(one))]
    parts += ["## Controls", bullets(tuple(
        f"{card.found.claim.text} ({card.found.part}): {card.found.judged.verdict}. "
        f"{' '.join(effect.text for effect in card.effects)}."
        for card in said.controls
    ))]  # fmt: skip
    reasons = tuple(f"{found.claim.text} ({found.part}). {found.judged.said} Source: {found.claim.source}."
                    for found in one.findings.claims)  # fmt: skip
    parts += ["## What each claim rests on", bullets(reasons)]
    for label, table in said.arms:
        parts += [f"## Arms at {plain(label)}", grid(table)]
    if said.unfinished:
        parts += ["## Not finished", bullets(said.unfinished)]
    parts += ["## Protocol", bullets(said.protocol), "## To reproduce", code(said.command)]
    parts += [grid((("what", "value"), list(said.machine))), f"The same numbers for machines: {said.files}."]
    return "\n\n".join(part for part in parts if part) + "\n"


def write_study(out: Path) -> Outcome:
    """Writes study.json, report.md and report.html from what stands in the folder of a study; cheap at any moment."""
    one = outcome(out)
    said = study_facts(one)
    write_whole(out / JSON, json.dumps(to_dict(one), indent=1, ensure_ascii=False, allow_nan=False) + "\n")
    write_whole(out / "report.md", markdown(one, said))
    write_whole(out / "report.html", page("studies/study.html", said))
    return one


def rebuilt(folder: Path) -> Path:
    """Writes the report of a study again; returns the path of the page. Errors: ValueError for a damaged folder."""
    write_study(folder.absolute())
    return folder / "report.html"
