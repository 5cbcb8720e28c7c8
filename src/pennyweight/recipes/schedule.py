"""Schedule: which recipe holds when, as a person writes it: "bf16 until 10%, then w8a8g8, then g8 from 90%".

The parts of a schedule stand in the order of the training, with ", then" (or a comma) between them, and each is a
recipe by name or notation. Where one ends and the next begins is said once, on either side: "until 10%" or "from 10%",
a share of the steps as 10% or 0.1, or a number of steps as 40.

Source:   switching the forward products alone back to high precision, late: the NVFP4 recipe, arXiv:2509.25149.
Ancestor: one recipe, "until 100%" or without a word, is that recipe.
"""

import re
from dataclasses import replace

from pennyweight.recipes import named
from pennyweight.recipes.recipe import Phase, Recipe
from pennyweight.spelling import closest

FORM = "RECIPE until 10%, then RECIPE (10% or 0.1: a share of the steps; 40: steps)"
BETWEEN = re.compile(r"\s*,\s*then\s+|\s*,\s*|\s+then\s+")
WORDS = ("from", "until", "then")
END = ("100%", "end", "the end")


def recipe(text: str | Recipe) -> Recipe:
    """A recipe by name ("penny8"), by notation ("w4ca8tg8m8v8"), or several in turn ("bf16 until 10%, then w8a8").

    A recipe is returned as it is. ValueError in one sentence, with the nearest right name, for anything else.
    """
    if not isinstance(text, str) or not ("," in text or any(closest(word, WORDS) for word in text.lower().split()[1:])):
        return named.recipe(text)
    parts = [_part(part, text) for part in BETWEEN.split(text.strip())]
    (first, _, _), last = parts[0], parts[-1]
    if parts[0][1]:
        raise ValueError(f"schedule {text!r} begins with {first}, which holds from the first step on; leave out 'from'")
    if last[2] and last[2] not in END:
        raise ValueError(f"schedule {text!r} does not say what follows {last[0]} after {last[2]}; it is read as {FORM}")
    phases: list[Phase] = []
    for (before, _, until), (one, since, _) in zip(parts, parts[1:], strict=False):
        if until and since and _start(until, text) != _start(since, text):
            raise ValueError(f"schedule {text!r} says {before} until {until}, but {one} from {since}; say it once")
        if not (until or since):
            raise ValueError(f"schedule {text!r} does not say when {one} follows {before}; it is read as {FORM}")
        phases.append(Phase(_start(until or since, text), one))
    return replace(first, then=tuple(phases))


def _part(part: str, text: str) -> tuple[Recipe, str, str]:
    """The recipe of one part of a schedule, from when and until when it says that it holds."""
    if not part.split():
        raise ValueError(f"schedule {text!r} has a comma with no recipe beside it; it is read as {FORM}")
    name, *words = part.lower().split()
    said = {"from": "", "until": ""}
    while words:
        word, *words = words
        if word not in said or said[word] or not words:
            close = closest(word, said)
            hint = f"; did you mean {close!r}?" if close and close != word else f"; it is read as {FORM}"
            raise ValueError(f"schedule {text!r} cannot be read at {word!r}{hint}")
        if words[0] in ("the", "step"):
            words = words[1:]
        said[word], words = words[0] if words else "", words[1:]
        if words[:1] in (["step"], ["steps"]):
            words = words[1:]
    return named.recipe(name), said["from"], said["until"]


def _start(when: str, text: str) -> float:
    """10% -> 0.1, 0.1 -> 0.1, 40 -> 40. Errors: ValueError for what is no time within a training."""
    found = re.fullmatch(r"(\d+\.?\d*|\.\d+)(%?)", when)
    number = float(found[1]) / (100 if found[2] else 1) if found else 0.0
    if not found or number <= 0 or (number >= 1 and (found[2] or number % 1)):
        raise ValueError(
            f"schedule {text!r} switches at a share of the steps such as 10% or 0.1, or after a number of steps such "
            f"as 40, got {when!r}"
        )
    return number
