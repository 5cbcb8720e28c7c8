"""Course: how long a bench takes, said before it begins and while it runs: a bar, or lines without a terminal."""

import logging
import sys
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from pennyweight.experiments.wording import duration

# Seconds that a group takes to prepare and for one round, on two cores of a Xeon with AMX.
SECONDS = {
    "products": (5.0, 0.2),
    "layer": (5.0, 0.7),
    "optimizer": (5.0, 0.8),
    "gpt2": (30.0, 18.0),
    "llama": (30.0, 18.0),
    "compiled": (240.0, 9.0),
    "memory": (45.0, 4.0),
}
LINE_SECONDS = 10.0  # between two lines
_logger = logging.getLogger("pennyweight")


def expected(names: Sequence[str], repeats: int) -> float:
    """Seconds that these groups take with so many rounds on such a machine."""
    return sum(prepare + repeats * each for prepare, each in (SECONDS[name] for name in names))


class Course:
    """Where a bench stands. What is left is what it should take, times how much slower the machine was so far."""

    def __init__(self, names: Sequence[str], repeats: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._costs = {name: expected([name], repeats) for name in names}
        self._clock, self._done, self._name, self._share = clock, 0.0, "", 0.0
        self._began = self._last = clock()
        self._bar: Progress | None = None
        if sys.stderr.isatty():
            columns = TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[left]}")
            self._bar = Progress(*columns, console=Console(stderr=True))
            self._task = self._bar.add_task("", total=sum(self._costs.values()), left="")

    def __enter__(self) -> Self:
        total = sum(self._costs.values())
        _logger.info("about %s on two cores; Ctrl-C ends it before, whole rounds are kept", duration(max(60.0, total)))
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.stop()

    def tell(self, said: str) -> None:
        """What is done now."""
        if self._bar is None:
            _logger.info("%s", said)
        else:
            self._bar.update(self._task, description=said[:60])

    def at(self, name: str, share: float) -> None:
        """Of this group such a share is done, 0 to 1."""
        if name != self._name:
            self._done += self._costs.get(self._name, 0.0)
            self._name = name
        now, done = self._clock(), self._done + share * self._costs[name]
        left = self.left(done, now - self._began)
        if self._bar is not None:
            self._bar.update(self._task, completed=done, left=left)
        elif left and now - self._last >= LINE_SECONDS:
            self._last = now
            _logger.info("%s: %s", name, left)

    def left(self, done: float, elapsed: float) -> str:
        """In words; nothing while too little is done to tell."""
        total = sum(self._costs.values())
        return f"about {duration((total - done) * elapsed / done)} left" if done > 0 else ""


class Quiet(Course):
    """Tells what is done in the log, and nothing of time."""

    def __init__(self) -> None:
        super().__init__((), 0)
        self._bar = None

    def __enter__(self) -> Self:
        return self

    def at(self, name: str, share: float) -> None:
        """Nothing."""
