"""Progress of a search on stderr: trials done, the best so far, and about how long the rest takes."""

import sys
import time

from pennyweight.training.progress import clock


class Shown:
    """Says a line whenever something is known."""

    def __init__(self, trials: int, progress: bool) -> None:
        self._trials, self._progress = trials, progress
        self._began, self._first = time.monotonic(), 0

    def say(self, text: str) -> None:
        """One line."""
        if self._progress:
            print(f"search: {text}", file=sys.stderr, flush=True)

    def begin(self, done: int) -> None:
        """Trials begin; `done` were behind already."""
        self._began, self._first = time.monotonic(), done

    def trial(self, done: int, said: str, best: str) -> None:
        """A trial ended so."""
        new = done - self._first
        seconds = (time.monotonic() - self._began) / new * max(0, self._trials - done) if new > 0 else None
        left = "–:––" if seconds is None else clock(seconds)
        self.say(f"{said}; {done}/{self._trials} trials, best: {best}, at most {left} left, then fresh seeds")
