"""Spelling: which right name a wrong one was probably meant to be, and which kind of value a field takes."""

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from types import UnionType
from typing import Any


def closest(wrong: str, right: Iterable[str]) -> str | None:
    """The right name most like the wrong one; None if none is alike."""
    return next(iter(get_close_matches(wrong, list(right), n=1, cutoff=0.6)), None)


def nearest(wrong: str, right: Iterable[str]) -> str:
    """A half sentence, "; did you mean 'w8a8'?" or the whole list of right names where none is alike."""
    names = list(right)
    close = closest(wrong, names)
    return f"; did you mean {close!r}?" if close else f"; there are {', '.join(names)}"


def check_fields(owner: str, given: Mapping[str, Any], fields: Iterable[str]) -> None:
    """Raises TypeError where `given` has no keys; ValueError for one that is none of `fields`, with the nearest one."""
    check_kind(owner, given, Mapping, "a mapping of its fields")
    fields = list(fields)
    for key in given:
        if key not in fields:
            raise ValueError(f"{owner} has no field {key!r}{nearest(key, fields)}")


def check_kind(owner: str, value: object, kind: type | UnionType, what: str) -> None:
    """Raises TypeError unless `value` is of that kind, saying `what` the field takes. A bool is no number."""
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        close = closest(value, ["true", "false"]) if kind is bool and isinstance(value, str) else None
        raise TypeError(f"{owner} is {what}, got {value!r}{f'; did you mean {close!r}?' if close else ''}")


def choose(owner: str, value: object, choices: Iterable[str]) -> None:
    """Raises ValueError unless `value` is one of the choices, offering the nearest one."""
    choices = list(choices)
    if value not in choices:
        close = closest(str(value), choices)
        hint = f"; did you mean {close!r}?" if close else ""
        raise ValueError(f"{owner} is one of {', '.join(choices)}, got {value!r}{hint}")
