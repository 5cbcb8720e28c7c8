"""Engines: where the cells of a sweep are trained, several at once: here in processes, or wherever an engine says."""

import signal
import subprocess
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Protocol

from pennyweight.experiments.worker import PATIENCE_SECONDS, Answer, answered, started
from pennyweight.training import Run


class Engine(Protocol):
    """Trains cells, at most `room` at once. How a cell computes is no affair of the engine: its threads are given."""

    room: int

    def start(self, cell: str, run: Run, folder: Path, threads: int) -> None:
        """Begins a cell, in a process of its own."""
        ...

    def ended(self, seconds: float) -> list[tuple[str, Answer]]:
        """The cells that ended since, with what they came to; waits at most so long for the first."""
        ...

    def close(self, *, at_once: bool = False) -> list[tuple[str, Answer]]:
        """Has every cell that still runs save and end, waits for that, and gives the machines back."""
        ...


class Processes:
    """Cells as processes of this machine, one thread of ours waiting for each."""

    def __init__(self, room: int) -> None:
        self.room = room
        self._threads = ThreadPoolExecutor(room)
        self._running: dict[Future[Answer], tuple[str, subprocess.Popen[bytes]]] = {}

    def start(self, cell: str, run: Run, folder: Path, threads: int) -> None:
        """Begins a cell; its memory is its own, and it saves and ends when this process does."""
        process = started(run, folder, False, threads)
        self._running[self._threads.submit(_answer, process)] = (cell, process)

    def ended(self, seconds: float) -> list[tuple[str, Answer]]:
        """The cells that ended since, with what they came to; waits at most so long for the first."""
        done, _ = wait(self._running, timeout=seconds, return_when=FIRST_COMPLETED)
        return [(self._running.pop(future)[0], future.result()) for future in done]

    def kill(self, cell: str) -> None:
        """Ends a cell at once, unsaved; `ended` will tell it as failed."""
        for name, process in self._running.values():
            if name == cell:
                process.kill()

    def close(self, *, at_once: bool = False) -> list[tuple[str, Answer]]:
        """Ctrl-C for every cell that still runs: its step is finished and saved; `at_once`: not even that."""
        for _, process in self._running.values():
            process.send_signal(signal.SIGKILL if at_once else signal.SIGINT)
        done, late = wait(self._running, timeout=PATIENCE_SECONDS)
        for future in late:
            self._running[future][1].kill()
        told = [(self._running[future][0], future.result()) for future in done]
        self._running.clear()
        self._threads.shutdown()
        return told


def _answer(process: subprocess.Popen[bytes]) -> Answer:
    with process:
        return answered(process)
