"""Rescue: what is raised, in a recipe that breaks a training, for what the diagnosis blames. Pure functions."""

from collections.abc import Sequence
from dataclasses import dataclass

from pennyweight.analysis import Blamed
from pennyweight.recipes import Recipe
from pennyweight.recipes.raised import COMPONENTS, UNWRITTEN, Component, bits_of, raised, without_layers

# What a measure's tensor or product blames, the first that is written: gradients are wrong by what they are written in,
# or by what they are computed from.
BLAMES: dict[str, tuple[Component, ...]] = {
    "x": ("activations",),
    "w": ("weights",),
    "g": ("gradients",),
    "gt": ("gradients",),
    "output": ("activations", "weights"),
    "grad_input": ("gradients", "weights"),
    "grad_weight": ("gradients", "activations"),
    "gradient": ("gradients", "activations", "weights"),
    "m": ("m",),
    "v": ("v",),
}


@dataclass(frozen=True)
class Rescue:
    """The recipe to go on by, what is raised in it, and the layers that are left plain; none: it is a component."""

    recipe: Recipe
    raised: str
    layers: tuple[str, ...] = ()


def rescue(recipe: Recipe, blamed: Sequence[Blamed], *, layers: Sequence[str], spent: int = 0) -> Rescue:
    """What to raise in `recipe` (perhaps a schedule, and written somewhere) for the layers blamed.

    A layer's measure blames a component. The component that most layers blame decides:
    - at most half of the layers blame it: these layers are left plain. What a few layers cannot bear is no fault of the
      component.
    - more do, or it is a moment, whose writing is the same in all layers: it goes one rung up in all of them.
    - nobody is blamed: the component in the fewest bits goes up.
    Never is more than half of the layers left plain, over all rescues of a run: then the component goes up.

    layers: the converted ones, by name. spent: how many the rescues before have left plain.
    """
    groups: dict[Component, list[Blamed]] = {}
    for one in blamed:
        if (part := _blames(recipe, one.measure)) is not None:
            groups.setdefault(part, []).append(one)
    if not groups:
        return _with(recipe, min(COMPONENTS, key=lambda part: bits_of(recipe, part)))
    part = max(groups, key=lambda part: (len(groups[part]), max(one.score for one in groups[part])))
    few = tuple(one.layer for one in groups[part] if one.layer in layers)
    if part not in ("m", "v") and 0 < 2 * len(few) <= len(layers) and 2 * (len(few) + spent) <= len(layers) + spent:
        made = without_layers(recipe, few)
        return Rescue(made, _difference(recipe, made), few)
    return _with(recipe, part)


def worst(ranking: Sequence[Blamed]) -> list[Blamed]:
    """Of a ranking of which nothing is broken, those at least half as bad as the first."""
    return [one for one in ranking if one.score > 0 and 2 * one.score >= ranking[0].score]


def _blames(recipe: Recipe, measure: str) -> Component | None:
    """The component that a measure blames; None: all that it could blame is unwritten."""
    return next((part for part in BLAMES[measure.partition(".")[0]] if bits_of(recipe, part) < UNWRITTEN), None)


def _with(recipe: Recipe, part: Component) -> Rescue:
    made = raised(recipe, part)
    return Rescue(made, _difference(recipe, made))


def _difference(before: Recipe, after: Recipe) -> str:
    """What the name of the first recipe that changed says in addition: "v log8/block256"."""
    pairs = zip(before.phases, after.phases, strict=True)
    return next(b.name.removeprefix(f"{a.name}+") for a, b in pairs if a != b)
