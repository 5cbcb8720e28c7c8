"""Chosen: which tracker a run names, and whether it is installed."""

import logging
from importlib.util import find_spec
from pathlib import Path

from pennyweight.training.run import Run
from pennyweight.training.trackers.tracker import Tracker

logger = logging.getLogger("pennyweight.training")


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


def _is_installed(name: str) -> bool:
    """Whether it can be imported; a folder of that name, such as wandb leaves behind, is no module."""
    found = find_spec(name)
    return found is not None and found.origin is not None
