"""Trying: the trials of a search, proposed, priced, trained, compared at rungs, stopped where they fall behind."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from pennyweight.experiments.results import Row
from pennyweight.experiments.search.picking import Point, excess, score, within
from pennyweight.experiments.search.progress import Shown
from pennyweight.experiments.search.space import Candidate, count
from pennyweight.experiments.search.trainings import Trainings
from pennyweight.experiments.standings import counted_loss
from pennyweight.experiments.wording import percent
from pennyweight.recipes import Recipe
from pennyweight.training import Run

if TYPE_CHECKING:
    from pennyweight.experiments.search.study import Study, Trial

IDLE = 24  # proposals in a row that need no training: nothing cheaper is proposed any more
SHORT_OF = 1e-9  # of the cost: so much less is not cheaper


@dataclass
class Trying:
    """Runs trials of a study until enough are trained. `share`: a candidate's cost as a share of bf16's, or None."""

    base: Run
    study: "Study"
    trainings: Trainings
    shown: Shown
    reference: Row  # bf16 with the seed of the search
    limit: float  # percent
    share: Callable[[Candidate], float | None]
    tried: Mapping[str, Sequence[str]]
    layers: Sequence[str]
    live: dict[str, tuple[int, Candidate, set[int]]] = field(default_factory=dict)  # number, candidate, steps told
    stopped: set[str] = field(default_factory=set)
    _over: Point | None = None

    def __call__(self, trials: int, deadline: float | None) -> None:
        """Until `trials` are trained, the time is over, or nothing cheaper is proposed. Errors: those of `ended`."""
        losses = dict(map(tuple, self.reference["validation"]))
        self.study.halve(self.base.evaluation.every)
        self.shown.begin(self.done())
        idle = 0
        while True:
            while (
                len(self.trainings.running) < self.trainings.room
                and self.done() + len(self.live) < trials
                and idle < min(IDLE, 2 * count(self.tried))
                and not self.is_over()
                and (deadline is None or time.monotonic() < deadline)
            ):
                idle = 0 if self.begin() else idle + 1
            if not self.trainings.running:
                return
            for key, run, row in self.trainings.ended():
                self.take(key, run, row, losses)
            for key in list(self.live):
                self.look(key, losses)

    def done(self) -> int:
        """How many trials were trained, to their end or until they were stopped."""
        return sum(is_trained(one) for one in self.study.trials() if one.state != "running")

    def points(self) -> list[Point]:
        """The trials that reached their end."""
        found = [one for one in self.study.trials() if one.state == "finished"]
        return [Point(one.candidate.name, one.notes["share"], one.notes["difference"]) for one in found]

    def recipe_of(self, name: str) -> Recipe:
        """The recipe of the candidate of this name."""
        return next(one.candidate for one in self.study.trials() if one.candidate.name == name).recipe(self.layers)

    def best(self) -> Point | None:
        """The cheapest within the limit so far."""
        return next(iter(within(self.points(), self.limit)), None)

    def is_over(self) -> bool:
        """Whether the cheapest within the limit is that, and no change of one of its components is cheaper."""
        best = self.best()
        if best is None or best == self._over:
            return best is not None
        own = next(one.candidate for one in self.study.trials() if one.candidate.name == best.name)
        others = (replace(own, **{name: option}) for name, every in self.tried.items() for option in every)
        prices = [self.share(one) for one in others if one != own]
        if any(price is not None and price < best.cost * (1 - SHORT_OF) for price in prices):
            return False
        self.shown.say(f"no change of a single component of {best.name} is cheaper")
        self._over = best
        return True

    def begin(self) -> bool:
        """Asks for one more candidate and trains it, where that can tell anything; returns whether it does."""
        number, candidate = self.study.ask(self.tried, self.base.seed)
        share = self.share(candidate)
        if why := self.needless(number, candidate, share):
            self.study.note(number, name=candidate.name, share=share, why=why)
            self.study.stop(number)
            return False
        self.study.note(number, name=candidate.name, share=share, trained=True)
        key = f"trial-{number}"
        self.live[key] = (number, candidate, set())
        self.trainings.start(key, replace(self.base, recipe=candidate.recipe(self.layers)))
        return True

    def needless(self, number: int, candidate: Candidate, share: float | None) -> str | None:
        """Why a candidate need not be trained; None where it must be."""
        if share is None:
            return "cannot be built"
        others = [one for one in self.study.trials() if one.number != number and is_trained(one)]
        if any(one.candidate == candidate and one.state != "failed" for one in others):
            return "tried before"
        if share >= 1 - SHORT_OF:
            return "not cheaper than bf16"
        best = self.best()
        if best is not None and share >= best.cost * (1 - SHORT_OF):
            return f"not cheaper than {best.name}"
        return None

    def look(self, key: str, losses: Mapping[int, float]) -> None:
        """Tells the study how far a trial is that is under way, and stops it where it falls behind at a rung."""
        number, _, told = self.live[key]
        for step, loss in self.trainings.evaluations(key):
            if step in told or not 0 < step < self.base.steps:
                continue
            told.add(step)
            difference = 100 * (loss / losses[step] - 1)
            self.study.note(number, difference=difference, step=step)
            if self.study.report(number, step, excess(difference, self.limit)):
                self.stop(key, f"halved at step {step}")
                return

    def stop(self, key: str, why: str) -> None:
        """Ends a trial that is under way."""
        number, candidate, _ = self.live.pop(key)
        self.trainings.kill(key)
        self.stopped.add(key)
        self.study.note(number, why=why)
        self.study.stop(number)
        self.tell(candidate, why)

    def take(self, key: str, run: Run, row: Row, losses: Mapping[int, float]) -> None:
        """Writes down what a trial came to, and stops those under way that cannot be cheaper any more."""
        if key in self.stopped:
            self.trainings.forget(run)
            return
        for step, loss in row.get("validation", ()):  # a short run may end before it was looked at
            if step in losses and 0 < step < self.base.steps and step not in self.live[key][2]:
                difference = 100 * (loss / losses[step] - 1)
                self.study.report(self.live[key][0], step, excess(difference, self.limit))
        number, candidate, _ = self.live.pop(key)
        if row["status"] != "finished":
            why = f"{row['status']}: {row['error']}"
            self.study.note(number, why=why)
            self.study.stop(number, failed=row["status"] == "failed")
            self.tell(candidate, why)
            return
        difference = 100 * (counted_loss(row) / self.reference["val_loss"] - 1)
        share = next(one for one in self.study.trials() if one.number == number).notes["share"]
        self.study.note(number, difference=difference, step=run.steps)
        self.study.finish(number, score(share, difference, self.limit))
        self.tell(candidate, f"{percent(difference)} at {share:.3f} of bf16's cost")
        best = self.best()
        for other, (_, one, _) in list(self.live.items()):
            price = self.share(one)
            if best is not None and price is not None and price >= best.cost * (1 - SHORT_OF):
                self.stop(other, f"not cheaper than {best.name}")

    def tell(self, candidate: Candidate, said: str) -> None:
        """Shows that a trial ended so."""
        best = self.best()
        self.shown.trial(self.done(), f"{candidate.name}: {said}", f"{best.name} ({best.cost:.3f})" if best else "none")


def is_trained(one: "Trial") -> bool:
    """Whether a trial trained at all, and was not asked for again after its search died."""
    return bool(one.notes.get("trained")) and one.notes.get("why") != "killed"
