"""The verb `sweep` on real runs: what it trains, what it says, and how it refuses."""

import json
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from pennyweight.cli.app import main


def test_sweep_trains_every_cell_and_the_report_is_written_again(small: list[str]) -> None:
    words = ["sweep", "--grid", "weights=none,8", "rounding=nearest", "--steps", "2", "--jobs", "2", "--out", "s"]
    done = subprocess.run([sys.executable, "-m", "pennyweight", *words, *small], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "w8" in done.stdout
    assert "report: s/report.html" in done.stdout
    assert "2/2 cells" in done.stderr
    assert "Warning" not in done.stderr
    assert "cells" not in done.stdout
    rows = json.loads(Path("s/results.json").read_text())
    assert [(row["recipe"], row["status"], row["steps"], row["attempts"]) for row in rows] == [
        ("bf16", "finished", 2, 1), ("w8", "finished", 2, 1),
    ]  # fmt: skip
    assert {row["machine"]["threads"] for row in rows} == {rows[0]["threads"]}
    with sqlite3.connect("s/results.sqlite") as file:
        losses = file.execute("SELECT val_loss FROM results ORDER BY weights = 'none' DESC").fetchall()
    file.close()
    assert losses == [(row["val_loss"],) for row in rows]
    page = Path("s/report.html").read_text()
    Path("s/report.html").unlink()
    assert main(["report", "s"]) == 0
    assert Path("s/report.html").read_text() == page


def test_every_cell_that_cannot_be_built_has_a_line(small: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sweep", "--grid", "saved=none,8", "compile=true", "batch=0,2", "--out", "s", *small]) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert [line.partition(" cannot be built")[0] for line in told.err.splitlines()] == [
        "pennyweight: saved=none compile=true batch=0",
        "pennyweight: saved=8 compile=true batch=0",
        "pennyweight: saved=8 compile=true batch=2",
    ]
    assert not Path("s").exists()


def test_a_sweep_of_another_run_or_of_another_version_is_refused(
    small: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["sweep", "--grid", "weights=8", "--steps", "1", "--out", "s", "--json", *small]
    assert main(words) == 0
    assert json.loads(capsys.readouterr().out)["runs"][0]["recipe"] == "w8"
    assert main([*words, "accumulate=2"]) == 2
    assert "already holds a sweep of another run" in capsys.readouterr().err
    assert main(["compare", "bf16", "--out", "s", *small]) == 2
    assert "s holds a sweep" in capsys.readouterr().err
    with sqlite3.connect("s/results.sqlite") as file:
        file.execute("UPDATE sweep SET value = '0' WHERE name = 'version'")
    file.close()
    assert main(words) == 2
    assert "was written by another version of Pennyweight" in capsys.readouterr().err
    assert main(["report", "s"]) == 2
    told = capsys.readouterr()
    assert "another version" in told.err
    assert told.err.count("\n") == 1
