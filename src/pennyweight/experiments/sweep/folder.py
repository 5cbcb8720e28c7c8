"""The folder of a sweep: what it may hold, who may write in it, and how its cells stand after a kill."""

import fcntl
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from pennyweight.experiments.results import write
from pennyweight.experiments.sweep.report import write_report
from pennyweight.experiments.sweep.store import FINISHED, RUNNING, WAITING, Store
from pennyweight.training import Run
from pennyweight.training.folder import CHECKPOINTS, LOCK, RESULTS, RUNS, STORE, RunFolder, check_kind, check_writable
from pennyweight.training.folder import claimed as in_folder

GONE_SECONDS = 120.0  # for the cells of a sweep that was killed to save themselves and end


def is_sweep(out: Path) -> bool:
    """Whether a folder holds a sweep."""
    return (out / STORE).is_file()


def check_place(out: Path, base: Run, threads: int | None) -> int | None:
    """Makes sure that a sweep of `base` may go into `out`; the threads of a cell there, None in a new folder.

    Errors: FileExistsError for a folder of something else or of another run's sweep; ValueError for one that cannot
    be written, a file of another version, and cells with another number of threads.
    """
    check_kind(out, STORE)
    if not is_sweep(out):
        return None
    with closing(Store(out / STORE)) as store:
        told, there = store.other(base), store.threads
    if told:
        raise FileExistsError(
            f"{out} already holds a sweep of another run; what it holds and what was asked: {'; '.join(told)}; "
            "choose another folder (--out)"
        )
    if threads is not None and there is not None and there != threads:
        raise ValueError(
            f"the cells in {out} compute with {there} threads each, got threads={threads}, which would be other "
            "numbers; choose another folder (--out)"
        )
    return there


def belongs(out: Path, base: Run) -> bool:
    """Whether `out` holds a sweep to which a grid of `base` may be added."""
    if not is_sweep(out):
        return False
    with closing(Store(out / STORE)) as store:
        return not store.other(base)


@contextmanager
def claimed(out: Path) -> Iterator[None]:
    """One sweep at a time in a folder; the claim ends with the process, however it ends.

    Errors: FileExistsError when another sweep runs there.
    """
    with in_folder(out, "sweep runs"):
        yield


def settle(store: Store, out: Path) -> None:
    """Says of every cell that was running when its sweep ended what became of it: it finished, or it waits again.

    Its process may still be saving, and is waited for. Errors: FileExistsError where it does not end.
    """
    for cell in store.of_status(RUNNING):
        run, name = store.cell(cell)
        wait_for_its_end(out / RUNS / name)
        found = RunFolder(out / RUNS / name).answer(run)
        if found is None:
            store.end(cell, WAITING, reason="killed")
        else:
            store.end(cell, FINISHED, result=found.to_dict())
            drop_checkpoints(out / RUNS / name)


def wait_for_its_end(folder: Path) -> None:
    """Waits until no process trains in a run folder. Errors: FileExistsError."""
    deadline = time.monotonic() + GONE_SECONDS
    while (folder / LOCK).exists():
        with (folder / LOCK).open("a") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise FileExistsError(f"another process trains in {folder} right now") from None
        time.sleep(0.2)


def drop_checkpoints(folder: Path) -> None:
    """Gives the disk back that a finished cell does not need: its model and its numbers stay."""
    if os.path.isdir(folder / "model"):
        shutil.rmtree(folder / CHECKPOINTS, ignore_errors=True)


def write_out(store: Store, out: Path) -> None:
    """Writes results.json, report.html and report.md from what the store holds. Errors: OSError (a full disk)."""
    rows = store.rows(RUNS)
    write(rows, out / RESULTS)
    base = store.base
    assert base is not None
    write_report(rows, out, base)


def rebuilt(out: Path) -> Path:
    """Writes results.json and the report of a sweep again from its store; returns the path of the page.

    Errors: ValueError for a store of something else; FileNotFoundError for one of a sweep that never began.
    """
    check_writable(out)
    store = Store(out / STORE)
    try:
        if store.base is None:
            raise FileNotFoundError(f"report finds no cell in {str(out)!r}: its sweep was stopped before it began")
        write_out(store, out)
    finally:
        store.close()
    return out / "report.html"
