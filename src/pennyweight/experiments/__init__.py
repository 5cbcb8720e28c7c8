"""Experiments: a question, many runs, and the report that answers it."""

from pennyweight.experiments.answers import answers
from pennyweight.experiments.compare import DEFAULT_RECIPES, belongs, compare
from pennyweight.experiments.evaluate import Evaluation, evaluate
from pennyweight.experiments.facts import comparisons
from pennyweight.experiments.report import report
from pennyweight.experiments.results import Row
from pennyweight.experiments.sweep import CellsNotBuilt, sweep

__all__ = [
    "DEFAULT_RECIPES",
    "CellsNotBuilt",
    "Evaluation",
    "Row",
    "answers",
    "belongs",
    "compare",
    "comparisons",
    "evaluate",
    "report",
    "sweep",
]
