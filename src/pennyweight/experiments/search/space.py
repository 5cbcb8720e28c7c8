"""Space: what a search may write in how few bits, the recipe of each candidate, and the way down from all-bf16."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace

from pennyweight.numerics import cast
from pennyweight.recipes import Recipe, Rule, recipe

NONE = "none"
NO_MASTER = "8-nomaster"  # int8 codes and nothing else, as `penny8-nomaster` keeps them
SPARED = "quarter"  # of the layers, those that lose most in writing, stay in bf16
STORED = "int8/row/pow2"
LETTERS = {"weights": "w", "activations": "a", "gradients": "g", "m": "m", "v": "v", "saved": "k"}  # -> notation
OPTIONS: dict[str, tuple[str, ...]] = {
    "weights": (NONE, "8", NO_MASTER, "4b32"),
    "activations": (NONE, "8", "4b32"),
    "gradients": (NONE, "8"),
    "m": (NONE, "8", "4"),
    "v": (NONE, "8", "4"),
    "saved": (NONE, "8", "4"),
    "plain": (NONE, SPARED),
}
FEWEST_DB = 10.0  # what leaves less than this of a tensor (an error of a third of its size) is not tried

Noise = Mapping[str, Mapping[str, float]]  # component -> option -> decibels


@dataclass(frozen=True)
class Candidate:
    """One point of the space: what each component is written in, an option of `OPTIONS` each; nothing is all-bf16."""

    weights: str = NONE
    activations: str = NONE
    gradients: str = NONE
    m: str = NONE
    v: str = NONE
    saved: str = NONE
    plain: str = NONE

    def __post_init__(self) -> None:
        if self.plain != NONE and (self.weights, self.activations, self.gradients) == (NONE,) * 3:
            object.__setattr__(self, "plain", NONE)  # no layer is written, so none is spared

    @property
    def word(self) -> str:
        """What its components are in the notation of recipes; bf16 where nothing is written."""
        said = self.to_dict()
        word = "".join(f"{letter}{said[name]}" for name, letter in LETTERS.items() if said[name] != NONE)
        return word.replace(f"w{NO_MASTER}", "w8") or "bf16"

    @property
    def name(self) -> str:
        """What a report calls it: the notation, and what the notation cannot say."""
        tail = "-nomaster" if self.weights == NO_MASTER else ""
        return self.word + tail + ("-spared" if self.plain != NONE else "")

    def to_dict(self) -> dict[str, str]:
        """Component -> option."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def recipe(self, sensitive: Sequence[str] = ()) -> Recipe:
        """The recipe; `sensitive`: the linear layers by name, those that lose most in writing first.

        Errors: ValueError where these components cannot stand together.
        """
        made = recipe(self.word)
        if self.weights == NO_MASTER:
            assert made.linear is not None
            stored = cast(STORED)
            linear = replace(made.linear, output=replace(made.linear.output, right=stored))
            made = replace(made, linear=linear, weights=stored)
        if self.plain != NONE:
            rules = tuple(Rule(name, None) for name in sensitive[: -(-len(sensitive) // 4)])
            made = replace(made, rules=rules)
        return replace(made, name=self.name)


def options(noise: Noise) -> dict[str, tuple[str, ...]]:
    """The options that are tried: those that leave `FEWEST_DB` of the tensors really seen."""
    return {
        name: tuple(one for one in every if noise.get(name, {}).get(one, FEWEST_DB) >= FEWEST_DB)
        for name, every in OPTIONS.items()
    }


def count(tried: Mapping[str, Sequence[str]]) -> int:
    """How many candidates there are, all-bf16 left out."""
    every = 1
    for values in tried.values():
        every *= len(values)
    return every - 1


def staircase(
    noise: Noise, tried: Mapping[str, Sequence[str]], cost: Callable[[Candidate], float | None], *, alone: bool = True
) -> list[Candidate]:
    """The way down from all-bf16: one option after the other, the least noisy first.

    cost:  of a candidate; None where it cannot be built.
    alone: an option is taken where it saves by itself; else every option is taken, and the candidates that are cheaper
           than all before are the way (time: products are faster only where both operands are written).
    """
    heard = [(name, one, noise.get(name, {}).get(one)) for name, values in tried.items() for one in values]
    heard = sorted((-decibels, name, one) for name, one, decibels in heard if decibels is not None)
    now = Candidate()
    before, path = cost(now), []
    for _, name, option in heard:
        further = replace(now, **{name: option})
        price = cost(further)
        if price is None or before is None:
            continue
        if price < before:
            now, before = further, price
            path.append(now)
        elif not alone:
            now = further
    return path


def bisected(path: Sequence[Candidate]) -> list[Candidate]:
    """The candidates of a path in the order of a search by halves: the last, the middle, the middles of the halves."""
    order: list[Candidate] = list(path[-1:])
    spans = [(0, len(path) - 1)]
    while spans:
        low, high = spans.pop(0)
        if low < high:
            middle = (low + high) // 2
            order.append(path[middle])
            spans += [(low, middle), (middle + 1, high)]
    return order


def read(written: Mapping[str, str]) -> Candidate:
    """The candidate that `to_dict` wrote, or that a sampler proposed."""
    return Candidate(**{str(name): str(option) for name, option in written.items()})


def moves(tried: Mapping[str, Iterable[str]]) -> list[Candidate]:
    """Every candidate that writes one component alone."""
    return [read({name: one}) for name, values in tried.items() for one in values if one != NONE and name != "plain"]
