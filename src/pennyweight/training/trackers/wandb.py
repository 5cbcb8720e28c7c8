"""Weights & Biases: the ledger as a run there, in the account, project and mode that its own environment says."""

import os
import secrets
from collections.abc import Sequence
from pathlib import Path

import wandb  # type: ignore[reportMissingImports]  # optional

from pennyweight.training.run import Run
from pennyweight.training.trackers.tracker import Line, event, scalars

ID = "wandb-id"  # a file in the run folder: which run of theirs this is


class Wandb:
    """One call a line; a run that goes on is the same run there, and steps that it has are not sent again.

    WANDB_PROJECT (else "pennyweight"), WANDB_ENTITY and WANDB_MODE hold as they do everywhere.
    """

    def begin(self, run: Run, folder: Path, lines: Sequence[Line]) -> None:
        """Begins the run or resumes it. Errors: ValueError where wandb refuses, with what it says."""
        known = folder / ID
        name = known.read_text().strip() if known.is_file() else secrets.token_hex(4)
        try:
            self._run = wandb.init(
                project=os.environ.get("WANDB_PROJECT", "pennyweight"),
                id=name,
                resume="allow",
                name=f"{run.recipe} seed {run.seed}",
                config=run.to_dict(),
                dir=str(folder),
            )
        except wandb.Error as error:
            raise ValueError(
                f"wandb did not begin a run ({error}); log in, set WANDB_MODE=offline, or tracker=none"
            ) from None
        known.write_text(name + "\n")
        self._finished = False

    def write(self, line: Line) -> None:
        """One call; nothing for a step that stands there from a process before, with the same numbers bit for bit."""
        self._finished = line["kind"] == "end"
        said, step = event(line), int(line["step"])
        if step >= self._run.starting_step:
            self._run.log({**scalars(line), **({} if said is None else {"event": said})}, step=step)

    def end(self) -> None:
        """Waits until everything is sent."""
        self._run.finish(exit_code=0 if self._finished else 1)
