"""The training of a run: the loop, its files, its memory and its guards."""

from pennyweight.training.folder import load_run
from pennyweight.training.guard import DiskFull, Diverged, TrainingFailed
from pennyweight.training.launch import check, train
from pennyweight.training.ledger import read_ledger
from pennyweight.training.machine import commit, machine, versions
from pennyweight.training.models import SHAPES, build_model, read_config
from pennyweight.training.result import Result
from pennyweight.training.run import (
    Checkpoint,
    Config,
    Data,
    Diagnosis,
    Evaluation,
    Guard,
    Optimizer,
    Run,
    Schedule,
    Weights,
)  # fmt: skip
from pennyweight.training.settings import differences, resolved, with_settings
from pennyweight.training.validation import validation_loss

__all__ = [
    "SHAPES",
    "Checkpoint",
    "Config",
    "Data",
    "Diagnosis",
    "DiskFull",
    "Diverged",
    "Evaluation",
    "Guard",
    "Optimizer",
    "Result",
    "Run",
    "Schedule",
    "TrainingFailed",
    "Weights",
    "build_model",
    "check",
    "commit",
    "differences",
    "load_run",
    "machine",
    "read_config",
    "read_ledger",
    "resolved",
    "train",
    "validation_loss",
    "versions",
    "with_settings",
]
