"""Data: what the model reads, from a source of text to batches of token numbers."""

from pennyweight.data.corpus import Corpus, cache_folder, prepare
from pennyweight.data.documents import Documents
from pennyweight.data.sampler import Sampler, validation_batches
from pennyweight.data.sources import documents

__all__ = ["Corpus", "Documents", "Sampler", "cache_folder", "documents", "prepare", "validation_batches"]
