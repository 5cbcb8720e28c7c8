"""The store: one file that survives kills and full disks, and says which version wrote it."""

import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pennyweight.experiments.sweep.axes import read_axes
from pennyweight.experiments.sweep.grid import Cell, build
from pennyweight.experiments.sweep.store import Store
from pennyweight.training import DiskFull, Run


def cells(base: Run, *grid: str) -> list[Cell]:
    return build(base, read_axes(grid, base), seeds=1)


@pytest.fixture
def store(tmp_path: Path, base: Run) -> Iterator[Store]:
    made = Store(tmp_path / "results.sqlite")
    made.begin(base, 2)
    made.add(cells(base, "weights=none,8", "optimizer.lr=0.001,0.002"))
    yield made
    made.close()


def test_every_cell_is_a_row_and_every_axis_a_column(store: Store) -> None:
    first, second, *_ = store.of_status("waiting")
    store.start(first)
    store.end(first, "finished", result={"val_loss": 4.0, "perplexity": float("inf"), "steps": 10, "curve": [[1, 2.0]]})
    store.start(second)
    store.end(second, "diverged", reason="the loss is nan")
    with sqlite3.connect(store.path) as file:
        told = file.execute('SELECT weights, "optimizer.lr", status, val_loss, steps, reason, attempts FROM results')
        assert told.fetchall() == [
            ("none", "0.001", "finished", 4.0, 10, None, 1),
            ("none", "0.002", "diverged", None, None, "the loss is nan", 1),
            ("8", "0.001", "waiting", None, None, None, 0),
            ("8", "0.002", "waiting", None, None, None, 0),
        ]
    file.close()
    rows = store.rows("runs")
    assert rows[0]["curve"] == [[1, 2.0]]
    assert rows[0]["perplexity"] is None
    assert rows[0]["threads"] == 2
    assert (rows[1]["error"], rows[1]["folder"][:5]) == ("the loss is nan", "runs/")


def test_the_same_cells_are_added_once_and_learn_new_axes(store: Store, base: Run) -> None:
    store.add(cells(base, "recipe=w8,w8a8", "optimizer.lr=0.001"))
    axes = [row["axes"] for row in store.rows("runs")]
    assert axes == [
        {"weights": "none", "optimizer.lr": "0.001"},
        {"weights": "none", "optimizer.lr": "0.002"},
        {"weights": "8", "optimizer.lr": "0.001", "recipe": "w8"},
        {"weights": "8", "optimizer.lr": "0.002"},
        {"recipe": "w8a8", "optimizer.lr": "0.001"},
    ]


def test_every_attempt_is_written_down(store: Store) -> None:
    cell = store.of_status("waiting")[0]
    for status, reason in (("waiting", "killed"), ("failed", "no memory"), ("finished", None)):
        store.start(cell)
        assert store.of_status("running") == [cell]
        store.end(cell, status, reason=reason)
    with sqlite3.connect(store.path) as file:
        assert [row[0] for row in file.execute("SELECT outcome FROM attempts")] == ["killed", "failed", "finished"]
    file.close()


def test_another_run_is_told_apart(store: Store, base: Run) -> None:
    assert store.other(base) == []
    assert store.other(Run()) != []
    assert (store.threads, store.base) == (2, base)


def test_a_file_of_another_version_or_of_something_else_is_refused(tmp_path: Path, store: Store, base: Run) -> None:
    with sqlite3.connect(store.path) as file:
        file.execute("UPDATE sweep SET value = '99' WHERE name = 'version'")
    file.close()
    with pytest.raises(ValueError, match=r"another version of Pennyweight \(its results have version 99, this one"):
        _ = store.base
    for name, content in (("text", b"no database, but a long enough text" * 99), ("other", None)):
        path = tmp_path / name
        if content:
            path.write_bytes(content)
        else:
            with sqlite3.connect(path) as file:
                file.execute("CREATE TABLE mine (x)")
            file.close()
        other = Store(path)
        with pytest.raises(ValueError, match="does not hold the results of a sweep"):
            other.begin(base, 1)
        other.close()


def test_a_full_disk_loses_nothing(store: Store) -> None:
    before = store.rows("runs")
    store._file.execute("PRAGMA max_page_count = 1")  # no page more: what SQLite says of a disk without room
    with pytest.raises(DiskFull, match="could not be written: .*full; what it held stands"):
        store.end(
            store.of_status("waiting")[0], "finished", result={"val_loss": 1.0, "curve": [[n, n] for n in range(9999)]}
        )
    assert store.rows("runs") == before


def test_a_process_killed_in_the_middle_of_a_change_leaves_the_state_before(store: Store) -> None:
    code = (
        "import os, signal, sys; from pathlib import Path; from pennyweight.experiments.sweep.store import Store\n"
        "store = Store(Path(sys.argv[1]))\n"
        "with store._change() as file:\n"
        "    file.execute(\"UPDATE cells SET status = 'lost'\")\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    before = store.rows("runs")
    assert subprocess.run([sys.executable, "-c", code, str(store.path)]).returncode == -9
    assert store.rows("runs") == before
