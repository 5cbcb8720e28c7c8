"""Conduct: a search from what is asked to the cheapest recipe whose loss stays within a budget, confirmed."""

import importlib.util
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from pennyweight.data import prepare
from pennyweight.experiments.search.confirm import Confirmed, confirm
from pennyweight.experiments.search.costs import TARGETS, Costs
from pennyweight.experiments.search.folder import asked_of, check_place
from pennyweight.experiments.search.outcome import Outcome
from pennyweight.experiments.search.picking import within
from pennyweight.experiments.search.progress import Shown
from pennyweight.experiments.search.report import write_outcome
from pennyweight.experiments.search.sensitivity import Sensitivity, sensitivity
from pennyweight.experiments.search.space import OPTIONS, Candidate, bisected, options, staircase
from pennyweight.experiments.search.trainings import Trainings
from pennyweight.experiments.search.trying import Trying
from pennyweight.experiments.sweep.conduct import cores, usual_jobs
from pennyweight.experiments.sweep.grid import CHECKPOINTS
from pennyweight.recipes import Recipe, names, recipe
from pennyweight.spelling import choose
from pennyweight.training import Diagnosis, Run, TrainingFailed, check, differences, resolved
from pennyweight.training.folder import TRIALS, claimed
from pennyweight.training.limits import check_text
from pennyweight.training.progress import teller

if TYPE_CHECKING:
    from pennyweight.experiments.search.study import Study

RUNGS = 8  # parts of a run, the first of which ends at the first rung
SPARE_NAMED = ("bf16", "fp32")  # named recipes that are no cheaper than the baseline, being it or above


def search(
    base: Run | None = None, *, loss_budget: float, minimise: str = "memory", trials: int = 24,
    minutes: float | None = None, seeds: int = 3, out: Path | str, jobs: int | None = None,
    threads: int | None = None, progress: bool = True,
) -> Outcome:  # fmt: skip
    """Finds the recipe of least cost whose validation loss is at most `loss_budget` above bf16's, as a share of it.

    base:     what is trained; its recipe is bf16, its seed that of the search.
    minimise: "memory" (bytes that a step holds, predicted exactly), "time" (of a step, measured in turn with bf16) or
              "bits" (mean bits a number over weights, moments and kept activations).
    trials:   candidates trained at most, halved at the rungs: steps/8, /4, /2. minutes: after which none is begun.
    seeds:    fresh ones, seed + 1 ..., on which the cheapest within the budget is held against bf16, then the next.
    out:      holds search.sqlite (Optuna's), search.json, results.json, report.html, report.md, runs/ and
              found/run.json, which replays. The same call goes on where it stopped; finished runs are not run again.
    jobs, threads: runs at once, and threads of each, kept with the search; minimise="time" runs one at a time.

    Memory and bits are known before a training: what cannot be cheaper than the cheapest within the budget so far is
    not trained. Errors: ValueError, FileExistsError, FileNotFoundError before anything is written; TrainingFailed where
    bf16 itself fails; DiskFull, KeyboardInterrupt, with all that is done in place.
    """
    _check_asked(loss_budget, minimise, jobs=jobs, threads=threads, trials=trials, seeds=seeds, minutes=minutes)
    base, out = _base(base or Run()), Path(out).absolute()
    check(base)
    check_optuna()
    jobs = 1 if minimise == "time" else jobs or usual_jobs()
    asked = {"base": base.to_dict(), "loss_budget": loss_budget, "minimise": minimise}
    kept = check_place(out, asked, threads)
    asked["threads"] = kept or threads or max(1, cores() // jobs)
    tell = teller("search", progress=progress)
    data = base.data
    corpus = prepare(data.source, tokenizer=data.tokenizer, validation=data.validation, progress=tell)
    check_text(base, corpus)
    from pennyweight.experiments.search.study import Study, written  # Optuna, which only this one needs

    with claimed(out, "search runs"), written(out / TRIALS):
        study, trainings = Study(out / TRIALS), Trainings(out, jobs, asked["threads"])
        try:
            study.say("asked", asked)
            costs = Costs(minimise, base, corpus)
            one = _Search(base, study, trainings, costs, asked, Shown(trials, progress), seeds)
            return one.carried_out(trials, None if minutes is None else time.monotonic() + 60 * minutes)
        except BaseException:
            trainings.close()
            raise
        finally:
            trainings.close(at_once=True)
            study.close()


def belongs(out: Path, base: Run, loss_budget: float, minimise: str) -> bool:
    """Whether `out` holds the search that this one goes on with. Errors: those of what is no base of a search."""
    there = asked_of(out)
    if there is None or (there["loss_budget"], there["minimise"]) != (loss_budget, minimise):
        return False
    return not differences(Run.from_dict(there["base"]), _base(base))


def check_optuna() -> None:
    """Errors: ValueError where Optuna is not installed."""
    if importlib.util.find_spec("optuna") is None:
        raise ValueError("search wants Optuna, which is not installed here: pip install 'pennyweight[search]'")


def _check_asked(budget: float, target: str, *, minutes: float | None, **counts: int | None) -> None:
    if not 0 < budget <= 1:
        raise ValueError(
            "the loss budget is a share of bf16's validation loss, above 0 and at most 1 (0.01: one percent more), "
            f"got {budget:g}" + (f"; did you mean {budget / 100:g}?" if 1 < budget <= 100 else "")
        )
    choose("what a search minimises (--minimise)", target, TARGETS)
    if target == "time" and (counts["jobs"] or 1) > 1:
        raise ValueError(f"--minimise time runs one training at a time, got jobs={counts['jobs']}; leave --jobs out")
    for name, number in counts.items():
        if number is not None and number < 1:
            raise ValueError(f"search wants {name} of 1 or more, got {name}={number}")
    if minutes is not None and not minutes > 0:
        raise ValueError(f"search wants minutes above 0, got minutes={minutes:g}")


def _base(base: Run) -> Run:
    """The run in bf16 with its rungs. Errors: ValueError for another recipe, and for too few steps."""
    base = resolved(base)
    if str(base.recipe) != "bf16":
        raise ValueError(f"search begins from bf16 and finds the recipe itself, got recipe={base.recipe}")
    every = base.evaluation.every or base.steps // RUNGS
    if not 0 < every < base.steps:
        raise ValueError(
            f"halving wants a rung before the end, but {base.steps} steps have none: they are measured "
            f"every {base.evaluation.every or f'1/{RUNGS}'}; take {RUNGS} steps or more, or a smaller evaluation.every"
        )
    saved = base.checkpoint.every or -(-base.steps // CHECKPOINTS)
    return replace(
        base, evaluation=replace(base.evaluation, every=every), checkpoint=replace(base.checkpoint, every=saved),
        diagnosis=Diagnosis(every=0, fidelity_every=0),
    )  # fmt: skip


@dataclass(frozen=True)
class _Search:
    """The phases of one search: bf16, sensitivity, trials, confirmation."""

    base: Run
    study: "Study"
    trainings: Trainings
    costs: Costs
    asked: dict[str, Any]
    shown: Shown
    seeds: int  # fresh ones

    @property
    def limit(self) -> float:
        """The loss budget in percent."""
        return 100 * float(self.asked["loss_budget"])

    def carried_out(self, trials: int, deadline: float | None) -> Outcome:
        """All of it; what is there already is read."""
        self.shown.say("bf16 first, which all is measured against")
        [reference] = self.trainings.all([self.base])
        if reference["status"] != "finished":
            raise TrainingFailed(f"bf16 itself has no result, so there is nothing to search from: {reference['error']}")
        seen = self._sensitivity()
        tried = options(seen.noise)
        trying = Trying(
            self.base, self.study, self.trainings, self.shown, reference, self.limit,
            lambda one: self._share(one, seen), tried, seen.layers,
        )  # fmt: skip
        if "planned" not in self.study.said:
            self._plan(seen, tried, trying)
        self.study.again()
        trying(trials, deadline)
        chosen = [trying.recipe_of(point.name) for point in within(trying.points(), self.limit)]
        self.shown.say(f"within the budget on the seed of the search: {len(chosen)}; fresh seeds decide")
        confirmed = self._confirm([(one, self._cost(one)) for one in chosen])
        named, table = self._named()
        outcome = Outcome.of(
            base=self.base, asked=self.asked, trials=self.study.trials(), confirmed=confirmed, named=named,
            named_costs=table, sensitivity=seen, seeds=self.seeds,
        )  # fmt: skip
        write_outcome(outcome, self.trainings.out)
        return outcome

    def _sensitivity(self) -> Sensitivity:
        said = self.study.said
        if "sensitivity" in said:
            return Sensitivity.from_dict(said["sensitivity"])
        self.shown.say("what each component would lose in each format, on a short bf16 run")
        before = torch.get_num_threads()
        torch.set_num_threads(self.asked["threads"])
        found = sensitivity(self.base, self.costs.corpus, OPTIONS)
        torch.set_num_threads(before)
        self.study.say("sensitivity", found.to_dict())
        return found

    def _cost(self, chosen: Recipe) -> float:
        """The cost of a recipe, kept with the study, for what a clock told is told once. Errors: ValueError."""
        known = self.study.said.get("costs", {})
        if str(chosen) not in known:
            known = {**known, str(chosen): self.costs(chosen)}
            self.study.say("costs", known)
        return known[str(chosen)]

    def _share(self, one: Candidate, seen: Sensitivity) -> float | None:
        """A candidate's cost as a share of bf16's; None where it cannot be built."""
        try:
            return self._cost(one.recipe(seen.layers)) / self._cost(recipe("bf16"))
        except ValueError:
            return None

    def _plan(self, seen: Sensitivity, tried: dict[str, tuple[str, ...]], trying: Trying) -> None:
        """Has the way down from all-bf16 tried first, in halves."""
        path = staircase(seen.noise, tried, trying.share, alone=self.asked["minimise"] != "time")
        self.study.enqueue(bisected(path))
        self.study.say("planned", [one.to_dict() for one in path])

    def _confirm(self, chosen: Sequence[tuple[Recipe, float]]) -> list[Confirmed]:
        """These recipes on the fresh seeds, until one is within the budget."""
        fresh = [self.base.seed + 1 + place for place in range(self.seeds)]
        return confirm(self.base, chosen, fresh, self.limit, self.trainings, self.shown, self._cost(recipe("bf16")))

    def _named(self) -> tuple[list[Confirmed], dict[str, float]]:
        """The named recipes from the cheapest on until one is within the budget, and what each of all costs."""
        costs: dict[str, float] = {}
        for name in names():
            try:
                costs[name] = self._cost(recipe(name))
            except ValueError:
                continue  # this model cannot have it
        bf16 = costs["bf16"]
        order = sorted(
            (name for name in costs if costs[name] < bf16 and name not in SPARE_NAMED), key=costs.__getitem__
        )
        self.shown.say("named recipes on the same seeds, the cheapest first, until one is within the budget")
        return self._confirm([(recipe(name), costs[name]) for name in order]), costs
