"""The engine of this machine: several processes at once, stopped when the sweep is."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pennyweight.experiments.sweep import engines
from pennyweight.training import Run

# What a run's process does, without a run: says after a while what it was, or saves on Ctrl-C.
STAND_IN = """
import json, sys, time
try:
    print("ready", file=sys.stderr, flush=True)
    time.sleep(float(sys.argv[1]))
    print(json.dumps({"result": sys.argv[1]}))
except KeyboardInterrupt:
    print(json.dumps({"interrupted": True}))
"""


@pytest.fixture
def processes(monkeypatch: pytest.MonkeyPatch) -> list[subprocess.Popen[bytes]]:
    """The stand-ins that were started; a cell sleeps as many seconds as its run has steps, divided by ten."""
    there: list[subprocess.Popen[bytes]] = []

    def started(run: Run, folder: Path, progress: bool, threads: int) -> subprocess.Popen[bytes]:
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        code = [sys.executable, "-c", STAND_IN, str(run.steps / 10)]
        there.append(subprocess.Popen(code, **pipes))  # type: ignore[call-overload]
        assert there[-1].stderr
        assert there[-1].stderr.readline() == b"ready\n"
        return there[-1]

    monkeypatch.setattr(engines, "started", started)
    return there


def test_cells_end_as_they_end_and_wait_for_nobody(processes: list[subprocess.Popen[bytes]], tmp_path: Path) -> None:
    engine = engines.Processes(2)
    engine.start("slow", Run(steps=8), tmp_path, 1)
    engine.start("fast", Run(steps=1), tmp_path, 1)
    told = []
    deadline = time.monotonic() + 60
    while len(told) < 2:
        told += engine.ended(0.1)
        assert time.monotonic() < deadline
    assert told == [("fast", {"result": "0.1"}), ("slow", {"result": "0.8"})]
    assert engine.close() == []


@pytest.mark.parametrize("at_once", [False, True])
def test_what_still_runs_saves_itself_or_is_killed(
    processes: list[subprocess.Popen[bytes]], tmp_path: Path, at_once: bool
) -> None:
    engine = engines.Processes(2)
    engine.start("a", Run(steps=6000), tmp_path, 1)
    engine.start("b", Run(steps=6000), tmp_path, 1)
    answer = {"status": "failed", "error": "the process of the run ended with signal SIGKILL"}
    told = dict(engine.close(at_once=at_once))
    assert told == dict.fromkeys("ab", answer if at_once else {"interrupted": True})
    assert {process.returncode for process in processes} == {-signal.SIGKILL if at_once else 0}
