"""Trainings: the runs of a search, several at once, each in a folder of its own that answers when it is finished."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pennyweight.experiments.compare import folder_name
from pennyweight.experiments.results import Row
from pennyweight.experiments.sweep.engines import Processes
from pennyweight.experiments.sweep.folder import drop_checkpoints
from pennyweight.experiments.worker import Answer
from pennyweight.training import DiskFull, Run, read_ledger
from pennyweight.training.folder import LEDGER, RUNS, RunFolder, wait_for_its_end

WAIT_SECONDS = 0.3


@dataclass
class Trainings:
    """Hands runs to processes and says what they came to."""

    out: Path
    room: int  # runs at once
    threads: int  # of each
    running: dict[str, Run] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._engine = Processes(self.room)
        self._finished: list[tuple[str, Run, Row]] = []

    def folder(self, run: Run) -> Path:
        """Where a run is kept."""
        return self.out / RUNS / folder_name(str(run.recipe), run.seed)

    def start(self, key: str, run: Run) -> None:
        """Begins a run, or goes on with it; one that is finished only answers."""
        folder = self.folder(run)
        if folder.is_dir():
            wait_for_its_end(folder)  # of a search that was killed: its runs save and end
        self.running[key] = run
        found = RunFolder(folder).answer(run)
        if found is not None:
            self._finished.append((key, run, {**found.to_dict(), "status": "finished"}))
        else:
            self._engine.start(key, run, folder, self.threads)

    def ended(self) -> list[tuple[str, Run, Row]]:
        """(key, run, row) of what ended since: its result, or status and error. Errors: DiskFull, KeyboardInterrupt."""
        told, self._finished = self._finished, []
        if not told:
            told = [(key, self.running[key], _row(answer)) for key, answer in self._engine.ended(WAIT_SECONDS)]
        for key, run, row in told:
            del self.running[key]
            if row["status"] == "finished":
                drop_checkpoints(self.folder(run))
        return told

    def evaluations(self, key: str) -> list[tuple[int, float]]:
        """(step, validation loss) of a run that is under way, as far as its ledger tells."""
        path = self.folder(self.running[key]) / LEDGER
        lines = read_ledger(path) if path.is_file() else []
        return [(line["step"], line["loss"]) for line in lines if line["kind"] == "evaluation" and line["loss"]]

    def kill(self, key: str) -> None:
        """Ends a run at once; `ended` will tell that it failed, and `forget` gives its disk back."""
        self._engine.kill(key)

    def forget(self, run: Run) -> None:
        """Deletes what is kept of a run that was stopped."""
        shutil.rmtree(self.folder(run), ignore_errors=True)

    def all(self, runs: Sequence[Run]) -> list[Row]:
        """Trains these to their ends and says what each came to, in their order."""
        rows: dict[str, Row] = {}
        waiting = {str(place): run for place, run in enumerate(runs)}
        asked = list(waiting)
        while len(rows) < len(runs):
            while waiting and len(self.running) < self.room:
                key = next(iter(waiting))
                self.start(key, waiting.pop(key))
            for key, _, row in self.ended():
                rows[key] = row
        return [rows[key] for key in asked]

    def close(self, *, at_once: bool = False) -> None:
        """Has what runs save and end."""
        self._engine.close(at_once=at_once)


def _row(answer: Answer) -> Row:
    """An answer as a row: the result of the run, or why there is none. Errors: DiskFull, KeyboardInterrupt."""
    if answer.get("interrupted"):
        raise KeyboardInterrupt
    if answer.get("disk_full"):
        raise DiskFull(str(answer["error"]))
    if "result" in answer:
        return {**answer["result"], "status": "finished"}
    return {"status": answer.get("status", "failed"), "error": str(answer["error"])}
