"""Studies: each paper's claims measured again by one command, with verdicts that intervals support."""

from pennyweight.experiments.studies.conduct import STUDIES, Outcome, named, study
from pennyweight.experiments.studies.report import lines_of, rebuilt, summary, to_dict, write_study

__all__ = [
    "STUDIES",
    "Outcome",
    "lines_of",
    "named",
    "rebuilt",
    "study",
    "summary",
    "to_dict",
    "write_study",
]
