"""Sweep: a grid of runs, cell by cell, resumable, on this machine or on a Ray cluster."""

from pennyweight.experiments.sweep.conduct import ENGINES, sweep, train_cells
from pennyweight.experiments.sweep.facts import comparisons, labelled
from pennyweight.experiments.sweep.folder import belongs, is_sweep, rebuilt
from pennyweight.experiments.sweep.grid import Cell, CellsNotBuilt

__all__ = [
    "ENGINES",
    "Cell",
    "CellsNotBuilt",
    "belongs",
    "comparisons",
    "is_sweep",
    "labelled",
    "rebuilt",
    "sweep",
    "train_cells",
]
