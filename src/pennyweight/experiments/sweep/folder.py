"""The folder of a sweep: what it may hold, and how its cells stand after a kill."""

import shutil
from contextlib import closing
from pathlib import Path

from pennyweight.experiments.results import write
from pennyweight.experiments.sweep.report import write_report
from pennyweight.experiments.sweep.store import FINISHED, RUNNING, WAITING, Store
from pennyweight.training import Run
from pennyweight.training.folder import (
    CHECKPOINTS,
    MODEL,
    RESULTS,
    RUNS,
    STORE,
    RunFolder,
    check_kind,
    check_writable,
    wait_for_its_end,
)


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


def drop_checkpoints(folder: Path) -> None:
    """Gives the disk back that a finished cell does not need: its model and its numbers stay."""
    if (folder / MODEL).is_dir():
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
    with closing(Store(out / STORE)) as store:
        if store.base is None:
            raise FileNotFoundError(f"report finds no cell in {str(out)!r}: its sweep was stopped before it began")
        write_out(store, out)
    return out / "report.html"
