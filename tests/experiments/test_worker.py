"""A run in a process of its own: it answers in JSON, dies without taking the others along, and never runs alone."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from pennyweight.experiments.worker import in_fresh_process
from pennyweight.training import Data, Run

BASE = Run(steps=10)


def test_ctrl_c_while_a_runs_process_starts_says_nothing_of_imports(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for seconds in (0.3, 1.0):
        timer = threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGINT))
        timer.start()
        with pytest.raises(KeyboardInterrupt):
            in_fresh_process(BASE, tmp_path / "r", False)
        timer.join()
    assert capfd.readouterr() == ("", "")


def test_a_process_that_dies_is_a_failed_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = subprocess.Popen

    def popen(command: list[str], **options: Any) -> subprocess.Popen[bytes]:
        return real([sys.executable, "-c", f"import os; os.kill(os.getpid(), {signal.SIGKILL.value})"], **options)

    monkeypatch.setattr(subprocess, "Popen", popen)
    answer = in_fresh_process(BASE, tmp_path / "r", False)
    assert answer == {"status": "failed", "error": "the process of the run ended with signal SIGKILL"}


@pytest.mark.long
def test_a_run_whose_comparison_was_killed_saves_itself_and_ends(tmp_path: Path) -> None:
    shape = {"model_type": "gpt2", "n_layer": 1, "n_embd": 32, "n_head": 2, "n_positions": 32, "vocab_size": 300}
    (tmp_path / "config.json").write_text(json.dumps(shape))
    (tmp_path / "text").mkdir()
    for name in range(40):
        (tmp_path / "text" / f"{name}.txt").write_text(
            f"the {name} bits of line {name} are written in {name} ways\n" * 40
        )
    data = Data(source=str(tmp_path / "text"), tokenizer="bpe-300", context=16)
    run = Run(model=str(tmp_path / "config.json"), data=data, steps=1_000_000, batch=2)
    command = [sys.executable, "-c", "from pennyweight.experiments.worker import main; main()"]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, process_group=0)
    assert process.stdin
    assert process.stdout
    asked = {"run": run.to_dict(), "folder": str(tmp_path / "r"), "progress": False}
    process.stdin.write(json.dumps(asked) + "\n")
    process.stdin.flush()
    ledger = tmp_path / "r" / "ledger.jsonl"
    deadline = time.monotonic() + 120
    while not (ledger.exists() and ledger.read_text().count('"step"') > 3):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    process.stdin.close()
    with process.stdout as answers:
        assert json.loads(answers.read()) == {"interrupted": True}
    assert process.wait(60) == 0
    assert list((tmp_path / "r" / "checkpoints").glob("step-*"))
