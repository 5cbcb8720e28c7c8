"""Progress of a sweep on stderr: cells and steps of the whole grid, and the time left, as a bar or as plain lines."""

import sys
import time
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from pennyweight.training.folder import LEDGER
from pennyweight.training.progress import LINE_SECONDS, clock

TAIL_BYTES = 4096  # of a ledger: some of its last lines
LOOK_SECONDS = 2.0  # between two looks at the ledgers of the cells that run


def last_step(folder: Path) -> int:
    """The last step that a run's ledger tells; 0 where there is none yet."""
    try:
        with (folder / LEDGER).open("rb") as file:
            file.seek(0, 2)
            file.seek(max(0, file.tell() - TAIL_BYTES))
            lines = file.read().splitlines()
    except OSError:
        return 0
    numbers = [line.partition(b'"step": ')[2].partition(b",")[0].rstrip(b"}") for line in lines]
    return max((int(number) for number in numbers if number.isdigit()), default=0)


class Shown:
    """How far a grid is: `total` steps of all its cells, of which those of `done` cells are behind."""

    def __init__(self, cells: int, total: int, *, done: int, steps: int, progress: bool) -> None:
        self._cells, self._total, self._done, self._steps = cells, total, done, steps
        self._other: dict[str, int] = {}  # cells that ended otherwise than finished
        self._running: dict[str, Path] = {}
        self._progress = progress
        self._began = self._line = self._look = time.monotonic()
        self._first = steps
        self._bar = _bar(total) if progress and sys.stderr.isatty() else None
        if self._bar:
            self._bar.start()

    def begin(self, cell: str, folder: Path) -> None:
        """A cell runs in this folder; what its ledger tells already is no work of this time."""
        self._running[cell] = folder
        self._first += last_step(folder)

    def end(self, cell: str, label: str, status: str, steps: int, reason: str | None) -> None:
        """A cell ended so; its steps are behind, taken or not."""
        self._running.pop(cell, None)
        self._done += 1
        self._steps += steps
        if reason is not None:
            self._other[status] = self._other.get(status, 0) + 1
            self.say(f"{label}: {status}: {reason}")
        self.look(at_once=True)

    def say(self, text: str) -> None:
        """One line, above the bar."""
        if self._bar:
            self._bar.console.print(text, markup=False, highlight=False)
        elif self._progress:
            print(text, file=sys.stderr, flush=True)

    def look(self, *, at_once: bool = False) -> None:
        """Shows how far the grid is, where the last look is some seconds old."""
        now = time.monotonic()
        if not self._progress or (now - self._look < LOOK_SECONDS and not at_once):
            return
        self._look = now
        steps = min(self._total, self._steps + sum(last_step(folder) for folder in self._running.values()))
        if self._bar:
            self._bar.update(self._bar.task_ids[0], completed=steps, said=self._said(steps, now))
        elif at_once or now - self._line >= LINE_SECONDS:
            self._line = now
            self.say(f"sweep: {100 * steps // max(1, self._total)} %  {self._said(steps, now)}")

    def _said(self, steps: int, now: float) -> str:
        other = "".join(f", {count} {status}" for status, count in self._other.items())
        new = steps - self._first
        left = clock((now - self._began) / new * (self._total - steps)) if new > 0 else "–:––"
        return f"{self._done}/{self._cells} cells{other}, {len(self._running)} running  {left} left"

    def close(self) -> None:
        """Leaves the last state on the terminal."""
        if self._bar:
            self._bar.stop()


def _bar(total: int) -> Progress:
    head = TextColumn("[bold]sweep"), BarColumn(), TextColumn("{task.completed}/{task.total} steps")
    bar = Progress(*head, TextColumn("{task.fields[said]}"), console=Console(stderr=True))
    bar.add_task("sweep", total=total, said="")
    return bar
