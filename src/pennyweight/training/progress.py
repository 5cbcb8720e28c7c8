"""Progress on stderr: step, loss, tokens a second and time left, as a bar or, without a terminal, as plain lines."""

import logging
import sys
import time
from collections.abc import Callable
from functools import partial
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

logger = logging.getLogger("pennyweight.training")
LINE_SECONDS = 10.0  # between two plain lines


def clock(seconds: float) -> str:
    """Seconds as people read them: 75 -> 1:15."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"


def _say(title: str, text: str) -> None:
    print(f"{title}: {text}", file=sys.stderr, flush=True)


class Silence:
    """Shows nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        pass

    def step(self, step: int, loss: float, tokens_per_second: float) -> None:
        """One step is done."""

    def phase(self, name: str) -> None:
        """What is done now besides steps: evaluating, saving; "": steps again."""


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
        left = (now - self._began) / max(1, step - self.start) * (self.steps - step)
        told = f"step {step}/{self.steps}  loss {loss:.4f}  {tokens_per_second:,.0f} tokens/s  {clock(left)} left"
        _say(self.title, told)


class Bar(Silence):
    """A bar that moves, for people."""

    def __init__(self, title: str, steps: int, start: int = 0) -> None:
        shown = TextColumn("loss {task.fields[loss]}"), TextColumn("{task.fields[rate]} tokens/s")
        head = TextColumn("[bold]{task.description}"), BarColumn(), TextColumn("{task.completed}/{task.total}")
        last = TimeRemainingColumn(), TextColumn("{task.fields[phase]}")
        self._progress = Progress(*head, *shown, *last, console=Console(stderr=True))
        self._task = self._progress.add_task(title, total=steps, completed=start, loss="–", rate="–", phase="")

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._progress.stop()

    def step(self, step: int, loss: float, tokens_per_second: float) -> None:
        """Moves the bar."""
        self._progress.update(self._task, completed=step, loss=f"{loss:.4f}", rate=f"{tokens_per_second:,.0f}")

    def phase(self, name: str) -> None:
        """Says it at the end of the bar."""
        self._progress.update(self._task, phase=name)


def shown(title: str, steps: int, *, start: int = 0, progress: bool = True) -> Silence:
    """The progress that fits: a bar on a terminal, lines elsewhere, nothing when `progress` is false."""
    if not progress:
        return Silence()
    return Bar(title, steps, start) if sys.stderr.isatty() else Lines(title, steps, start)


def teller(title: str, *, progress: bool = True) -> Callable[[str], None]:
    """What tells of what takes time before the first step: a line each on stderr, else (no `progress`) in the log."""
    return partial(_say, title) if progress else logger.info
