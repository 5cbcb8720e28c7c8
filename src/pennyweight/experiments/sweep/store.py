"""Store: what became of every cell of a sweep, in one SQLite file that survives SIGKILL and opens in pandas.

    cells      one row a cell: what it is, how it stands, what it came to
    attempts   one row for each time a cell was begun, and how that ended (null: it was killed)
    results    a view to read: one row a cell, one column an axis, then the numbers and how often it was begun
    sweep      the version of this file, the base run and the threads of a cell

Every change is one transaction. The file has one writer at a time, who holds the lock of the sweep's folder.
"""

import json
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pennyweight.experiments.results import DONE, Row, finite
from pennyweight.experiments.sweep.grid import Cell
from pennyweight.training import DiskFull, Run, TrainingFailed, differences

VERSION = 1  # raise it when the tables change: files of other versions are refused
WAITING, RUNNING, FINISHED, FAILED, DIVERGED = "waiting", "running", DONE, "failed", "diverged"
NO_ROOM = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN)
PATIENCE_SECONDS = 60.0  # for a reader that holds the file, such as a notebook

NUMBERS = {
    "val_loss": "REAL", "val_loss_plain": "REAL", "perplexity": "REAL", "bits_per_byte": "REAL",
    "initial_loss": "REAL", "tokens": "INTEGER", "steps": "INTEGER", "seconds": "REAL", "tokens_per_second": "REAL",
    "peak_memory_bytes": "INTEGER",
}  # fmt: skip
TABLES = f"""
CREATE TABLE sweep (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE cells (
    id TEXT PRIMARY KEY, place INTEGER NOT NULL, recipe TEXT NOT NULL, axes TEXT NOT NULL, seed INTEGER NOT NULL,
    threads INTEGER NOT NULL, status TEXT NOT NULL, reason TEXT, {", ".join(map(" ".join, NUMBERS.items()))},
    data_hash TEXT, folder TEXT NOT NULL, run TEXT NOT NULL, result TEXT
);
CREATE TABLE attempts (cell TEXT NOT NULL REFERENCES cells, began REAL NOT NULL, ended REAL, outcome TEXT);
"""
COUNT = "(SELECT COUNT(*) FROM attempts WHERE cell = cells.id) AS attempts"


class Store:
    """The file of one sweep. Errors of every change: DiskFull, TrainingFailed; then nothing has changed."""

    def __init__(self, path: Path) -> None:
        self.path = path
        # autocommit: transactions are begun and ended by `_change` alone
        self._file = sqlite3.connect(path, timeout=PATIENCE_SECONDS, isolation_level=None)
        self._file.row_factory = sqlite3.Row

    def close(self) -> None:
        """Lets go of the file."""
        self._file.close()

    @contextmanager
    def _change(self) -> Iterator[sqlite3.Connection]:
        """One transaction: all of it or nothing."""
        try:
            self._file.execute("BEGIN IMMEDIATE")
            yield self._file
            self._file.execute("COMMIT")
        except sqlite3.OperationalError as error:
            self._undo()
            kind = DiskFull if error.sqlite_errorcode & 0xFF in NO_ROOM else TrainingFailed
            raise kind(f"{self.path} could not be written: {error}; what it held stands") from None
        except BaseException:
            self._undo()
            raise

    def _undo(self) -> None:
        if self._file.in_transaction:
            self._file.execute("ROLLBACK")

    def begin(self, base: Run, threads: int) -> None:
        """Makes the tables where the file is new."""
        if self._said():
            return
        with self._change() as file:
            for statement in TABLES.split(";\n"):
                if statement.strip():
                    file.execute(statement)
            said = {"version": str(VERSION), "base": json.dumps(base.to_dict()), "threads": str(threads)}
            file.executemany("INSERT INTO sweep VALUES (?, ?)", said.items())

    def _said(self) -> dict[str, str]:
        """What the file says of itself; nothing where it is new. Errors: ValueError for a file of something else."""
        try:
            tables = {row["name"] for row in self._file.execute("SELECT name FROM sqlite_master")}
            if not tables:
                return {}
            said = dict(map(tuple, self._file.execute("SELECT name, value FROM sweep"))) if "sweep" in tables else {}
        except sqlite3.DatabaseError as error:
            raise ValueError(f"{self.path} does not hold the results of a sweep: {error}") from None
        if "version" not in said:
            raise ValueError(f"{self.path} does not hold the results of a sweep, but tables of something else")
        if said["version"] != str(VERSION):
            raise ValueError(
                f"{self.path} was written by another version of Pennyweight (its results have version "
                f"{said['version']}, this one reads {VERSION}); choose another folder (--out)"
            )
        return said

    @property
    def threads(self) -> int | None:
        """The threads of every cell; None in a new file."""
        said = self._said()
        return int(said["threads"]) if said else None

    @property
    def base(self) -> Run | None:
        """The run that the grids vary; None in a new file."""
        said = self._said()
        return Run.from_dict(json.loads(said["base"])) if said else None

    def other(self, base: Run) -> list[str]:
        """What sets the sweep of this file apart from one of `base`; nothing: its grid may be added."""
        there = self.base
        return differences(there, base) if there else []

    def add(self, cells: Sequence[Cell]) -> None:
        """Adds the cells that are not there yet; one that is there learns the axes that lead to it in this grid."""
        threads = self.threads or 1
        with self._change() as file:
            place = file.execute("SELECT COALESCE(MAX(place) + 1, 0) FROM cells").fetchone()[0]
            for cell in cells:
                there = file.execute("SELECT axes FROM cells WHERE id = ?", [cell.id]).fetchone()
                axes = json.dumps({**(json.loads(there["axes"]) if there else {}), **dict(cell.axes)})
                if there:
                    file.execute("UPDATE cells SET axes = ? WHERE id = ?", [axes, cell.id])
                    continue
                run = cell.run
                file.execute(
                    "INSERT INTO cells (id, place, recipe, axes, seed, threads, status, folder, run) "
                    "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                    [cell.id, place, str(run.recipe), axes, run.seed, threads, WAITING, cell.folder,
                     json.dumps(run.to_dict())],
                )  # fmt: skip
                place += 1
            self._show(file)

    def _show(self, file: sqlite3.Connection) -> None:
        """Makes the view anew, with a column for each axis of any cell."""
        told = [json.loads(row["axes"]) for row in file.execute("SELECT axes FROM cells ORDER BY place")]
        names = list(dict.fromkeys(name for axes in told for name in axes))
        own = ["id", "recipe", "seed", "threads", "status", "reason", *NUMBERS, "data_hash", "folder"]
        axes = [f"json_extract(axes, {_quoted(_path(name))}) AS {_named(name)}" for name in names if name not in own]
        file.execute("DROP VIEW IF EXISTS results")
        file.execute(f"CREATE VIEW results AS SELECT {', '.join([*axes, *own, COUNT])} FROM cells ORDER BY place")

    def start(self, cell: str) -> None:
        """A cell is begun."""
        with self._change() as file:
            file.execute("UPDATE cells SET status = ?, reason = NULL WHERE id = ?", [RUNNING, cell])
            file.execute("INSERT INTO attempts (cell, began) VALUES (?, ?)", [cell, time.time()])

    def end(self, cell: str, status: str, *, reason: str | None = None, result: Row | None = None) -> None:
        """What a cell came to, or that it waits again; its last attempt ended so."""
        told: dict[str, Any] = finite(result or {})
        numbers = [told.get(name) for name in NUMBERS]
        columns = ", ".join(f"{name} = ?" for name in (*NUMBERS, "data_hash", "result", "status", "reason"))
        text = json.dumps(told) if told else None
        with self._change() as file:
            given = [*numbers, told.get("data_hash"), text, status, reason]
            file.execute(f"UPDATE cells SET {columns} WHERE id = ?", [*given, cell])
            last = "SELECT MAX(rowid) FROM attempts WHERE cell = ?"
            outcome = status if status != WAITING else reason or "stopped"
            file.execute(
                f"UPDATE attempts SET ended = ?, outcome = ? WHERE rowid = ({last}) AND ended IS NULL",
                [time.time(), outcome, cell],
            )

    def again(self, status: str) -> None:
        """Cells of this status wait once more."""
        with self._change() as file:
            file.execute("UPDATE cells SET status = ?, reason = NULL WHERE status = ?", [WAITING, status])

    def of_status(self, status: str) -> list[str]:
        """The ids of the cells that stand so, in their order."""
        rows = self._file.execute("SELECT id FROM cells WHERE status = ? ORDER BY place", [status])
        return [row["id"] for row in rows]

    def cell(self, cell: str) -> tuple[Run, str]:
        """The run of a cell and the name of its folder."""
        row = self._file.execute("SELECT run, folder FROM cells WHERE id = ?", [cell]).fetchone()
        return Run.from_dict(json.loads(row["run"])), row["folder"]

    def axes(self, cell: str) -> dict[str, str]:
        """The values of the axes that lead to a cell."""
        return json.loads(self._file.execute("SELECT axes FROM cells WHERE id = ?", [cell]).fetchone()["axes"])

    def rows(self, runs: str) -> list[Row]:
        """Every cell as results.json tells it: as a run of a comparison, with its axes; folders stand below `runs`."""
        told = []
        for row in self._file.execute(f"SELECT *, {COUNT} FROM cells ORDER BY place"):
            result = json.loads(row["result"]) if row["result"] else {"run": json.loads(row["run"])}
            error = {"error": row["reason"]} if row["reason"] else {}
            told.append(
                {
                    **result, "recipe": row["recipe"], "seed": row["seed"], "status": row["status"], **error,
                    "folder": f"{runs}/{row['folder']}", "cell": row["id"], "axes": json.loads(row["axes"]),
                    "threads": row["threads"], "attempts": row["attempts"],
                }
            )  # fmt: skip
        return told


def _path(axis: str) -> str:
    """Where the value of an axis stands in the column `axes`."""
    return f'$."{axis}"'


def _quoted(text: str) -> str:
    """A text as SQL writes it."""
    return "'" + text.replace("'", "''") + "'"


def _named(text: str) -> str:
    """A column's name as SQL writes it."""
    return '"' + text.replace('"', '""') + '"'
