"""Conduct: a study from what is asked to its verdicts: planned, trained cell by cell, measured once more, judged."""

import json
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from pennyweight.data import prepare
from pennyweight.experiments.heat import looks_of
from pennyweight.experiments.results import Row
from pennyweight.experiments.studies.evidence import Evidence
from pennyweight.experiments.studies.findings import Findings, find
from pennyweight.experiments.studies.planning import Plan, check_epochs, fitted, key, planned, probe, whole
from pennyweight.experiments.studies.quantized_pretraining import STUDY as QUANTIZED_PRETRAINING
from pennyweight.experiments.studies.study import Part, Study
from pennyweight.experiments.sweep import train_cells
from pennyweight.experiments.sweep.conduct import usual_jobs
from pennyweight.experiments.sweep.store import DIVERGED, FINISHED, Store
from pennyweight.spelling import choose
from pennyweight.training import Run, resolved
from pennyweight.training.files import write_whole
from pennyweight.training.folder import PLAN, RUNS, STORE, check_kind, claimed
from pennyweight.training.progress import teller

STUDIES: tuple[Study, ...] = (QUANTIZED_PRETRAINING,)
AFTER, SWEEP = "afterwards.json", "sweep"
KEPT = {  # what plan.json says at least
    "scale": str, "data": str, "minutes": (int, float, type(None)), "steps": int, "seeds": list, "left_out": str,
}  # fmt: skip


@dataclass(frozen=True)
class Outcome:
    """What a study came to, or how far it is: its plan, its runs as they stand, and what follows from them."""

    study: Study
    asked: dict[str, Any]  # plan.json
    plan: Plan
    rows: list[Row]
    evidence: tuple[tuple[str, Evidence], ...]
    findings: Findings

    @property
    def done(self) -> int:
        """Runs that ended: finished or diverged."""
        return sum(row["status"] in (FINISHED, DIVERGED) for row in self.rows)


def named(name: str) -> Study:
    """The study of this name. Errors: ValueError with the nearest one."""
    known = {one.name: one for one in STUDIES}
    choose("the study", name, tuple(known))
    return known[name]


def study(
    chosen: Study, *, scale: str = "quick", data: str = "stdlib", minutes: float | None = None, jobs: int | None = None,
    threads: int = 1, out: Path | str, retry: bool = False, progress: bool = True,
) -> Outcome:  # fmt: skip
    """Trains what a study needs, in `out`/sweep, and says of each claim whether it holds.

    The same call goes on where it stopped; more seeds of the same runs are added to those that are there.
    minutes: that it may take (see `planning.fitted`; how fast this machine is, is measured first); None: the scale's.
    jobs:    runs at once; it decides no number. threads: of each run.
    Errors: ValueError, FileExistsError, FileNotFoundError before anything is trained; KeyboardInterrupt with all that
    is done saved, as DiskFull.
    """
    out = Path(out).absolute()
    choose("the scale of a study", scale, tuple(chosen.scales))
    jobs = usual_jobs() if jobs is None else jobs
    if threads < 1 or jobs < 1:
        raise ValueError(f"study wants jobs and threads of 1 or more, got jobs={jobs}, threads={threads}")
    before = _earlier(out, chosen)
    base = resolved(chosen.base(data, chosen.scales[scale].steps))
    tell = teller(f"study {chosen.name}", progress=progress)
    text = base.data
    corpus = prepare(text.source, tokenizer=text.tokenizer, validation=text.validation, progress=tell)
    asked = {"study": chosen.name, "scale": scale, "data": text.source, "minutes": minutes}
    if before is not None and {name: before[name] for name in asked} == asked:
        asked = before
        plan = _plan(chosen, asked)
    else:
        plan = _fresh(chosen, scale, base, minutes=minutes, jobs=jobs, threads=threads)
        asked |= {"steps": plan.base.steps, "seeds": [part.seeds for part in plan.parts], "left_out": plan.left_out}
    asked |= {"epochs": check_epochs(plan, corpus), "data_hash": corpus.hash, "threads": threads}
    if plan.left_out:
        tell(plan.left_out)
    tell(f"{len(plan.cells())} runs of {plan.tokens:,} tokens, {asked['epochs']:.2f} times the text")
    _check_same(out, before, asked)
    with claimed(out, "study runs"):
        _check_same(out, _earlier(out, chosen), asked)  # another one may have begun there since it was looked at
        write_whole(out / PLAN, json.dumps(asked, indent=1) + "\n")
        train_cells(
            plan.cells(), plan.base, out=out / SWEEP, jobs=jobs, threads=threads, retry=retry, progress=progress
        )
        _measure_afterwards(chosen, plan, out, threads, progress=progress)
        return outcome(out)


def _fresh(chosen: Study, scale: str, base: Run, *, minutes: float | None, jobs: int, threads: int) -> Plan:
    """The plan of a study that is asked for the first time."""
    how = chosen.scales[scale]
    if minutes is None:
        return whole(chosen, how, base.data.source)
    if not minutes > 0:
        raise ValueError(f"study wants minutes above 0, got {minutes:g}")
    rate = probe(base, threads)
    return fitted(chosen, how, base.data.source, minutes=minutes, tokens_per_second=rate, jobs=jobs)


def _plan(chosen: Study, asked: dict[str, Any]) -> Plan:
    return planned(
        chosen, chosen.scales[asked["scale"]], asked["data"], asked["steps"], asked["seeds"], asked["left_out"]
    )


def _earlier(out: Path, chosen: Study | None = None) -> dict[str, Any] | None:
    """What was asked of the study that stands in `out`; None in a new folder.

    Errors: FileExistsError for a folder of something else, ValueError for one that cannot be written or read.
    """
    check_kind(out, PLAN)
    if not (out / PLAN).is_file():
        return None
    damaged = ValueError(f"{out / PLAN} is not the plan of a study; choose another folder (--out)")
    try:
        asked = json.loads((out / PLAN).read_text(encoding="utf8"))
        there = asked["study"]
    except (ValueError, TypeError, KeyError):
        raise damaged from None
    if chosen is not None and there != chosen.name:
        raise FileExistsError(f"{out} holds the study {there}, not {chosen.name}; choose another folder (--out)")
    if not all(name in asked and isinstance(asked[name], kind) for name, kind in KEPT.items()):
        raise damaged
    return asked


def _check_same(out: Path, before: dict[str, Any] | None, asked: dict[str, Any]) -> None:
    """Errors: FileExistsError where the runs that stand in `out` are of other data or another length."""
    names = ("data", "data_hash", "steps", "threads")
    told = [
        f"{name}: {before[name]} is not {asked[name]}" for name in names if before and before.get(name) != asked[name]
    ]
    if told:
        raise FileExistsError(
            f"{out} holds this study of other runs ({'; '.join(told)}); choose another folder (--out)"
        )


def _measure_afterwards(chosen: Study, plan: Plan, out: Path, threads: int, *, progress: bool) -> None:
    """Measures the finished runs of each part's first arm once more, each once."""
    if chosen.after is None:
        return
    tell = teller(f"study {chosen.name}", progress=progress)
    told = _after(out)
    firsts = {key(plan.parts, part, part.arms[0].name) for part in plan.parts}
    rows = [row for row in _rows(out) if row["axes"].get("arm") in firsts and row["status"] == FINISHED]
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for row in rows:
            if row["cell"] not in told:
                tell(f"measuring the model of {row['axes']['arm']}, seed {row['seed']}, once more")
                told[row["cell"]] = chosen.after(out / SWEEP / str(row["folder"]))
                write_whole(out / AFTER, json.dumps(told, indent=1) + "\n")
    finally:
        torch.set_num_threads(before)


def _after(out: Path) -> dict[str, Any]:
    """What was measured afterwards, by cell; of a damaged file nothing, and it is measured again."""
    try:
        told = json.loads((out / AFTER).read_text(encoding="utf8"))
    except (FileNotFoundError, ValueError):
        return {}
    return told if isinstance(told, dict) else {}


def _rows(out: Path) -> list[Row]:
    """Every run of the study as it stands; none before the first began."""
    if not (out / SWEEP / STORE).is_file():
        return []
    with closing(Store(out / SWEEP / STORE)) as store:
        return store.rows(RUNS) if store.base is not None else []


def outcome(out: Path) -> Outcome:
    """What the study in a folder came to, or how far it is, from its files alone. Errors: ValueError."""
    asked = _earlier(out)
    assert asked is not None
    chosen = named(asked["study"])
    plan, after = _plan(chosen, asked), _after(out)
    # by arm and seed, not by the hash of the run: a later version of `Run` may say the same run in more words
    wanted = {(dict(cell.axes)["arm"], cell.run.seed) for cell in plan.cells()}
    rows = [row for row in _rows(out) if (row["axes"].get("arm"), row["seed"]) in wanted]
    evidence = tuple((part.label, evidence_of(plan.parts, part, rows, after, out / SWEEP)) for part in plan.parts)
    return Outcome(chosen, asked, plan, rows, evidence, find(chosen, evidence))


def evidence_of(
    parts: Sequence[Part], part: Part, rows: Sequence[Row], after: dict[str, Any], folder: Path
) -> Evidence:
    """What the arms of one part came to, by seed; runs that are still to come or failed otherwise are left out."""
    told: dict[str, dict[int, Row]] = {}
    measured: dict[int, Any] = {}
    ended = [row for row in rows if row["status"] in (FINISHED, DIVERGED)]
    for arm in part.arms:
        mine = [row for row in ended if row["axes"].get("arm") == key(parts, part, arm.name)]
        told[arm.name] = {int(row["seed"]) - arm.shift: row for row in mine}
        if arm == part.arms[0]:
            measured = {int(row["seed"]): after[row["cell"]] for row in mine if row["cell"] in after}
    looks = {row["cell"]: looks_of(folder / str(row["folder"])) for rows in told.values() for row in rows.values()}
    return Evidence(told, lambda row: looks[row["cell"]], measured)
