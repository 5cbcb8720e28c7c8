"""Search: the cheapest recipe whose loss stays within a budget, searched by measurement and confirmed."""

from pennyweight.experiments.search.conduct import belongs, search
from pennyweight.experiments.search.folder import is_search
from pennyweight.experiments.search.outcome import Outcome, totals
from pennyweight.experiments.search.report import rebuilt

__all__ = ["Outcome", "belongs", "is_search", "rebuilt", "search", "totals"]
