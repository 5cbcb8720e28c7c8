"""Killed with SIGKILL and asked again, a study goes on and trains no run twice."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pennyweight.experiments.studies import study, write_study
from pennyweight.experiments.studies.study import Study

ASKED = """
import importlib.util, sys
spec = importlib.util.spec_from_file_location("made", {conftest!r})
made = importlib.util.module_from_spec(spec)
spec.loader.exec_module(made)
from pennyweight.experiments.studies import conduct, study
conduct.STUDIES = (made.SMALL,)
study(made.SMALL, data={text!r}, out={out!r}, jobs=2, progress=False)
"""


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_a_study_killed_twice_trains_each_run_once(small: Study, text: str, tmp_path: Path) -> None:
    conftest = str(Path(__file__).with_name("conftest.py"))
    typed = [sys.executable, "-c", ASKED.format(conftest=conftest, text=text, out=str(tmp_path / "o"))]
    for most in (2, 6):
        killed_after(typed, tmp_path / "o", most)
    one = study(small, data=text, out=tmp_path / "o", jobs=2, progress=False)
    assert one.done == 15
    ledgers = [path.read_text() for path in (tmp_path / "o" / "sweep").glob("runs/*/ledger.jsonl")]
    assert {ledger.count('"kind": "end"') for ledger in ledgers} == {1}
    assert {ledger.count('"kind": "step"') for ledger in ledgers} == {40}
    write_study(tmp_path / "o")
    assert json.loads((tmp_path / "o" / "study.json").read_text())["runs_ended"] == 15


def killed_after(typed: list[str], out: Path, most: int) -> None:
    """Begins the study and kills it when so many of its runs have ended."""
    process = subprocess.Popen(typed, env={**os.environ, "OMP_NUM_THREADS": "1"})
    deadline = time.monotonic() + 300
    while ended(out / "sweep" / "results.sqlite") < most:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.1)
    process.kill()
    assert process.wait() == -signal.SIGKILL


def ended(store: Path) -> int:
    if not store.is_file():
        return 0
    with sqlite3.connect(store) as file:
        told = file.execute("SELECT name FROM sqlite_master WHERE name = 'cells'").fetchall()
        count = file.execute("SELECT COUNT(*) FROM cells WHERE status = 'finished'").fetchone()[0] if told else 0
    file.close()
    return count
