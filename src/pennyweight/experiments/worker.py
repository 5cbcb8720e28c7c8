"""Worker: one run in a process of its own, so that its peak memory is its own; asked and answered in JSON.

One line comes in on stdin (the run, its folder, whether to show progress), one JSON object goes out on stdout; all else
goes to stderr. When stdin ends the asking process is gone, and the run stops as on Ctrl-C: saved and resumable.
"""

import json
import logging
import os
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from pennyweight.training import DiskFull, Diverged, Run, TrainingFailed, train
from pennyweight.training.files import is_full

# "result", or "status" and "error" (and "disk_full"), or "refused" and "error", or "interrupted"
Answer = dict[str, Any]

REFUSALS: dict[str, type[Exception]] = {
    kind.__name__: kind for kind in (ValueError, TypeError, FileNotFoundError, FileExistsError)
}
PATIENCE_SECONDS = 60.0  # after a second Ctrl-C, before the run's process is ended
# Importing takes seconds, in which Ctrl-C must end the process without a word; `main` listens to it again.
WORKER = (
    "import signal; signal.signal(signal.SIGINT, signal.SIG_DFL); "
    "from pennyweight.experiments.worker import main; main()"
)


def in_fresh_process(run: Run, folder: Path, progress: bool, threads: int | None = None) -> Answer:
    """Trains in a process of its own, whose peak memory is the run's; its progress goes to our stderr.

    It computes with `threads` threads (None: as many as PyTorch takes).
    Ctrl-C is handed on: the run saves, then KeyboardInterrupt rises here. Errors: none; they are in the answer.
    """
    with started(run, folder, progress, threads) as process:
        try:
            return answered(process)
        except KeyboardInterrupt:
            interrupt(process)
            raise


def started(run: Run, folder: Path, progress: bool, threads: int | None = None) -> subprocess.Popen[bytes]:
    """The process that trains the run; `answered` says what becomes of it. To be used as a context, as any Popen."""
    counted = {} if threads is None else {"OMP_NUM_THREADS": str(threads)}
    # a process group of its own, so that a Ctrl-C at the terminal reaches the run once, through us, and not twice
    process = subprocess.Popen(
        [sys.executable, "-c", WORKER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, process_group=0,
        env={**os.environ, **counted},
    )  # fmt: skip
    assert process.stdin
    asked = {"run": run.to_dict(), "folder": str(folder), "progress": progress, "threads": threads}
    with suppress(BrokenPipeError):  # it died at once: its exit status tells
        process.stdin.write(json.dumps(asked).encode() + b"\n")
        process.stdin.flush()
    return process


def answered(process: subprocess.Popen[bytes]) -> Answer:
    """Waits for the end of a process that was started, and returns what it answers."""
    assert process.stdout
    text = process.stdout.read()
    status = process.wait()
    if status != 0 or not text:
        ended = f"signal {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"
        return {"status": "failed", "error": f"the process of the run ended with {ended}"}
    return json.loads(text)


def interrupt(process: subprocess.Popen[bytes]) -> None:
    """Hands Ctrl-C on and waits until the run is saved; a second one is handed on too, a third ends the process."""
    for _ in range(2):
        process.send_signal(signal.SIGINT)
        try:
            process.wait()
            return
        except KeyboardInterrupt:
            continue
    try:
        process.wait(PATIENCE_SECONDS)
    except (KeyboardInterrupt, subprocess.TimeoutExpired):
        process.kill()


def answer(asked: dict[str, Any]) -> Answer:
    """What the asked run came to, or why it came to nothing."""
    try:
        if asked.get("threads"):
            torch.set_num_threads(asked["threads"])
        result = train(Run.from_dict(asked["run"]), asked["folder"], progress=asked["progress"])
        return {"result": result.to_dict()}
    except KeyboardInterrupt:
        return {"interrupted": True}
    except Diverged as error:
        return {"status": "diverged", "error": str(error)}
    except DiskFull as error:
        return {"status": "failed", "error": str(error), "disk_full": True}
    except TrainingFailed as error:
        return {"status": "failed", "error": str(error)}
    except tuple(REFUSALS.values()) as error:
        kind = next(name for name, kind in REFUSALS.items() if isinstance(error, kind))
        return {"refused": kind, "error": str(error)}
    except (OSError, MemoryError) as error:
        full = {"disk_full": True} if isinstance(error, OSError) and is_full(error) else {}
        return {"status": "failed", "error": " ".join(str(error).split()) or type(error).__name__, **full}


def _read_line() -> bytes:
    """The first line of stdin, read without a buffer: the thread below reads the rest."""
    line = b""
    while not line.endswith(b"\n") and (more := os.read(0, 1 << 16)):
        line += more
    return line


def _stop_when_alone() -> None:
    """Waits for the end of stdin, then does what Ctrl-C does."""
    while os.read(0, 1):
        pass
    os.kill(os.getpid(), signal.SIGINT)


def main() -> None:
    """Answers one request."""
    out = os.fdopen(os.dup(1), "w", encoding="utf8")
    os.dup2(2, 1)  # whatever a library prints must not stand in the answer
    asked = json.loads(_read_line())
    if asked["progress"]:
        logging.basicConfig(format="pennyweight: %(message)s")
        logging.getLogger("pennyweight").setLevel(logging.INFO)
    threading.Thread(target=_stop_when_alone, daemon=True).start()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # `answer` says that it was interrupted
    told = json.dumps(answer(asked))
    with suppress(BrokenPipeError), out:  # nobody listens any more; the run folder holds what was done
        out.write(told)
    sys.stderr.flush()
