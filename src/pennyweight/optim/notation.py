"""Notation: what the words of a recipe mean for stored moments, and for weights without a master copy."""

from dataclasses import replace
from functools import lru_cache

from pennyweight.numerics import Cast, Rounding, cast
from pennyweight.optim.moments import Moment
from pennyweight.recipes import state_cast


@lru_cache
def moment(
    text: str,
    slot: str = "m",
    rounding: Rounding = "stochastic",
    *,
    zero: bool = False,
) -> Moment:
    """The storage of m or v that `text` names; arguments and errors as for `recipes.state_cast`."""
    return Moment(*state_cast(text, slot, rounding, zero=zero))


@lru_cache
def weight_cast(text: str | None, rounding: Rounding = "stochastic") -> Cast | None:
    """The cast that rounds weights without a master copy: as the text says, else with `rounding`."""
    if text is None or text == "fp32":
        return None
    found = cast(text.removesuffix("/nearest"))
    if text.endswith("/nearest") or found.scale.arithmetic == "given":
        return found
    return replace(found, rounding=rounding)
