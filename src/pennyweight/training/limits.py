"""Limits: what a run asks of its text, its memory and its disk, and whether that is there."""

import shutil
from pathlib import Path

import torch

from pennyweight.data import Corpus, check_length, epoch_windows
from pennyweight.training.guard import DiskFull
from pennyweight.training.machine import memory_bytes
from pennyweight.training.memory import Categories
from pennyweight.training.run import Run


def check_text(run: Run, corpus: Corpus) -> None:
    """Says that the text is too short for the run.

    A step that read more sequences than the training part holds would read some of them twice.
    Errors: ValueError.
    """
    context = run.data.context
    check_length(corpus.valid, context, "the validation part")
    asked, there = run.batch * run.accumulate, epoch_windows(corpus.train, context)
    if asked > there:
        raise ValueError(
            f"a step of this run reads {asked:,} sequences of {context} tokens (batch={run.batch}, "
            f"accumulate={run.accumulate}), but the training part of {run.data.source!r} holds {there:,}"
        )


def check_memory(predicted: Categories, device: str) -> None:
    """Says that one step holds more than the machine does, however the rest of it is written. Errors: ValueError."""
    needed = sum(predicted.values())
    there = torch.cuda.get_device_properties(0).total_memory if device == "cuda" else memory_bytes()
    if there is not None and needed > there:
        largest = max(predicted, key=predicted.__getitem__)
        raise ValueError(
            f"a step of this run holds {needed / 1e9:,.1f} GB or more ({predicted[largest] / 1e9:,.1f} GB of them "
            f"{largest}), but this machine has {there / 1e9:,.1f} GB of memory; take a smaller batch, context or model"
        )


def check_disk(place: Path, predicted: Categories) -> None:
    """Says at once that a checkpoint and the model will not fit on the disk. Errors: DiskFull."""
    needed = 2 * predicted["weights"] + predicted["states"]
    there = next(path for path in [place, *place.absolute().parents] if path.exists())
    free = shutil.disk_usage(there).free
    if free < needed:
        raise DiskFull(
            f"a checkpoint and the model of this run need {needed / 1e6:,.0f} MB in {place}, "
            f"where {free / 1e6:,.0f} MB are free"
        )
