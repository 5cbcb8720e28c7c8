"""Conduct: a sweep from what is asked to its results: built whole, then cell after cell, resumable at any moment."""

import os
import sys
import time
from collections.abc import Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from pennyweight.data import prepare
from pennyweight.experiments.results import Row
from pennyweight.experiments.sweep.axes import read_axes
from pennyweight.experiments.sweep.engines import Engine, Processes
from pennyweight.experiments.sweep.folder import check_place, drop_checkpoints, settle, write_out
from pennyweight.experiments.sweep.grid import Cell, CellsNotBuilt, build, label
from pennyweight.experiments.sweep.on_ray import Cluster
from pennyweight.experiments.sweep.progress import Shown
from pennyweight.experiments.sweep.store import DIVERGED, FAILED, FINISHED, WAITING, Store
from pennyweight.experiments.worker import Answer
from pennyweight.spelling import choose
from pennyweight.training import DiskFull, Run, TrainingFailed, resolved
from pennyweight.training.folder import RESULT, RUNS, STORE, claimed
from pennyweight.training.limits import check_text
from pennyweight.training.progress import teller

ENGINES = ("processes", "ray")
MOST_JOBS = 4  # unless --jobs says so: each cell is a process with a model of its own
REPORT_SECONDS = 15.0  # between two reports while cells run; the store is written at every change
WAIT_SECONDS = 0.5


def sweep(
    grid: Sequence[str], base: Run | None = None, *, seeds: int = 1, out: Path | str, jobs: int | None = None,
    threads: int | None = None, on: str = "processes", address: str | None = None, retry: bool = False,
    progress: bool = True,
) -> list[Row]:  # fmt: skip
    """Trains every cell of a grid: each combination of the axes' values with the seeds 0 ... seeds - 1.

    grid:    axes as text, "weights=none,8,4" "optimizer.lr=1e-3,3e-4": components, how they are written
             (granularity, rounding, weights.granularity ...), `recipe`, and every path that `with_settings` takes.
    out:     holds results.sqlite (see `store`), results.json, report.html, report.md and runs/<cell>/. The same call
             goes on where it stopped; another grid of the same base run adds its cells.
    jobs:    cells at once; it decides no number. None: one a core, at most MOST_JOBS; on Ray as many as fit.
    threads: of each cell, kept with the sweep, since sums of other threads are other numbers. None: cores / jobs.
    on:      "processes" of this machine, or "ray": tasks of the cluster at `address` (None: one of this machine).
    retry:   cells that failed run again, from their last checkpoint.

    A run without checkpoint.every saves ten times; a finished cell keeps its model and no checkpoint.
    Errors: ValueError, FileNotFoundError, FileExistsError before anything is written (CellsNotBuilt holds a sentence
    for each cell that cannot be); DiskFull with all that is done in place; KeyboardInterrupt, saved.
    """
    base = replace(resolved(base or Run()), seed=0)
    cells = build(base, read_axes(grid, base), seeds=seeds)
    return train_cells(
        cells, base, out=out, jobs=jobs, threads=threads, on=on, address=address, retry=retry, progress=progress
    )


def train_cells(
    cells: Sequence[Cell], base: Run, *, out: Path | str, jobs: int | None = None, threads: int | None = None,
    on: str = "processes", address: str | None = None, retry: bool = False, progress: bool = True,
) -> list[Row]:  # fmt: skip
    """Trains cells that were chosen one by one, variations of `base`; all else is as `sweep` says."""
    out = Path(out).absolute()
    _check_numbers(jobs=jobs, threads=threads)
    choose("the engine of a sweep (--on)", on, ENGINES)
    if address is not None and on != "ray":
        raise ValueError(f"--address is where a Ray cluster is, but this sweep runs on {on}; add --on ray")
    threads = check_place(out, base, threads) or threads or max(1, cores() // (jobs or usual_jobs()))
    _check_texts(cells, out, progress)
    room = jobs if on == "ray" else min(jobs or usual_jobs(), len(cells))
    make = Cluster(address, room=room, threads=threads) if on == "ray" else Processes(room or 1)
    try:
        with claimed(out, "sweep runs"):
            return _carried_out(make, cells, base, out, threads=threads, retry=retry, progress=progress)
    finally:
        make.close(at_once=True)


def _check_numbers(**given: int | None) -> None:
    for name, number in given.items():
        if number is not None and number < 1:
            raise ValueError(f"sweep wants {name} of 1 or more, got {name}={number}")


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def usual_jobs() -> int:
    """Cells at once: one on a GPU, else one a core while they are few, for small models gain little from threads."""
    return 1 if torch.cuda.is_available() else min(cores(), MOST_JOBS)


def _check_texts(cells: Sequence[Cell], out: Path, progress: bool) -> None:
    """Prepares every text once, and makes sure that it is long enough. Errors: those of `prepare`; CellsNotBuilt."""
    tell = teller("sweep", progress=progress)
    corpora = {}
    reasons: dict[str, str] = {}
    for cell in cells:
        if (out / RUNS / cell.folder / RESULT).is_file():
            continue  # finished earlier: the text may be gone
        data = cell.run.data
        key = (data.source, data.tokenizer, data.validation)
        if key not in corpora:
            corpora[key] = prepare(data.source, tokenizer=data.tokenizer, validation=data.validation, progress=tell)
        try:
            check_text(cell.run, corpora[key])
        except ValueError as error:
            reasons.setdefault(cell.label, f"{cell.label} cannot be built: {error}")
    if reasons:
        raise CellsNotBuilt(list(reasons.values()))


def _carried_out(
    engine: Engine, cells: Sequence[Cell], base: Run, out: Path, *, threads: int, retry: bool, progress: bool
) -> list[Row]:
    with closing(Store(out / STORE)) as store:
        store.begin(base, threads)
        check_place(out, base, threads)  # another sweep may have begun there since it was looked at
        store.add(cells)
        settle(store, out)
        if retry:
            store.again(FAILED)
        conductor = _Conductor(engine, store, out, threads, progress)
        try:
            conductor.run()
        except (KeyboardInterrupt, DiskFull, OSError):
            conductor.stop()
            raise
        write_out(store, out)
        return store.rows(RUNS)


@dataclass
class _Conductor:
    """Hands cells to an engine and writes down what they came to."""

    engine: Engine
    store: Store
    out: Path
    threads: int
    progress: bool
    running: dict[str, tuple[Run, str]] = field(default_factory=dict)
    written: float = field(default_factory=time.monotonic)

    def run(self) -> None:
        """Until no cell waits. Errors: DiskFull, KeyboardInterrupt, with cells still running."""
        waiting = self.store.of_status(WAITING)
        self.shown = self._shown()
        try:
            while waiting or self.running:
                while waiting and len(self.running) < self.engine.room:
                    self._start(waiting.pop(0))
                for cell, answer in self.engine.ended(WAIT_SECONDS):
                    self._take(cell, answer)
                self.shown.look()
                self._write()
        finally:
            self.shown.close()

    def _shown(self) -> Shown:
        rows = self.store.rows(RUNS)
        steps = {row["cell"]: row["run"]["steps"] for row in rows}
        done = [row for row in rows if row["status"] != WAITING]
        shown = Shown(
            len(rows), sum(steps.values()), done=len(done), steps=sum(steps[row["cell"]] for row in done),
            progress=self.progress,
        )  # fmt: skip
        shown.say(f"sweep: {len(rows)} cells, {len(done)} of them done earlier; threads of each: {self.threads}")
        return shown

    def _start(self, cell: str) -> None:
        run, name = self.store.cell(cell)
        folder = self.out / RUNS / name
        self.store.start(cell)
        self.engine.start(cell, run, folder, self.threads)
        self.running[cell] = (run, name)
        self.shown.begin(cell, folder)

    def _take(self, cell: str, answer: Answer) -> None:
        """Writes down what a cell came to. Errors: DiskFull, KeyboardInterrupt where it was stopped from outside."""
        run, name = self.running.pop(cell)
        if answer.get("disk_full"):
            self.store.end(cell, WAITING, reason="disk full")
            raise DiskFull(str(answer["error"]))
        if answer.get("interrupted"):
            self.store.end(cell, WAITING, reason="interrupted")
            raise KeyboardInterrupt
        status, reason = FINISHED, None
        if "result" in answer:
            self.store.end(cell, FINISHED, result=answer["result"])
            drop_checkpoints(self.out / RUNS / name)
        else:
            status = DIVERGED if answer.get("status") == DIVERGED else FAILED
            reason = str(answer["error"])
            self.store.end(cell, status, reason=reason)
        axes = tuple(self.store.axes(cell).items())
        said = f"{label(str(run.recipe), axes)}, seed {run.seed}"
        self.shown.end(cell, said, status, run.steps, reason)

    def _write(self) -> None:
        if time.monotonic() - self.written > REPORT_SECONDS:
            write_out(self.store, self.out)
            self.written = time.monotonic()

    def stop(self) -> None:
        """Has the running cells save and end, and writes down what they came to, as far as there is room."""
        if self.running and self.progress:
            print("sweep: the cells that run save and end", file=sys.stderr, flush=True)
        for cell, answer in self.engine.close():
            ended = "result" in answer or answer.get("status") == DIVERGED
            with suppress(DiskFull, TrainingFailed, KeyboardInterrupt):  # one that was stopped as it began says nothing
                self._take(cell, answer if ended else {"interrupted": True})
        with suppress(OSError, TrainingFailed):
            write_out(self.store, self.out)
