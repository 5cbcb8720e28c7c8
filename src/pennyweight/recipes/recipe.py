"""Recipe: what every tensor of a training step is written in, which layers that holds for, and what it leaves out."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from fnmatch import fnmatchcase
from typing import Any, Literal, get_args

from pennyweight.numerics import Cast, Integer, Rounding
from pennyweight.recipes import table as tables
from pennyweight.recipes.linear import LinearCasts, kept_between, read_cast, unfoldable
from pennyweight.recipes.operands import PRODUCTS
from pennyweight.recipes.precision import Precision
from pennyweight.recipes.states import FEWEST_WRITTEN, PLAIN, WITH_ZERO, state_cast
from pennyweight.spelling import check_fields, check_kind, choose, nearest


@dataclass(frozen=True)
class Rule:
    """The casts of the linear layers whose module name matches `pattern` (a glob); None leaves them plain."""

    pattern: str
    linear: LinearCasts | None = None

    def __post_init__(self) -> None:
        check_kind("Rule.pattern", self.pattern, str, "a glob over module names")
        check_kind("Rule.linear", self.linear, LinearCasts | None, "the LinearCasts of its layers, or None")
        if not self.pattern:
            raise ValueError("Rule.pattern is a glob over module names, got an empty one")

    def to_dict(self) -> dict[str, Any]:
        return {"pattern": self.pattern, "linear": None if self.linear is None else self.linear.to_dict()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Rule":
        check_fields("Rule", values, [f.name for f in fields(cls)])
        return cls(**{**values, "linear": _linear(values.get("linear"))})


@dataclass(frozen=True)
class Recipe:
    """Which cast each tensor of a training step gets.

    name            what `str` gives where nothing follows, and what a report calls it
    linear          the casts of the linear layers; None leaves them plain
    rules           exceptions by module name; the first one that matches decides
    head            whether the output head is one of these layers
    weights         how the weights of converted linear layers are stored; None keeps fp32 master weights
    m, v            how the two moments of Adam are stored ("fp32", "bf16", "int8", "log8/block256", ...); a code with
                    a zero is taken for v only as NAME-with-zero
    saved           how what is kept for the backward pass beside the inputs of converted layers is written (what norms,
                    attention and the other functions keep); None keeps it as it is
    precision       everything else: autocast to bf16, or fp32
    last            share of the last blocks left plain, rounded down to whole blocks
    states          "all": every tensor large enough; "linear": only the weights of the layers that `linear` converts
    state_rounding  how m and v are rounded when stored
    then            the recipes that follow this one in a training, each from its step on; see `recipes.schedule`

    Ancestor: no casts is the plain model, bit for bit.
    """

    name: str
    linear: LinearCasts | None = None
    rules: tuple[Rule, ...] = ()
    head: bool = False
    weights: Cast | None = None
    m: str = "fp32"
    v: str = "fp32"
    saved: Cast | None = None
    precision: Precision = "bf16"
    last: float = 0.0
    states: Literal["all", "linear"] = "all"
    state_rounding: Rounding = "stochastic"
    then: "tuple[Phase, ...]" = ()

    def __post_init__(self) -> None:
        for field, kind in (("rules", "Rule"), ("then", "Phase")):
            check_kind(f"Recipe.{field}", getattr(self, field), tuple | list, f"a tuple of {kind}")
            object.__setattr__(self, field, tuple(getattr(self, field)))
        self._check_kinds()
        if not self.name:
            raise ValueError("Recipe.name is what a report calls it, got an empty one")
        choose("Recipe.precision", self.precision, get_args(Precision))
        choose("Recipe.states", self.states, ("all", "linear"))
        choose("Recipe.state_rounding", self.state_rounding, get_args(Rounding))
        if not 0 <= self.last <= 1:
            raise ValueError(f"Recipe.last is a share of the blocks between 0 and 1, got {self.last}")
        state_cast(self.m, "m", self.state_rounding)
        state_cast(self.v, "v", self.state_rounding)
        if self.saved is not None and self.saved.rounding == "stochastic":
            raise ValueError(f"Recipe.saved is rounded to nearest, got {self.saved}; leave 'stochastic' out")
        self._check_effects()
        converts = [self.linear, *(rule.linear for rule in self.rules)]
        if self.states == "linear" and not any(converts):
            raise ValueError(
                "Recipe.states='linear' writes the states of converted linear layers, but the recipe converts none; "
                "give it linear=LinearCasts(), which writes nothing in them, or states='all'"
            )

    def _check_effects(self) -> None:
        """Raises ValueError for a setting that decides nothing."""
        if self.linear is None and (self.head or self.last):
            given = f"head={self.head}" if self.head else f"last={self.last}"
            raise ValueError(
                f"Recipe.{given} says where linear=LinearCasts(...) holds, but linear is None: it leaves all plain"
            )
        if self.weights is not None and not any([self.linear, *(rule.linear for rule in self.rules)]):
            raise ValueError(
                f"Recipe.weights={self.weights} stores the weights of converted linear layers, but it converts none"
            )
        if (self.m, self.v, self.weights) == ("fp32", "fp32", None) and self.state_rounding != "stochastic":
            raise ValueError(
                f"Recipe.state_rounding={self.state_rounding!r} rounds m, v and stored weights, but m and v are fp32 "
                "and the weights are masters: none is rounded"
            )

    def _check_kinds(self) -> None:
        for field, kind, what in (
            ("name", str, "a text"),
            ("linear", LinearCasts | None, "the LinearCasts of its layers, or None"),
            ("head", bool, "true or false"),
            ("weights", Cast | None, "a cast, cast('int8/row'), or None"),
            ("saved", Cast | None, "a cast, cast('int8/row'), or None"),
            ("m", str, "a format as text, such as 'int8'"),
            ("v", str, "a format as text, such as 'log8'"),
            ("last", int | float, "a share of the blocks"),
        ):
            check_kind(f"Recipe.{field}", getattr(self, field), kind, what)
        for rule in self.rules:
            check_kind("Recipe.rules", rule, Rule, "a tuple of Rule")
        for phase in self.then:
            check_kind("Recipe.then", phase, Phase, "a tuple of Phase")

    def __str__(self) -> str:
        """The name; of a schedule what `recipe` reads: "bf16 until 10%, then w8a8g8"."""
        ends = [f" until {phase.when}" for phase in self.then]
        return ", then ".join(one.name + end for one, end in zip(self.phases, [*ends, ""], strict=True))

    @property
    def phases(self) -> "tuple[Recipe, ...]":
        """The recipes of a training in their order, none of them with another behind it."""
        return (replace(self, then=()) if self.then else self, *(phase.recipe for phase in self.then))

    @property
    def timetable(self) -> "list[tuple[str, Recipe]]":
        """When each recipe of a schedule holds: ("until 10%", bf16), ("from 10%", w8a8)."""
        whens = [f"until {self.then[0].when}", *(f"from {phase.when}" for phase in self.then)] if self.then else [""]
        return list(zip(whens, self.phases, strict=True))

    def switches(self, steps: int) -> "list[tuple[int, Recipe]]":
        """(start, recipe) of each recipe that follows: it holds from the step with that index (0 ... steps - 1) on.

        A share of the steps is rounded to whole ones. Raises ValueError where a recipe would hold for no step.
        """
        found: list[tuple[int, Recipe]] = []
        for phase in self.then:
            start = round(phase.start * steps) if phase.start < 1 else int(phase.start)
            before = found[-1][0] if found else 0
            if not before < start < steps:
                raise ValueError(
                    f"recipe {str(self)!r} switches to {phase.recipe} after step {start} of {steps}, but a switch "
                    f"comes after step {before + 1} and before the last; take a later or an earlier one, or more steps"
                )
            found.append((start, phase.recipe))
        return found

    def at(self, step: int, steps: int) -> "Recipe":
        """The recipe of the step with index `step` of a training of `steps` steps."""
        return [self.phases[0], *(one for start, one in self.switches(steps) if start <= step)][-1]

    def stores(self, casts: LinearCasts) -> bool:
        """Whether a layer of these casts keeps its weight as int8 codes and nothing else, which its products read.

        Other weights without a master copy are held in float32, on values that the codes could say.
        """
        cast = self.weights
        return (
            cast is not None
            and casts.output.right == cast
            and isinstance(cast.format, Integer)
            and cast.format.bits == 8
            and (cast.scale.granularity, cast.rounding, cast.rotation) == ("row", "nearest", None)
            and casts.backward in ("forward", "folded")
        )

    def choice(
        self, name: str, *, block: int | None = None, num_blocks: int | None = None, is_head: bool = False
    ) -> tuple[LinearCasts | None, str]:
        """The casts of the layer called `name` and the reason: ((casts, "linear layer") or (None, "the head ...")).

        `block` counts the transformer blocks from 0 to num_blocks - 1; None for a layer outside them.
        """
        for rule in self.rules:
            if fnmatchcase(name, rule.pattern):
                return rule.linear, f"rule {rule.pattern!r}"
        if self.linear is None:
            return None, f"{self.name} leaves linear layers plain"
        if is_head and not self.head:
            return None, f"{self.name} leaves the head plain"
        if block is not None and num_blocks is not None and block >= num_blocks - self.plain_blocks(num_blocks):
            return None, f"{self.name} leaves the last {self.plain_blocks(num_blocks)} of {num_blocks} blocks plain"
        return self.linear, "linear layer"

    def plain_blocks(self, num_blocks: int) -> int:
        """How many of the last blocks stay plain: the share `last`, rounded down (0.15 of 4 blocks is none)."""
        return math.floor(self.last * num_blocks + 1e-9)  # 1e-9: 0.15 * 20 is 3, whatever side binary lands on

    def check_rules(self, names: Iterable[str]) -> None:
        """Raises ValueError for a rule that matches none of the module names, with the nearest one."""
        names = list(names)
        for pattern in unmatched([rule.pattern for rule in self.rules], names):
            raise ValueError(
                f"Recipe {self.name} has a rule for {pattern!r}, which no layer matches" + _like(pattern, names)
            )

    @property
    def notes(self) -> list[str]:
        """What a reader of the table should also know: exceptions, approximations, where the bytes are."""
        if self.then:
            return [f"{one}: {note}" for one in dict.fromkeys(self.phases) for note in one.notes]
        groups = [("", self.linear)] + [(f"Layers {rule.pattern!r}: ", rule.linear) for rule in self.rules]
        sentences = [where + s for where, casts in groups if casts is not None for s in linear_notes(casts)]
        if self.linear is not None and self.linear.writes and not self.head:
            sentences.append("The output head stays in high precision.")
        casts = [casts for _, casts in groups if casts is not None]
        if between := kept_between(casts):
            kept = "slopes are kept in 8 bits" if between == "slopes" else "inputs are kept"
            sentences.append(
                f"SiLU and the GELUs are computed in one pass over memory; their {kept} for the backward pass."
            )
        if self.last:
            sentences.append(
                f"The last {self.last:.0%} of the blocks, rounded down to whole blocks, stay in high precision."
            )
        if any(casts is not None and casts.output.right is not None for _, casts in groups) and self.weights is None:
            sentences.append("Master weights are fp32; the written weights are made from them in every forward pass.")
        if WITH_ZERO in self.v:
            sentences.append(f"v is stored as {self.v}: a value coded zero makes the next step unboundedly long.")
        if self.states == "linear" and (self.m, self.v) != ("fp32", "fp32"):
            sentences.append("Only the states of converted linear weights are written; the others are fp32.")
        return sentences

    def table(self) -> list[dict[str, str]]:
        """One row per tensor: layers, product, operand, tensor, format, granularity, rounding, rotation, way, why.

        Of a schedule, the rows of every recipe in it, with `when` before them.
        """
        if self.then:
            return [{"when": when, **row} for when, one in self.timetable for row in one.table()]
        where = "linear layers" + (" and head" if self.head else "")
        where += f", not of the last {self.last:.0%} of the blocks" if self.last else ""
        rows: list[dict[str, str]] = []
        for layers, casts in [(where, self.linear)] + [(rule.pattern, rule.linear) for rule in self.rules]:
            if casts is None or not casts.writes:
                why = "the recipe leaves them plain"
                rows.append(tables.row(layers, "all", "-", "X, W, G", tables.plain(self.precision), "plain", why))
            else:
                rows += tables.linear_rows(casts, layers=layers, precision=self.precision)
        return rows + self._stored_rows()

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, casts as text; `from_dict` gives an equal recipe back."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        values["linear"] = None if self.linear is None else self.linear.to_dict()
        values["rules"] = [rule.to_dict() for rule in self.rules]
        values["then"] = [phase.to_dict() for phase in self.then]
        for name in ("weights", "saved"):
            values[name] = None if values[name] is None else str(values[name])
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Recipe":
        """The recipe that `to_dict` described; an unknown field is a ValueError with the nearest right one."""
        check_fields("Recipe", values, [f.name for f in fields(cls)])
        if "name" not in values:
            raise ValueError("Recipe needs a field 'name', got none")
        known = dict(values)
        known["linear"] = _linear(values.get("linear"))
        rules = values.get("rules", ())
        check_kind("Recipe.rules", rules, tuple | list, "a list of rules")
        known["rules"] = tuple(map(Rule.from_dict, rules))
        then = values.get("then", ())
        check_kind("Recipe.then", then, tuple | list, "a list of phases")
        known["then"] = tuple(map(Phase.from_dict, then))
        for name in ("weights", "saved"):
            known[name] = read_cast(f"Recipe.{name}", values.get(name))
        return cls(**known)

    def _stored_rows(self) -> list[dict[str, str]]:
        if self.weights is None:
            scope, weights, why = "whole model", tables.plain("fp32"), "master weights"
        else:
            weights = tables.cast_cells(self.weights, leaves="out channel", summed="in channel")
            if self.weights.scale.arithmetic != "given":
                weights["rounding"] = self.state_rounding
            scope, why = "converted linear weights", "no master copy"
        rows = [tables.row(scope, "stored", "weights", "stored W", weights, "stored", why)]
        for slot in ("m", "v"):
            scope = (
                f"tensors of {FEWEST_WRITTEN:,} elements and more"
                if self.states == "all"
                else "converted linear weights"
            )
            scope = "whole model" if getattr(self, slot) == "fp32" else scope
            rows.append(tables.row(scope, "stored", slot, slot, self._state_cells(slot), "stored", "state of Adam"))
        if self.saved is not None:
            cells = tables.cast_cells(self.saved, leaves="token", summed="channel")
            why = "kept for the backward pass"
            rows.append(tables.row("whole model", "saved", "all else", "saved", cells, "stored", why))
        rest = tables.plain(self.precision)
        return [*rows, tables.row("whole model", "else", "-", "everything else", rest, "plain", "products run in it")]

    def _state_cells(self, slot: str) -> dict[str, str]:
        name, written = state_cast(getattr(self, slot), slot, self.state_rounding)
        if written is None or name in PLAIN:
            return tables.plain(name)
        zero = ", with zero" if WITH_ZERO in getattr(self, slot) else ""
        cells = {"format": written.format.name + zero, "granularity": name.partition("/")[2]}
        return {**cells, "rounding": written.rounding, "rotation": "-"}


@dataclass(frozen=True)
class Phase:
    """A recipe that follows another in a training.

    start   when: below 1 a share of the steps, else the number of steps before it
    """

    start: float
    recipe: Recipe

    def __post_init__(self) -> None:
        check_kind("Phase.start", self.start, int | float, "a share of the steps below 1, or a number of steps")
        check_kind("Phase.recipe", self.recipe, Recipe, "a Recipe")
        if not self.start > 0 or (self.start >= 1 and self.start % 1):
            raise ValueError(
                f"Phase.start is a share of the steps between 0 and 1, or a whole number of steps, got {self.start:g}"
            )
        if self.recipe.then:
            raise ValueError(f"Phase.recipe is one recipe, got the schedule {str(self.recipe)!r}; list its phases")

    @property
    def when(self) -> str:
        """The start as a person writes it: 10% (of the steps), or 40 (steps)."""
        return f"{100 * self.start:.6g}%" if self.start < 1 else f"{self.start:.0f}"

    def to_dict(self) -> dict[str, Any]:
        return {"start": self.start, "recipe": self.recipe.to_dict()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Phase":
        check_fields("Phase", values, [f.name for f in fields(cls)])
        if missing := [f.name for f in fields(cls) if f.name not in values]:
            raise ValueError(f"Phase needs a field {missing[0]!r}, got none")
        return cls(values["start"], Recipe.from_dict(values["recipe"]))


def linear_notes(casts: LinearCasts) -> list[str]:
    """What a reader should know about the casts of a layer beyond its six rows."""
    sentences = []
    for tensor, written in (("X", casts.output.left), ("W", casts.output.right)):
        if written is not None and written.scale.granularity == "column":
            sentences.append(
                f"{tensor} has one scale per in channel, which the output sums over: that product is emulated."
            )
    if casts.backward == "folded" and casts.output.left is not None:
        sentences.append("The codes of X made in the forward pass are the saved input: no other copy of X is kept.")
    if casts.backward == "original" and casts.writes:
        sentences.append("The backward pass reads X and W unwritten, as the published code does, and saves no memory.")
    if casts.backward == "requantized":
        for tensor, written in (("W", casts.output.right), ("X", casts.output.left)):
            if written is not None and (why := unfoldable(written)):
                sentences.append(
                    f"{tensor} is cast again for the backward pass, because folding is not defined: {why}."
                )
    one_sided = [p for p in PRODUCTS if [o.cast is None for o in casts.operands(p)].count(True) == 1]
    if one_sided:
        sentences.append(f"Only one operand is written in {', '.join(one_sided)}: high-precision arithmetic there.")
    return sentences


def unmatched(patterns: Sequence[str], names: Sequence[str]) -> list[str]:
    """The patterns that match none of the module names."""
    return [pattern for pattern in patterns if not any(fnmatchcase(name, pattern) for name in names)]


def _like(pattern: str, names: list[str]) -> str:
    return nearest(pattern, names) if names else "; the model has no linear layer"


def _linear(values: Mapping[str, Any] | None) -> LinearCasts | None:
    return None if values is None else LinearCasts.from_dict(values)
