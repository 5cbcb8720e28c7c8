"""Ways: a recipe reached after training, from a checkpoint and from scratch, all on one baseline."""

from pennyweight.experiments.ways.conduct import Plan, baseline_of, belongs, is_ways, ways
from pennyweight.experiments.ways.facts import answers, comparison, summary
from pennyweight.experiments.ways.report import rebuilt

__all__ = ["Plan", "answers", "baseline_of", "belongs", "comparison", "is_ways", "rebuilt", "summary", "ways"]
