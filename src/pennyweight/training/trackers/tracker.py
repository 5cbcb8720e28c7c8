"""Tracker: what a service that draws curves is told of a run, and which one a run names.

It hears every line of the ledger, and nothing else. Each service stands in one file, which alone imports it, when a run
wants it: TensorBoard writes into the run folder; wandb and mlflow are asked by name only, for they may use the network.
"""

import logging
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from pennyweight.training.run import Run

logger = logging.getLogger("pennyweight.training")
Line = Mapping[str, Any]  # of the ledger: kind, step, and what goes with them


class Tracker(Protocol):
    """Who is told of a run while it goes on."""

    def begin(self, run: Run, folder: Path, lines: Sequence[Line]) -> None:
        """The run begins in `folder`, or goes on there: `lines` is what its ledger holds already."""

    def write(self, line: Line) -> None:
        """One more line of the ledger."""

    def end(self) -> None:
        """The run is over, finished (a line "end" was the last) or not."""


def check_tracker(name: str) -> None:
    """Raises ValueError where a tracker is named that is not installed, with the line that installs it."""
    if name not in ("auto", "none") and not _is_installed(name):
        raise ValueError(f"tracker={name} is not installed here; pip install {name}, or tracker=none")


def tracker_of(run: Run, folder: Path | None) -> Tracker | None:
    """The tracker that the run names; "auto": TensorBoard where it is installed. None: nobody is told.

    Raises ValueError for a named one that cannot be imported.
    """
    if folder is None or run.tracker == "none" or (run.tracker == "auto" and not _is_installed("tensorboard")):
        return None
    # Here, not at the top: each imports what only a run that names it needs.
    if run.tracker == "wandb":
        from pennyweight.training.trackers.wandb import Wandb

        return Wandb()
    if run.tracker == "mlflow":
        from pennyweight.training.trackers.mlflow import MLflow

        return MLflow()
    try:
        from pennyweight.training.trackers.tensorboard import TensorBoard
    except ImportError as error:
        if run.tracker == "auto":
            logger.warning("TensorBoard is installed but cannot be imported (%s); the run goes on without", error)
            return None
        raise ValueError(f"tracker=tensorboard is installed but cannot be imported: {error}") from None
    return TensorBoard()


def scalars(line: Line) -> dict[str, float]:
    """The numbers of a line under the names that curves have: {"step/loss": 2.5, "step/learning_rate": 0.001}."""
    told = {name: value for name, value in line.items() if name not in ("kind", "step")}
    return {
        f"{line['kind']}/{name}": float(value)
        for name, value in told.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }


def event(line: Line) -> str | None:
    """What a line says without numbers, "switch: before bf16, recipe w8a8"; None for a line of numbers."""
    if scalars(line):
        return None
    told = ", ".join(f"{name} {value}" for name, value in line.items() if name not in ("kind", "step"))
    return f"{line['kind']}: {told}" if told else str(line["kind"])


def _is_installed(name: str) -> bool:
    """Whether it can be imported; a folder of that name, such as wandb leaves behind, is no module."""
    found = find_spec(name)
    return found is not None and found.origin is not None
