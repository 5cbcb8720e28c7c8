"""Checkpoints: the state of a run on disk, whole or not at all, and which one to go on from."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from pennyweight.training.files import sweep, whole_folder, write_json
from pennyweight.training.tensors import apart, checksum, read_tensors, together, write_tensors

MODEL, OPTIMIZER, TREE, STATE, SUMS = (
    "model.safetensors",
    "optimizer.safetensors",
    "optimizer.json",
    "state.json",
    "checksums.json",
)


@dataclass(frozen=True)
class Saved:
    """What a checkpoint holds: weights, the optimizer's state_dict, plain numbers (counter, position, curves)."""

    model: dict[str, Tensor]
    optimizer: dict[str, Any]
    state: dict[str, Any]


def step_of(folder: Path) -> int | None:
    """The step in a checkpoint folder's name, step-000120; None: no checkpoint."""
    number = folder.name.removeprefix("step-")
    return int(number) if folder.name.startswith("step-") and number.isdecimal() and folder.is_dir() else None


def checkpoints(folder: Path) -> list[Path]:
    """The checkpoints in `folder`, damaged ones included, the newest first."""
    found = [(step_of(path), path) for path in folder.iterdir()] if folder.is_dir() else []
    return [path for _, path in sorted(((s, p) for s, p in found if s is not None), reverse=True)]


def save(folder: Path, step: int, saved: Saved, *, keep: int, spare: int | None = None) -> Path:
    """Saves into folder/step-NNNNNN and deletes older ones (see `prune`), once the new one stands.

    Written under another name, fsynced, renamed: a process killed at any time leaves the checkpoints before it whole.
    Costs: no second copy of the tensors. Errors: OSError (a full disk); then nothing half-written stays.
    """
    folder.mkdir(parents=True, exist_ok=True)
    sweep(folder)
    final = folder / f"step-{step:06d}"  # where it exists it is damaged: a valid one would have been resumed from
    with whole_folder(final) as partial:
        tensors: dict[str, Tensor] = {}
        tree = apart(saved.optimizer, tensors)
        sums = {
            MODEL: write_tensors(partial / MODEL, saved.model),
            OPTIMIZER: write_tensors(partial / OPTIMIZER, tensors),
            TREE: write_json(partial / TREE, tree),
            STATE: write_json(partial / STATE, saved.state),
        }
        write_json(partial / SUMS, sums)
    for path in checkpoints(folder):
        if (step_of(path) or 0) > step:  # damaged, as `final` would be
            shutil.rmtree(path)
    prune(folder, step, keep=keep, spare=spare)
    return final


def prune(folder: Path, step: int, *, keep: int, spare: int | None = None) -> None:
    """Deletes the checkpoints older than the one at `step`, all but the newest `keep` - 1 of them.

    spare: the newest of at most so many steps stays too: the training was sound then, and may have to go back there.
    Also called by a process that resumes: the one before may have been killed after it saved and before it deleted.
    """
    older = [path for path in checkpoints(folder) if (step_of(path) or 0) < step]
    kept = older[: keep - 1] + [path for path in older if spare is not None and (step_of(path) or 0) <= spare][:1]
    for path in older:
        if path not in kept:
            shutil.rmtree(path)


def damage(path: Path) -> str | None:
    """Why the checkpoint cannot be trusted; None: every file is there and its checksum holds."""
    try:
        sums = json.loads((path / SUMS).read_text(encoding="utf-8"))
        for name in (MODEL, OPTIMIZER, TREE, STATE):
            if checksum(path / name) != sums[name]:
                return f"{name} does not match its checksum"
    except FileNotFoundError as error:
        return f"{Path(error.filename).name} is missing"
    except OSError as error:
        return f"{Path(error.filename or path).name} cannot be read: {error.strerror}"
    except (ValueError, RecursionError, KeyError, TypeError):
        return f"{SUMS} cannot be read"
    return None


def newest(folder: Path) -> tuple[Path | None, list[str]]:
    """The newest checkpoint whose checksums hold, and a sentence for each newer one whose do not.

    None: there is no checkpoint at all. Errors: ValueError when there are some and every one is damaged.
    """
    told: list[str] = []
    for path in checkpoints(folder):
        why = damage(path)
        if why is None:
            return path, told
        told.append(f"checkpoint {path.name} is damaged ({why})")
    if told:
        raise ValueError(f"no checkpoint in {folder} can be trusted: {'; '.join(told)}")
    return None, []


def load(path: Path) -> Saved:
    """What the checkpoint at `path` holds; the caller has made sure that its checksums hold (`newest`)."""
    tree = json.loads((path / TREE).read_text(encoding="utf-8"))
    return Saved(
        model=read_tensors(path / MODEL),
        optimizer=together(tree, read_tensors(path / OPTIMIZER)),
        state=json.loads((path / STATE).read_text(encoding="utf-8")),
    )
