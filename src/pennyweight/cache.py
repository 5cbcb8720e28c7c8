"""Cache: the one folder outside a project where prepared text and compiled kernels are kept."""

import os
from pathlib import Path


def cache_folder() -> Path:
    """$PENNYWEIGHT_CACHE, else $XDG_CACHE_HOME/pennyweight, else ~/.cache/pennyweight."""
    if own := os.environ.get("PENNYWEIGHT_CACHE"):
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pennyweight"
