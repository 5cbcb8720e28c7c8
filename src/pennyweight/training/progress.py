"""Progress on stderr: step, loss, tokens a second and time left, as a bar or, without a terminal, as plain lines."""

import sys
import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

LINE_SECONDS = 10.0  # between two plain lines


def clock(seconds: float) -> str:
    """Seconds as people read them: 75 -> 1:15."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"


class Silence:
    """Shows nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        pass

    def step(self, step: int, loss: float, tokens_per_second: float) -> None:
        """One step is done."""

    def say(self, text: str) -> None:
        """Something happened."""


class Lines(Silence):
    """A plain line now and then, for logs."""

    def __init__(self, title: str, steps: int, start: int = 0) -> None:
        self.title, self.steps, self.start = title, steps, start
        self._began = self._last = time.monotonic()

    def step(self, step: int, loss: float, tokens_per_second: float) -> None:
        """Prints when the last line is some seconds old, and at the end."""
        now = time.monotonic()
        if now - self._last < LINE_SECONDS and step < self.steps:
            return
        self._last = now
        left = (now - self._began) / (step - self.start) * (self.steps - step)
        self.say(f"step {step}/{self.steps}  loss {loss:.4f}  {tokens_per_second:,.0f} tokens/s  {clock(left)} left")

    def say(self, text: str) -> None:
        """Prints one line."""
        print(f"{self.title}: {text}", file=sys.stderr, flush=True)


class Bar(Silence):
    """A bar that moves, for people."""

    def __init__(self, title: str, steps: int, start: int = 0) -> None:
        shown = TextColumn("loss {task.fields[loss]:.4f}"), TextColumn("{task.fields[rate]:,.0f} tokens/s")
        head = TextColumn("[bold]{task.description}"), BarColumn(), TextColumn("{task.completed}/{task.total}")
        self._progress = Progress(*head, *shown, TimeRemainingColumn(), console=Console(stderr=True))
        self._task = self._progress.add_task(title, total=steps, completed=start, loss=float("nan"), rate=0.0)
        self._title = title

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._progress.stop()

    def step(self, step: int, loss: float, tokens_per_second: float) -> None:
        """Moves the bar."""
        self._progress.update(self._task, completed=step, loss=loss, rate=tokens_per_second)

    def say(self, text: str) -> None:
        """Prints one line above the bar."""
        self._progress.console.print(f"{self._title}: {text}", markup=False, highlight=False)


def shown(title: str, steps: int, *, start: int = 0, progress: bool = True) -> Silence:
    """The progress that fits: a bar on a terminal, lines elsewhere, nothing when `progress` is false."""
    if not progress:
        return Silence()
    return Bar(title, steps, start) if sys.stderr.isatty() else Lines(title, steps, start)
