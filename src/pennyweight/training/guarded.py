"""Guarded: what a training does about an alarm: says it, or goes back to where it was sound and on with more precision.

Everything that decides stands in the checkpoint (`Progress`) or in the ledger (looks), and going back is what resuming
does: so a run killed anywhere hears the same alarms again and takes the same ways out.
"""

import logging
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pennyweight.analysis import Blamed, Look, blame
from pennyweight.analysis.blame import MEMORY
from pennyweight.data import Corpus
from pennyweight.recipes.raised import is_written
from pennyweight.training import alarms
from pennyweight.training.alarms import Alarm
from pennyweight.training.checkpoint import checkpoints, damage, load, step_of
from pennyweight.training.folder import RunFolder
from pennyweight.training.guard import Diverged
from pennyweight.training.ledger import Ledger, read_ledger
from pennyweight.training.memory import give_freed_memory_back
from pennyweight.training.rescue import Rescue, rescue, worst
from pennyweight.training.run import Run
from pennyweight.training.state import Training

logger = logging.getLogger("pennyweight.training")


@dataclass
class Watchman:
    """Hears alarms in what a training has told, and answers them as `Run.guard` says; remembers the last looks."""

    run: Run
    corpus: Corpus
    device: str
    ledger: Ledger
    folder: RunFolder | None
    looks: list[Look] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.folder is not None and self.run.guard.mode != "off":
            lines = [line for line in read_ledger(self.folder.ledger) if line["kind"] == "diagnosis"]
            self.looks = [Look.from_line(line) for line in lines[-MEMORY - 1 :]]

    @property
    def acts(self) -> bool:
        """Whether it may change anything."""
        return self.run.guard.mode == "act"

    def can_act(self, training: Training) -> bool:
        """Whether it may go back once more, and could raise anything then."""
        return self.acts and len(rescues(training)) < self.run.guard.rescues and is_written(training.recipe)

    def suspects(self, training: Training) -> Alarm | None:
        """The alarm in the losses and gradient norms of the steps so far."""
        if self.run.guard.mode == "off":
            return None
        progress = training.progress
        losses = [loss for _, loss in progress.curve[-alarms.WINDOW - alarms.RECENT :]]
        return alarms.of_loss(losses, progress.step) or alarms.of_norm(progress.norms, progress.step)

    def hears(self, training: Training, suspicion: Alarm | None, line: dict[str, Any] | None) -> Alarm | None:
        """The alarm after a step: what was suspected before it, or what the look of the step (its line) tells."""
        progress, found = training.progress, None
        if line is not None and self.run.guard.mode != "off":
            # as the ledger holds it: a run that was killed reads it there
            self.looks = [*self.looks[-MEMORY:], Look.from_line(line)]
            found = alarms.of_looks(self.looks, progress.sound)
            if found is None and suspicion is None and self.acts:
                progress.sound = progress.step - 1
        return suspicion or found

    def answers(self, training: Training, alarm: Alarm) -> Training | None:
        """The training to go on with, where the guard can act; else None, and it is said.

        Said once, until the alarm has been silent for as long as alarms look back.
        """
        progress = training.progress
        if self.can_act(training):
            return self._back(training, alarm, self._choice(training, alarm))
        silent = max(alarms.WINDOW, self.run.diagnosis.every)
        if progress.alarmed is None or alarm.step - progress.alarmed > silent:
            told = {"what": alarm.what, "blamed": [one.layer for one in self._blamed(alarm)], "back": None}
            progress.guard.append({"step": alarm.step, **told})
            self.ledger.write("guard", alarm.step, **told)
            logger.warning("at step %d the guard saw: %s", alarm.step, alarm.what)
        progress.alarmed = alarm.step
        return None

    def gives_up(self, training: Training, error: Diverged) -> Diverged:
        """The error, with why a guard that acts does not."""
        if not self.acts:
            return error
        times = len(rescues(training))
        spent = f"the guard has gone back {times} time{'s' if times > 1 else ''} and goes no more"
        why = spent if times >= self.run.guard.rescues else "the guard finds nothing left to raise"
        return Diverged(f"{error}; {why}", step=error.step, where=error.where, what=error.what)

    def _blamed(self, alarm: Alarm) -> list[Blamed]:
        return list(alarm.blamed) or worst(blame(self.looks))

    def _choice(self, training: Training, alarm: Alarm) -> Rescue:
        plain = sum(len(one["layers"]) for one in rescues(training))
        layers = training.conversion.converted
        return rescue(training.recipe, self._blamed(alarm), layers=layers, spent=plain)

    def _back(self, training: Training, alarm: Alarm, chosen: Rescue) -> Training:
        """The training as it was when all was well, by the recipe that was chosen; the one given is gone."""
        sound, fallen, before = alarm.sound, training.progress, rescues(training)
        if before and alarm.step <= before[-1]["step"]:
            sound = min(sound, before[-1]["back"] - 1)  # it fell again before it was past the first fall: farther back
        path = self._good(sound)
        step = 0 if path is None else step_of(path) or 0
        told = {
            "what": alarm.what,
            "blamed": [one.layer for one in self._blamed(alarm)],
            "back": step,
            "raised": chosen.raised,
        }
        self.ledger.write("guard", alarm.step, **told)
        logger.warning(
            "at step %d the guard saw: %s; back to step %d, and on with %s", alarm.step, alarm.what, step, chosen.raised
        )
        begun = again(training, self.corpus, self.device, path)
        for name in ("seconds", "diagnosis_seconds", "peak_memory_bytes", "memory"):
            setattr(begun.progress, name, getattr(fallen, name))
        curve = [[at, loss] for at, loss in fallen.curve if at > step]
        begun.progress.guard = [
            *fallen.guard,
            {"step": alarm.step, **told, "layers": list(chosen.layers), "curve": curve},
        ]
        begun.progress.raised = chosen.recipe.to_dict()
        begun.switch(begun.recipe.at(step - 1, self.run.steps))
        return begun

    def _good(self, sound: int) -> Path | None:
        """The newest whole checkpoint of at most `sound` steps; what is newer goes, for trouble had begun there."""
        every = checkpoints(self.folder.checkpoints) if self.folder is not None else []
        path = next((path for path in every if (step_of(path) or 0) <= sound and damage(path) is None), None)
        for one in every[: every.index(path)] if path is not None else every:
            shutil.rmtree(one)
        return path


def again(training: Training, corpus: Corpus, device: str, path: Path | None) -> Training:
    """The training as the checkpoint at `path` holds it, or before its first step; the one given is gone."""
    training.optimizer.state.clear()
    training.model.to_empty(device="meta")
    give_freed_memory_back()
    begun = Training.begin(training.run, corpus, device)
    if path is not None:
        begun.restore(load(path))
    return begun


def rescues(training: Training) -> list[dict[str, Any]]:
    """What the guard wrote of each time that it went back."""
    return [one for one in training.progress.guard if one["back"] is not None]
