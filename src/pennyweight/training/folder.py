"""The run folder: whose it is, who may write in it, and what is found there."""

import fcntl
import json
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pennyweight.training.checkpoint import checkpoints
from pennyweight.training.files import sweep, write_whole
from pennyweight.training.machine import commit, machine, versions
from pennyweight.training.result import Result
from pennyweight.training.run import Run
from pennyweight.training.settings import differences

RUN, RESULT, LEDGER, CHECKPOINTS, MODEL, LOCK = (
    "run.json",
    "result.json",
    "ledger.jsonl",
    "checkpoints",
    "model",
    ".lock",
)
RESULTS, RUNS = "results.json", "runs"  # stand in the folder of many runs and in no run's
STORE, TRIALS, WAYS, PLAN = "results.sqlite", "search.sqlite", "ways.json", "plan.json"
KINDS = {  # what a folder holds, by the first of these files that stands in it
    RUN: "a single run", STORE: "a sweep", TRIALS: "a search", WAYS: "the three ways", PLAN: "a study",
    RESULTS: "a comparison", RUNS: "a comparison",
}  # fmt: skip
logger = logging.getLogger("pennyweight.training")


def load_run(path: Path | str) -> Run:
    """The run that a run folder or a run.json describes. Errors: FileNotFoundError; ValueError for anything else."""
    path = Path(path)
    written = _read(path / RUN if path.is_dir() else path)
    return Run.from_dict(written.get("run", written))


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(f"there is no run to read at {path}: no such file")
    try:
        written = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):  # not text, not JSON, a number too long, lists too deep
        raise ValueError(f"a run is read from JSON, but {path} is not JSON") from None
    if not isinstance(written, dict) or not isinstance(written.get("run", {}), dict):
        raise ValueError(f"a run is read from a JSON object, but {path} holds something else")
    return written


def check_writable(path: Path) -> None:
    """Makes sure that files may be written into the folder `path`, which need not be there yet.

    Errors: FileExistsError where a file is in the way; ValueError where writing is not permitted.
    """
    there = next(place for place in (path, *path.absolute().parents) if os.path.exists(place))
    if not os.path.isdir(there):
        raise FileExistsError(f"results are written into a folder, but {there} is a file")
    if not os.access(there, os.W_OK | os.X_OK):
        raise ValueError(f"results cannot be written into {path}: nobody but its owner may write in {there}")


def check_kind(path: Path, own: str) -> None:
    """Makes sure that the folder `path` holds nothing, or what the file `own` of `KINDS` marks.

    Errors: FileExistsError where it holds something else, and those of `check_writable`.
    """
    check_writable(path)
    found = KINDS[mark_of(path) or own]
    if found != KINDS[own]:
        raise FileExistsError(f"{path} holds {found}; choose another folder for {KINDS[own]}")


def mark_of(path: Path) -> str | None:
    """The file of `KINDS` that tells what the folder `path` holds; None: none is there."""
    return next((mark for mark in KINDS if (path / mark).exists()), None)


@contextmanager
def claimed(path: Path, who: str) -> Iterator[None]:
    """Only one process at a time writes in the folder `path`; the claim ends with the process, however it ends.

    who: what the other one does, for the sentence: "sweep runs". Errors: FileExistsError where there is another one.
    """
    path.mkdir(parents=True, exist_ok=True)
    with (path / LOCK).open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise FileExistsError(f"another {who} in {path} right now") from None
        sweep(path)
        yield


def _result(path: Path) -> Result:
    try:
        return Result.from_dict(_read(path))
    except (KeyError, TypeError) as error:
        raise ValueError(f"{path} holds no result of a run ({error}); without it the run goes on") from None


def _another(told: str) -> str:
    """What can be done about a folder that holds another run."""
    longer = " (its schedule ends with its steps: a longer training is a run of its own)" if "steps: " in told else ""
    return f"choose another folder (--out){longer}"


@dataclass(frozen=True)
class RunFolder:
    """The folder of one run: run.json, ledger.jsonl, checkpoints/, model/ and, when it is finished, result.json."""

    path: Path

    @property
    def ledger(self) -> Path:
        """What happened in it, a line each."""
        return self.path / LEDGER

    @property
    def checkpoints(self) -> Path:
        """Where its checkpoints stand."""
        return self.path / CHECKPOINTS

    @property
    def model(self) -> Path:
        """The model that loads without Pennyweight."""
        return self.path / MODEL

    def answer(self, run: Run) -> Result | None:
        """The result of this very run, if it is here; None where there is something left to train or to refuse.

        Where its model is gone, it is written again from the last checkpoint; without one the result has to do.
        """
        if not all(os.path.isfile(self.path / name) for name in (RUN, RESULT)) or differences(load_run(self.path), run):
            return None
        result = _result(self.path / RESULT)
        if differences(Run.from_dict(result.run), run):
            return None
        if not self.model.is_dir():
            if checkpoints(self.checkpoints):
                return None
            logger.warning(
                "the model of the finished run %s is gone, and there is no checkpoint to write it from", self.path
            )
        return result

    def admit(self, run: Run, *, resume: bool) -> None:
        """Makes sure that this run may be written into the folder.

        Errors: FileExistsError when the folder holds another run (ValueError when it was to be resumed), with what
        differs; FileNotFoundError when there is nothing to resume; those of `check_writable`.
        """
        check_kind(self.path, RUN)
        if not (self.path / RUN).exists():
            if resume:
                raise FileNotFoundError(f"there is nothing to resume in {self.path}: it holds no {RUN}")
            if any((self.path / name).exists() for name in (LEDGER, CHECKPOINTS, MODEL, RESULT)):
                what = f"a {MODEL} or {CHECKPOINTS} of something else"
                raise FileExistsError(f"{self.path} holds {what}; choose another folder")
            return
        if not (told := "; ".join(differences(load_run(self.path), run))):
            return
        what = f"what it holds and what was asked: {told}; {_another(told)}"
        if resume:
            raise ValueError(f"{self.path} cannot be resumed as another run; {what}")
        raise FileExistsError(f"{self.path} already holds another run; {what}")

    @contextmanager
    def claimed(self) -> Iterator[None]:
        """Only one process at a time writes in a run folder; the claim ends with the process, however it ends.

        Errors: FileExistsError when another process trains there.
        """
        with claimed(self.path, "process trains"):
            sweep(self.checkpoints)
            yield

    def describe(self, run: Run, data_hash: str) -> None:
        """Writes run.json, which replays the run; in a folder of the same run it checks that the data is the same too.

        Warns where the run began with another number of threads, whose sums come in another order.
        Errors: ValueError for other data.
        """
        if not (self.path / RUN).exists():
            written = {"run": run.to_dict(), "data_hash": data_hash, "commit": commit()}
            written |= {"machine": machine(), "versions": versions()}
            write_whole(self.path / RUN, json.dumps(written, indent=1) + "\n")
            return
        there = _read(self.path / RUN)
        threads, now = there.get("machine", {}).get("threads"), machine()["threads"]
        if threads != now:
            logger.warning(
                "%s began with %s threads and goes on with %s: not bit for bit the same", self.path, threads, now
            )
        began = there.get("data_hash")
        if began != data_hash:
            raise ValueError(
                f"{self.path} was trained on other data (hash {str(began)[:12]}) than {run.data.source} holds now "
                f"({data_hash[:12]}), so it cannot be continued"
            )

    def finish(self, result: Result) -> None:
        """Writes result.json: from now on the folder answers (`answer`)."""
        write_whole(self.path / RESULT, json.dumps(result.to_dict(), indent=1) + "\n")
