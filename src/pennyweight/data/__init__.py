"""Data: what the model reads, from a source of text to batches of token numbers."""

from pennyweight.data.corpus import Corpus, check_names, prepare
from pennyweight.data.documents import Documents
from pennyweight.data.sampler import Sampler, check_length, epoch_windows, validation_batches
from pennyweight.data.sources import documents

__all__ = [
    "Corpus",
    "Documents",
    "Sampler",
    "check_length",
    "check_names",
    "documents",
    "epoch_windows",
    "prepare",
    "validation_batches",
]
