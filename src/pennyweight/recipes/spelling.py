"""Spelling: which right name a wrong one was probably meant to be."""

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import Any


def nearest(wrong: str, right: Iterable[str]) -> str:
    """A half sentence, "; did you mean 'w8a8'?" or the whole list of right names where none is close."""
    names = list(right)
    close = get_close_matches(wrong, names, n=1, cutoff=0.6) or [n for n in names if n.lower() == wrong.lower()]
    return f"; did you mean {close[0]!r}?" if close else f"; there are {', '.join(names)}"


def check_fields(owner: str, given: Mapping[str, Any], fields: Iterable[str]) -> None:
    """Raises ValueError for a key of `given` that is none of `fields`, offering the nearest one."""
    fields = list(fields)
    for key in given:
        if key not in fields:
            raise ValueError(f"{owner} has no field {key!r}{nearest(key, fields)}")
