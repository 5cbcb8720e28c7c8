"""Tracker: what a service that draws curves is told of a run.

It hears every line of the ledger, and nothing else. Each service stands in one file, which alone imports it, when a run
wants it: TensorBoard writes into the run folder; wandb and mlflow are asked by name only, for they may use the network.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from pennyweight.training.run import Run

Line = Mapping[str, Any]  # of the ledger: kind, step, and what goes with them


class Tracker(Protocol):
    """Who is told of a run while it goes on."""

    def begin(self, run: Run, folder: Path, lines: Sequence[Line]) -> None:
        """The run begins in `folder`, or goes on there: `lines` is what its ledger holds already."""

    def write(self, line: Line) -> None:
        """One more line of the ledger."""

    def end(self) -> None:
        """The run is over, finished (a line "end" was the last) or not."""


def scalars(line: Line) -> dict[str, float]:
    """The numbers of a line under the names that curves have: {"step/loss": 2.5, "step/learning_rate": 0.001}."""
    told = {name: value for name, value in line.items() if name not in ("kind", "step")}
    return {
        f"{line['kind']}/{name}": float(value)
        for name, value in told.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }


def event(line: Line) -> str | None:
    """What a line says in words, "switch: before bf16, recipe w8a8"; None for a line of numbers."""
    words = {name: value for name, value in line.items() if name != "kind" and isinstance(value, str)}
    if scalars(line) and not words:
        return None
    told = ", ".join(f"{name} {value}" for name, value in words.items())
    return f"{line['kind']}: {told}" if told else str(line["kind"])
