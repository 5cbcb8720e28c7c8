"""Axes: what one AXIS=V,V of a grid varies, and what the values of a cell make of its recipe and its settings."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace

from pennyweight.recipes import Recipe, recipe
from pennyweight.recipes.named import ELSEWHERE, NAMED
from pennyweight.recipes.notation import Token, is_notation, parse, tokenize, words
from pennyweight.spelling import closest, nearest
from pennyweight.training import Run
from pennyweight.training.settings import flat

COMPONENTS = {"weights": "w", "activations": "a", "gradients": "g", "m": "m", "v": "v", "saved": "k"}  # -> notation
OPERANDS = ("weights", "activations", "gradients")  # what `granularity` and `rounding` alone speak of
HOW = ("granularity", "rounding")
GRANULARITIES = {"row": "", "tensor": "t", "column": "c", "mx": "mx", "nv": "nv"}  # and blockN, squareN
ROUNDINGS = {"nearest": False, "stochastic": True}
PLAIN = ("none", "bf16", "fp32", "16", "32")  # of a component: it is not written
BETWEEN = re.compile(r",(?![^\[]*\])")  # a comma outside of brackets


@dataclass(frozen=True)
class Axis:
    """One thing that the cells of a grid differ in, and the values it takes, as they were typed."""

    name: str
    values: tuple[str, ...]

    @property
    def how(self) -> tuple[str, ...]:
        """The components whose granularity or rounding this axis says; none for every other axis."""
        before, _, last = self.name.rpartition(".")
        return () if last not in HOW else (before,) if before in COMPONENTS else () if before else OPERANDS

    @property
    def is_of_the_recipe(self) -> bool:
        """Whether it says what a component is written in or how."""
        return self.name in COMPONENTS or bool(self.how)


def read_axes(grid: Sequence[str], base: Run) -> list[Axis]:
    """The axes of a grid, each once, with values that can be read.

    Errors: ValueError for an empty grid, for a text that is no AXIS=V,V, and for names and values that are unknown,
    with the nearest right one; all values that are wrong are told together.
    """
    axes = [_read(text) for text in grid]
    if not axes:
        raise ValueError("sweep wants at least one axis, got an empty grid: --grid weights=none,8,4")
    for place, axis in enumerate(axes):
        if axis.name in [other.name for other in axes[:place]]:
            raise ValueError(f"each axis of a grid is given once, got {axis.name} twice")
        _check_name(axis.name, base)
    if wrong := [said for axis in axes for value in axis.values if (said := _wrong(axis, value))]:
        raise ValueError("; ".join(wrong))
    return axes


def _read(text: str) -> Axis:
    name, equals, values = text.partition("=")
    if not equals or not name.strip():
        raise ValueError(f"an axis is written AXIS=VALUE,VALUE, got {text!r}")
    name = name.strip().removeprefix("run.") if name.strip() != "run.gradients" else name.strip()
    told = tuple(dict.fromkeys(value.strip() for value in BETWEEN.split(values)))
    if "" in told:
        raise ValueError(f"axis {name} wants values with commas between them, got {text!r}")
    return Axis(name, told)


def setting_of(name: str) -> str:
    """The --set path of an axis: `gradients` alone is the component, so the run's own is called run.gradients."""
    return name.removeprefix("run.")


def _check_name(name: str, base: Run) -> None:
    """Errors: ValueError where no axis has this name."""
    settings = [path for path in flat(base.to_dict()) if path.split(".")[0] not in ("recipe", "seed", "config")]
    settings = [path if path != "gradients" else "run.gradients" for path in settings]
    parts = [f"recipe.{field.name}" for field in fields(Recipe)]
    own = [*COMPONENTS, *HOW, *(f"{one}.{how}" for one in (*OPERANDS, "m", "v") for how in HOW), "recipe"]
    for one in ("m", "v"):
        own.remove(f"{one}.rounding")  # both moments are rounded in one way: recipe.state_rounding
    if name in (*own, *settings) or any(name == part or name.startswith(f"{part}.") for part in parts):
        return
    if name.startswith("recipe."):
        part = name.split(".")[1]
        raise ValueError(f"Recipe has no field {part!r}{nearest(part, [field.name for field in fields(Recipe)])}")
    if name == "seed":
        raise ValueError("the seeds of a sweep are not an axis; give --seeds N")
    leaves = {path.rpartition(".")[2]: path for path in settings}
    close = leaves.get(name) or closest(name, [*own, *settings]) or leaves.get(closest(name, leaves) or "")
    hint = f"did you mean {close!r}?" if close else f"there are {', '.join(own)}, and every setting of --set"
    raise ValueError(f"a grid has no axis {name!r}; {hint}")


def _wrong(axis: Axis, value: str) -> str | None:
    """Why a value is none of its axis, in one sentence; None: it is one, or only a whole cell can tell."""
    said = f"axis {axis.name} has no value {value!r}"
    if axis.how:
        table = ROUNDINGS if axis.name.endswith("rounding") else GRANULARITIES
        if value in table or (table is GRANULARITIES and re.fullmatch(r"(block|square)[1-9]\d*", value)):
            return None
        return said + nearest(value, [*table, *(["block32", "square32"] if table is GRANULARITIES else [])])
    if axis.name == "recipe":
        return _raised(lambda: recipe(value))
    if axis.name not in COMPONENTS or value == "none":
        return None
    if value in PLAIN:
        return f"{said}; did you mean 'none'?"
    if axis.name == "gradients" and value in ("held", "freed"):
        return f"{said}; did you mean run.gradients={value}?"
    letter = COMPONENTS[axis.name]
    if value.lower() in ELSEWHERE:
        return f"{said}; did you mean {ELSEWHERE[value.lower()]!r}?"
    why = _raised(lambda: _checked(letter, value))
    close = closest(value, [word[1:] for word in words() if word[0] == letter])
    return why and (f"{said}; did you mean {close!r}?" if close else f"{said}: {why}")


def _checked(letter: str, value: str) -> None:
    token = _token(letter, value)
    token.state() if letter in "mv" else token.cast()


def _raised(make: Callable[[], object]) -> str | None:
    try:
        make()
    except ValueError as error:
        return str(error)
    return None


def _token(letter: str, value: str) -> Token:
    return tokenize(letter + value)[0]


def settings_of(values: Mapping[str, str], base: Recipe) -> list[str]:
    """What a cell sets in the base run, as the texts that --set takes, its recipe first.

    Errors: ValueError where a component is to be changed of a recipe that the notation does not say.
    """
    settings = [f"recipe={values['recipe']}"] if "recipe" in values else []
    axes = [Axis(name, (value,)) for name, value in values.items()]
    if any(axis.is_of_the_recipe for axis in axes):
        after = written(values, base)
        if after != tokens_of(_chosen(values, base)):
            settings = [f"recipe={word_of(after)}"]
    others = [axis for axis in axes if axis.name != "recipe" and not axis.is_of_the_recipe]
    return [*settings, *(f"{setting_of(axis.name)}={axis.values[0]}" for axis in others)]


def _chosen(values: Mapping[str, str], base: Recipe) -> Recipe:
    return recipe(values["recipe"]) if "recipe" in values else base


def written(values: Mapping[str, str], base: Recipe) -> dict[str, Token]:
    """What a cell writes and how, by letter of the notation. Errors: those of `tokens_of`."""
    axes = [Axis(name, (value,)) for name, value in values.items()]
    return _written(tokens_of(_chosen(values, base)), [axis for axis in axes if axis.is_of_the_recipe])


def tokens_of(chosen: Recipe) -> dict[str, Token]:
    """The tokens of the notation that say a recipe, by letter. Errors: ValueError for one that no notation says."""
    word = NAMED[chosen.name]().name if chosen.name in NAMED else chosen.name
    if replace(chosen, name="bf16") == recipe("bf16"):
        return {}
    if not is_notation(word) or _raised(lambda: parse(word)) or replace(parse(word), name=chosen.name) != chosen:
        raise ValueError(
            f"recipe {chosen} is more than its notation says, so no single component of it can be an axis; "
            "set its parts by path, such as recipe.m=int8, or begin from one like bf16 or w8a8g8"
        )
    return {token.letter: token for token in tokenize(word)}


def word_of(tokens: Mapping[str, Token]) -> str:
    """The notation of these tokens; nothing written is bf16."""
    return "".join(str(tokens[letter]) for letter in COMPONENTS.values() if letter in tokens) or "bf16"


def _written(before: Mapping[str, Token], axes: Iterable[Axis]) -> dict[str, Token]:
    """The tokens with what each axis says: first what is written in which format, then how, the general first."""
    tokens = dict(before)
    for axis in sorted(axes, key=lambda axis: (bool(axis.how), "." in axis.name)):
        value = axis.values[0]
        if axis.name in COMPONENTS:
            letter = COMPONENTS[axis.name]
            tokens.pop(letter, None)
            if value != "none":
                tokens[letter] = _token(letter, value)
        for component in axis.how:
            letter = COMPONENTS[component]
            if letter in tokens:
                tokens[letter] = _turned(tokens[letter], axis.name.rpartition(".")[2], value)
    return tokens


def _turned(token: Token, how: str, value: str) -> Token:
    """The token with another granularity or rounding."""
    scale = [suffix for suffix in token.suffixes if suffix not in ("s", "h")]
    stochastic, rotated = "s" in token.suffixes, "h" in token.suffixes
    if how == "rounding":
        stochastic = ROUNDINGS[value]
    else:
        suffix = GRANULARITIES.get(value, value.replace("block", "b").replace("square", "q"))
        scale = [suffix] if suffix else []
    return replace(token, suffixes=(*scale, *["s"] * stochastic, *["h"] * rotated))
