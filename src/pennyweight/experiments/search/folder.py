"""The folder of a search: what it may hold, and what was asked of it."""

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

from pennyweight.training import Run, differences
from pennyweight.training.folder import TRIALS, check_kind

# in Optuna's file, without Optuna
ATTRIBUTES = "study_user_attributes"
ASKED = f"SELECT value_json FROM {ATTRIBUTES} WHERE key = 'asked'"
TABLES = "SELECT name FROM sqlite_master WHERE type = 'table'"
OWN = ("stud", "trial", "version_info", "alembic")  # how the names of Optuna's tables begin


def is_search(out: Path) -> bool:
    """Whether a folder holds a search."""
    return (out / TRIALS).is_file()


def asked_of(out: Path) -> dict[str, Any] | None:
    """What was asked of the search in a folder; None where none has begun. Errors: ValueError for another file."""
    if not is_search(out):
        return None
    try:
        with closing(sqlite3.connect(f"file:{out / TRIALS}?mode=ro", uri=True)) as file:
            tables = [name for (name,) in file.execute(TABLES)]
            if ATTRIBUTES not in tables and all(name.startswith(OWN) for name in tables):
                return None  # it ended while Optuna made the file, and makes the rest when it goes on
            row = file.execute(ASKED).fetchone()
    except sqlite3.DatabaseError as error:
        raise ValueError(f"{out / TRIALS} does not hold the trials of a search: {error}") from None
    return None if row is None else json.loads(row[0])


def check_place(out: Path, asked: dict[str, Any], threads: int | None) -> int | None:
    """Makes sure that this search may go into `out`; the threads of its runs there, None in a new folder.

    Errors: FileExistsError for a folder of something else or of another search; ValueError for one that cannot be
    written, and for runs with another number of threads.
    """
    check_kind(out, TRIALS)
    there = asked_of(out)
    if there is None:
        return None
    told = differences(Run.from_dict(there["base"]), Run.from_dict(asked["base"]))
    told += [
        f"{name}: {there[name]} is not {asked[name]}"
        for name in ("loss_budget", "minimise")
        if there[name] != asked[name]
    ]
    if told:
        raise FileExistsError(
            f"{out} already holds another search; what it holds and what was asked: {'; '.join(told)}; "
            "choose another folder (--out)"
        )
    if threads is not None and there["threads"] != threads:
        raise ValueError(
            f"the runs in {out} compute with {there['threads']} threads each, got threads={threads}, which would be "
            "other numbers; choose another folder (--out)"
        )
    return int(there["threads"])
