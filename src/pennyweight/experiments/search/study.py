"""The study: Optuna proposes candidates, halves them at the rungs, and remembers every trial on the disk."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import CategoricalDistribution
from optuna.exceptions import StorageInternalError
from optuna.trial import TrialState
from sqlalchemy.exc import SQLAlchemyError

from pennyweight.experiments.search.space import Candidate, read
from pennyweight.experiments.sweep.store import NO_ROOM
from pennyweight.training import DiskFull, TrainingFailed

NAME = "search"  # of the study in its file
HALVED = 2  # of the candidates at a rung, one in so many goes on
STATES = {"COMPLETE": "finished", "PRUNED": "pruned", "FAIL": "failed", "RUNNING": "running", "WAITING": "waiting"}


@dataclass(frozen=True)
class Trial:
    """One trial as it stands. notes: what was written down of it (cost, difference, step, why ...)."""

    number: int
    candidate: Candidate
    state: str
    value: float | None
    reports: dict[int, float]  # step -> how far over the limit, in percent
    notes: dict[str, Any] = field(default_factory=dict)


@contextmanager
def written(path: Path) -> Iterator[None]:
    """Says what a file of trials has that cannot be written. Errors: DiskFull, TrainingFailed; what it held stands."""
    try:
        yield
    except (StorageInternalError, SQLAlchemyError) as error:
        told = error.__cause__ if isinstance(error, StorageInternalError) else error
        reason = getattr(told, "orig", None) or told or error
        full = getattr(reason, "sqlite_errorcode", 0) & 0xFF in NO_ROOM
        kind = DiskFull if full else TrainingFailed
        raise kind(f"{path} could not be written: {reason}; what it held stands") from None


class Study:
    """Trials in one SQLite file of Optuna's own. Closed when it is left; a process that dies leaves it whole.

    Source: TPE, Bergstra et al. 2011; asynchronous successive halving, Li et al., arXiv:1810.05934; both as Optuna has
            them. Ancestor: none of either is random search, every trial to its end.
    """

    def __init__(self, path: Path) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._storage = optuna.storages.RDBStorage(f"sqlite:///{path}")
        self._study = optuna.create_study(
            storage=self._storage, study_name=NAME, direction="minimize", load_if_exists=True
        )

    def close(self) -> None:
        """Gives the file back."""
        self._storage.remove_session()
        self._storage.engine.dispose()

    @property
    def said(self) -> dict[str, Any]:
        """What was written down of the whole search."""
        return dict(self._study.user_attrs)

    def say(self, name: str, value: Any) -> None:
        """Writes something down, as plain JSON."""
        self._study.set_user_attr(name, value)

    def halve(self, every: int) -> None:
        """Compares at step `every`, at twice that, and so on."""
        self._study.pruner = optuna.pruners.SuccessiveHalvingPruner(min_resource=every, reduction_factor=HALVED)

    def again(self) -> None:
        """Trials that ran when their search died are asked for again, first of all."""
        died = [one for one in self._study.get_trials(deepcopy=False) if one.state == TrialState.RUNNING]
        for one in died:
            self.note(one.number, why="killed")
            self._study.tell(one.number, state=TrialState.FAIL)
            self._study.enqueue_trial(one.params)

    def enqueue(self, candidates: Sequence[Candidate]) -> None:
        """These are tried first, in their order."""
        for one in candidates:
            self._study.enqueue_trial(one.to_dict())

    def ask(self, tried: Mapping[str, Sequence[str]], seed: int) -> tuple[int, Candidate]:
        """The number of a new trial and its candidate. What is proposed depends on the trials before and on `seed`."""
        number = len(self._study.get_trials(deepcopy=False))
        self._study.sampler = optuna.samplers.TPESampler(seed=(seed + number) % 2**32)
        kinds = {name: CategoricalDistribution(tuple(values)) for name, values in tried.items()}
        trial = self._study.ask(dict(kinds))
        return trial.number, read(trial.params)

    def note(self, number: int, **notes: Any) -> None:
        """Writes down something of a trial, as plain JSON."""
        trial = self._trial(number)
        for name, value in notes.items():
            trial.set_user_attr(name, value)

    def report(self, number: int, step: int, value: float) -> bool:
        """Tells how far over the limit a trial is at a step; returns whether it should stop there."""
        trial = self._trial(number)
        trial.report(value, step)
        return trial.should_prune()

    def finish(self, number: int, value: float) -> None:
        """A trial reached its end, worth `value`."""
        self._study.tell(number, value)

    def stop(self, number: int, *, failed: bool = False) -> None:
        """A trial ended before its end: pruned, or failed."""
        self._study.tell(number, state=TrialState.FAIL if failed else TrialState.PRUNED)

    def trials(self) -> list[Trial]:
        """Every trial that was begun, in the order of their numbers."""
        return [
            Trial(
                one.number, read(one.params), STATES[one.state.name], one.value, dict(one.intermediate_values),
                dict(one.user_attrs),
            )
            for one in self._study.get_trials(deepcopy=False)
            if one.state != TrialState.WAITING
        ]  # fmt: skip

    def _trial(self, number: int) -> optuna.trial.Trial:
        """The trial that runs under this number."""
        found = next(one for one in self._study.get_trials(deepcopy=False) if one.number == number)
        return optuna.trial.Trial(self._study, found._trial_id)
