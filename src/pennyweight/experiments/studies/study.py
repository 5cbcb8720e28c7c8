"""Study: what a paper claims, the runs that measure it again, and what may be said of the claim, as frozen values."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from pennyweight.experiments.statistics import Spread
from pennyweight.experiments.studies.evidence import Evidence
from pennyweight.training import Run

HOLDS, FAILS, UNTOLD = "holds", "does not hold", "cannot be told at this scale"
Side = Literal["below", "above"]  # of a limit


@dataclass(frozen=True)
class Arm:
    """One way to train, by the name that claims call it. The study gives the seeds.

    shift: added to every seed, so that the arm begins from other weights and reads in another order than its baseline
    cost:  seconds a token, in those of the first arm, on the machine of the study's author: what time is planned with
    """

    name: str
    run: Run
    shift: int = 0
    cost: float = 1.0


@dataclass(frozen=True)
class Part:
    """Arms that are judged together, each with the seeds 0 ... seeds - 1; the first arm is the baseline."""

    label: str
    arms: tuple[Arm, ...]
    seeds: int


@dataclass(frozen=True)
class Effect:
    """A measured number, the side of `limit` on which a claim wants it, and where its 95 % interval lies.

    `values` is None where no seed tells it; `diverged` of `seeds` runs broke down, which counts as above every limit
    where it is more than half of them, and lets none be below.
    """

    what: str
    values: Spread | None
    wanted: Side
    limit: float = 0.0
    unit: str = "nat"
    diverged: int = 0
    seeds: int = 0

    @property
    def side(self) -> Side | None:
        """Where the whole interval lies; None: on both sides of the limit, or unknown."""
        if 2 * self.diverged > self.seeds:
            return "above"
        if self.values is None or self.values.low is None or self.values.high is None:
            return None
        if self.values.low > self.limit:
            return "above"
        return "below" if self.values.high < self.limit and not self.diverged else None

    @property
    def answer(self) -> bool | None:
        """Whether it is as the claim wants it; None: these seeds do not tell."""
        return None if self.side is None else self.side == self.wanted


@dataclass(frozen=True)
class Judged:
    """What may be said of a claim: the verdict, one sentence that says why, and the numbers that it rests on."""

    verdict: str
    said: str
    effects: tuple[Effect, ...] = ()


def judged(*effects: Effect, said: str = "") -> Judged:
    """The verdict of some effects: holds where all are as wanted, does not where one surely is not, else untold."""
    answers = [one.answer for one in effects]
    verdict = FAILS if False in answers else HOLDS if answers and all(answers) else UNTOLD
    return Judged(verdict, said, effects)


@dataclass(frozen=True)
class Claim:
    """One claim: what is said where, and a function from what the arms of a part came to, to what may be said of it.

    `judge` returns None where the part has not the arms.
    """

    name: str
    text: str
    source: str
    judge: Callable[[Evidence], Judged | None]


@dataclass(frozen=True)
class Scale:
    """How large a study is: its steps a run, and the least that fewer minutes may make of it."""

    name: str
    steps: int
    least_steps: int
    least_seeds: int
    minutes: float  # that it takes on two idle cores of the author's machine, for the help


@dataclass(frozen=True)
class Study:
    """A paper's claims and how they are measured again.

    base:      (data, steps) -> the run that all arms vary
    parts:     (base, scale's name) -> what is trained, the most telling part first
    controls:  judged like claims; where one does not hold, no verdict is supported
    after:     measures a finished run of the first arm once more, from its folder; kept in afterwards.json
    """

    name: str
    title: str
    source: str
    scales: Mapping[str, Scale]
    base: Callable[[str, int], Run]
    parts: Callable[[Run, str], tuple[Part, ...]]
    claims: tuple[Claim, ...]
    controls: tuple[Claim, ...]
    after: Callable[[Path], dict[str, Any]] | None = None


def with_seeds(parts: tuple[Part, ...], seeds: int) -> tuple[Part, ...]:
    """The parts with at most so many seeds each."""
    return tuple(replace(part, seeds=min(part.seeds, seeds)) for part in parts)
