"""Raised: the same recipe with more precision somewhere: in one component, or in some layers.

A component goes up one rung at a time:
    weights, activations, gradients     fewer than 8 bits, or one scale a tensor -> int8, one scale a row -> unwritten
    weights without a master copy       -> with one, first of all
    m                                   fewer than 8 bits, or scales of rows and tensors -> int8/block128 -> fp32
    v                                   a code with a zero, or fewer than 8 bits -> log8/block256 -> fp32
Layers go all the way: they are left plain by a rule of their own. Of a schedule, every recipe is raised.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Literal, get_args

from pennyweight.numerics import Cast, Integer, cast
from pennyweight.recipes.linear import LinearCasts, Product
from pennyweight.recipes.notation import STATES, linear_casts
from pennyweight.recipes.recipe import Recipe, Rule
from pennyweight.recipes.states import state_cast

Component = Literal["weights", "activations", "gradients", "m", "v"]
COMPONENTS: tuple[Component, ...] = get_args(Component)
UNWRITTEN = 32  # bits
ENOUGH = 8  # bits: every component of a healthy recipe trains in so many, where its scales follow the rows


def bits_of(recipe: Recipe, component: Component) -> int:
    """In how many bits a component is written at its narrowest, over a whole schedule; 32 where it is unwritten."""
    return min(_bits(one, component) for one in recipe.phases)


def is_written(recipe: Recipe) -> bool:
    """Whether there is anything to raise."""
    return any(bits_of(recipe, component) < UNWRITTEN for component in COMPONENTS)


def raised(recipe: Recipe, component: Component) -> Recipe:
    """The recipe with a component one rung higher, and a name that says so; equal where it is unwritten already."""
    if component in ("m", "v"):
        return _each(recipe, lambda one: _with_moment(one, component))
    return _each(recipe, lambda one: _with_operand(one, component))


def without_layers(recipe: Recipe, names: Sequence[str]) -> Recipe:
    """The recipe that leaves the layers of these names plain, and says in its own name how many they are."""
    rules = tuple(Rule(_literally(name)) for name in names)
    said = f"{len(names)} layer{'s' if len(names) > 1 else ''} plain"
    return _each(recipe, lambda one: replace(one, name=f"{one.name}+{said}", rules=(*rules, *one.rules)))


def _each(recipe: Recipe, change: Callable[[Recipe], Recipe]) -> Recipe:
    """Every recipe of a schedule changed, each where it was; of one recipe that one."""
    then = tuple(replace(phase, recipe=change(phase.recipe)) for phase in recipe.then)
    return replace(change(replace(recipe, then=())), then=then)


def _literally(name: str) -> str:
    """The glob that matches this name alone."""
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in name)


def _casts_of(recipe: Recipe) -> list[LinearCasts]:
    return [casts for casts in (recipe.linear, *(rule.linear for rule in recipe.rules)) if casts is not None]


def _operands(casts: LinearCasts, component: Component) -> list[Cast]:
    found = {
        "weights": [casts.output.right],
        "activations": [casts.output.left],
        "gradients": [casts.grad_input.left, casts.grad_weight.left],
    }[component]
    return [one for one in found if one is not None]


def _bits(recipe: Recipe, component: Component) -> int:
    if component in ("m", "v"):
        _, written = state_cast(getattr(recipe, component), component)
        return UNWRITTEN if written is None else written.format.bits
    return min(
        (one.format.bits for casts in _casts_of(recipe) for one in _operands(casts, component)), default=UNWRITTEN
    )


def _with_moment(recipe: Recipe, slot: Component) -> Recipe:
    name, written = state_cast(getattr(recipe, slot), slot)
    if written is None:
        return recipe
    healthy = STATES[slot][str(ENOUGH)]
    loose = written.scale.granularity != "block" or (slot == "v" and written.format.has_zero)
    higher = healthy if written.format.bits <= ENOUGH and (written.format.bits < ENOUGH or loose) else "fp32"
    changed = {slot: "fp32" if name == healthy else higher}
    if ({"m": recipe.m, "v": recipe.v} | changed, recipe.weights) == ({"m": "fp32", "v": "fp32"}, None):
        changed["state_rounding"] = "stochastic"  # as where nothing is rounded
    return replace(recipe, name=f"{recipe.name}+{slot} {changed[slot]}", **changed)


def _with_operand(recipe: Recipe, component: Component) -> Recipe:
    if component == "weights" and recipe.weights is not None:
        plain = {"state_rounding": "stochastic"} if (recipe.m, recipe.v) == ("fp32", "fp32") else {}
        return replace(recipe, name=f"{recipe.name}+weights with a master copy", weights=None, **plain)
    narrow = {str(one): _wider(one) for casts in _casts_of(recipe) for one in _operands(casts, component)}
    if not narrow:
        return recipe
    to = ", ".join(sorted({"plain" if one is None else str(one) for one in narrow.values()}))
    rules = tuple(replace(rule, linear=rule.linear and _raised(rule.linear, component)) for rule in recipe.rules)
    linear = recipe.linear and _raised(recipe.linear, component)
    return replace(recipe, name=f"{recipe.name}+{component} {to}", linear=linear, rules=rules)


def _wider(written: Cast) -> Cast | None:
    """One rung up: int8 by rows, or along the scales that it has where they are rows or columns; None: unwritten."""
    if written.format.bits >= ENOUGH and written.scale.granularity != "tensor":
        return None
    int8 = cast("int8/row")
    if isinstance(written.format, Integer) and written.scale.granularity in ("row", "column"):
        return replace(written, format=int8.format)
    return replace(int8, rounding=written.rounding)


def _raised(casts: LinearCasts, component: Component) -> LinearCasts:
    wider = lambda written: written and _wider(written)  # noqa: E731 (None stays None)
    a, w, g, h = casts.output.left, casts.output.right, casts.grad_input.left, casts.grad_weight.left
    if component == "weights":
        w = wider(w)
    elif component == "activations":
        a = wider(a)
    else:
        g, h = wider(g), wider(h)
    if casts.backward == "original":  # the published code: the backward pass reads nothing that is written
        return replace(casts, output=Product(a, w), grad_input=Product(g), grad_weight=Product(h), way="auto")
    made = linear_casts(w, a, g or h)
    if g is None or h is None or g == h:
        return made
    return replace(made, grad_weight=replace(made.grad_weight, left=h))
