"""The ledger: one JSON line for each thing that happened in a run, and no step twice."""

import json
import logging
import math
import os
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

logger = logging.getLogger("pennyweight.training")


class Ledger:
    """Appends lines to `ledger.jsonl`, each complete on the disk's side of this process before the next begins.

    `lines` holds how many there are; a checkpoint remembers that number, and resuming cuts the file there.
    Without a path nothing is written, but the lines are counted all the same. `listeners` hear every line too.
    """

    def __init__(self, path: Path | None, *, lines: int = 0) -> None:
        """Keeps the first `lines` complete lines of the file at `path` and cuts the rest; warns of fewer."""
        self.lines = 0
        self.listeners: list[Callable[[dict[str, Any]], None]] = []
        self._file = None
        if path is not None:
            self._file = path.open("ab", buffering=0)
            self.lines, end = _first(path, lines)
            self._file.truncate(end)
            if self.lines < lines:
                logger.warning(
                    "%s has %d of the %d lines that the checkpoint saw; the others are lost", path, self.lines, lines
                )

    def write(self, kind: str, step: int, **numbers: Any) -> None:
        """One line: what happened (`kind`), after how many steps, and its numbers; what is not finite becomes null."""
        finite = {k: None if isinstance(n, float) and not math.isfinite(n) else n for k, n in numbers.items()}
        line = {"kind": kind, "step": step, **finite}
        self.lines += 1
        if self._file is not None:
            self._file.write(json.dumps(line, allow_nan=False).encode() + b"\n")
        for listener in self.listeners:
            listener(line)

    def sync(self) -> None:
        """Makes sure that what was written survives a power cut."""
        if self._file is not None:
            os.fsync(self._file.fileno())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._file is not None:
            self._file.close()


def _first(path: Path, lines: int) -> tuple[int, int]:
    """How many of the first `lines` lines are complete, and where they end in bytes."""
    found = end = 0
    with path.open("rb") as file:
        for line in file:
            if found == lines or not line.endswith(b"\n"):
                break
            found, end = found + 1, end + len(line)
    return found, end


def read_ledger(path: Path) -> list[dict[str, Any]]:
    """The lines of a ledger; a last line that is only half there (a run was killed just now) is left out."""
    with path.open("rb") as file:
        return [json.loads(line) for line in file if line.endswith(b"\n")]
