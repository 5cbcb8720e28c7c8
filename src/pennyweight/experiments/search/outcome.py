"""Outcome: what a search found, how that stands beside the named recipes, and what it cost to find."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from pennyweight.experiments.results import finite
from pennyweight.experiments.search.confirm import Confirmed
from pennyweight.experiments.search.picking import Point, front
from pennyweight.experiments.search.sensitivity import Sensitivity
from pennyweight.experiments.wording import count, percent, size
from pennyweight.training import Run

if TYPE_CHECKING:
    from pennyweight.experiments.search.study import Trial


@dataclass(frozen=True)
class Told:
    """One trial as the report tells it. share: of bf16's cost; difference: percent, at `step`."""

    number: int
    name: str
    components: dict[str, str]
    state: str
    share: float | None
    difference: float | None
    step: int | None
    trained: bool
    why: str


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """Everything a search came to; `to_dict` is search.json.

    answer: the cheapest recipe within the budget on fresh seeds, found or named; None: there is none.
    beaten: whether it is cheaper than the cheapest named one within the budget.
    """

    asked: dict[str, Any]
    bf16_cost: float
    answer: Confirmed | None
    beaten: bool
    sentence: str
    front: list[Point]
    trials: list[Told]
    confirmed: list[Confirmed]
    named: list[Confirmed]
    named_costs: dict[str, float]
    noise: dict[str, dict[str, float]]
    seeds: list[int]
    runs: int
    tokens: int

    @classmethod
    def of(
        cls, *, base: Run, asked: dict[str, Any], trials: "Sequence[Trial]", confirmed: list[Confirmed],
        named: list[Confirmed], named_costs: dict[str, float], sensitivity: Sensitivity, seeds: int,
    ) -> "Outcome":  # fmt: skip
        """What these trials and confirmations say together."""
        found = next((one for one in confirmed if one.within), None)
        rival = next((one for one in named if one.within), None)
        beaten = found is not None and (rival is None or found.cost < rival.cost)
        told = [_told(one) for one in trials if one.notes.get("why") != "killed"]
        ends = [Point(one.name, one.share or 0.0, one.difference or 0.0) for one in told if one.state == "finished"]
        fresh = [base.seed + 1 + place for place in range(seeds)]
        runs, tokens = spent(base, told, [*confirmed, *named], fresh, sensitivity.tokens)
        return cls(
            asked=asked, bf16_cost=named_costs["bf16"], answer=found if beaten else rival or found, beaten=beaten,
            sentence=sentence(found, rival, asked), front=front([*ends, Point("bf16", 1.0, 0.0)]), trials=told,
            confirmed=confirmed, named=named, named_costs=named_costs, noise=sensitivity.noise, seeds=fresh, runs=runs,
            tokens=tokens,
        )  # fmt: skip

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON, what is not finite as null."""
        return finite(asdict(self))

    @classmethod
    def from_dict(cls, written: Mapping[str, Any]) -> "Outcome":
        """What `to_dict` wrote."""
        parts = dict(written)
        for name in ("confirmed", "named"):
            parts[name] = [_confirmed(one) for one in parts[name]]
        parts["answer"] = None if parts["answer"] is None else _confirmed(parts["answer"])
        parts["front"] = [Point(**one) for one in parts["front"]]
        parts["trials"] = [Told(**one) for one in parts["trials"]]
        return cls(**parts)


def _confirmed(written: Mapping[str, Any]) -> Confirmed:
    differences = {int(seed): one for seed, one in written["differences"].items()}
    mean = math.inf if written["mean"] is None else written["mean"]
    return Confirmed(**{**written, "differences": differences, "mean": mean})


def _told(one: "Trial") -> Told:
    notes = one.notes
    return Told(
        one.number, one.candidate.name, one.candidate.to_dict(), one.state, notes.get("share"),
        notes.get("difference"), notes.get("step"), bool(notes.get("trained")), notes.get("why", ""),
    )  # fmt: skip


def spent(
    base: Run, trials: Sequence[Told], confirmed: Sequence[Confirmed], fresh: Sequence[int], looked: int
) -> tuple[int, int]:
    """How many runs were begun and how many tokens they learned from, each run once, those of sensitivity too.

    A run that diverged while it was confirmed counts in full.
    """
    whole = {("bf16", base.seed)}
    whole |= {("bf16", seed) for seed in fresh if confirmed}
    whole |= {(one.name, seed) for one in confirmed for seed in fresh[: one.runs]}
    whole |= {(one.name, base.seed) for one in trials if one.state == "finished"}
    parts = [one for one in trials if one.trained and one.state != "finished"]
    steps = len(whole) * base.steps + sum(one.step or 0 for one in parts)
    return len(whole) + len(parts), steps * base.tokens_per_step + looked


def priced(one: Confirmed, target: str) -> str:
    """A cost with its share of bf16's: "12.1 MiB (0.412 of bf16)"."""
    share = f"{one.share:.3f} of bf16's"
    if target == "time":
        return f"{share} step time"
    return f"{size(one.cost)}, {share}" if target == "memory" else f"{one.cost:.2f} bits a number, {share}"


def _lost(one: Confirmed, budget: float) -> str:
    seeds = f"{len(one.differences)} fresh seed{'s' if len(one.differences) != 1 else ''}"
    interval = f", 95 % interval {percent(one.low)} to {percent(one.high)}" if one.low is not None else ""
    said = f"validation loss {percent(one.mean)} on {seeds}{interval}"
    if not one.within:
        return said
    sure = "whole interval within" if one.surely else "mean within, interval's upper end not"
    return f"{said}: {sure} the budget of {100 * budget:g} %"


def sentence(found: Confirmed | None, rival: Confirmed | None, asked: Mapping[str, Any]) -> str:
    """What the search says: the recipe, its cost and loss, and how it stands beside the cheapest named one."""
    target, budget = asked["minimise"], asked["loss_budget"]
    named = f"{rival.name} ({priced(rival, target)}; {_lost(rival, budget)})" if rival else ""
    if found is None and rival is None:
        return f"No recipe was confirmed within the budget of {100 * budget:g} % of bf16's validation loss."
    if found is None:
        return f"No candidate was confirmed within the budget; the cheapest named recipe that is: {named}."
    own = f"{found.name}: {priced(found, target)}; {_lost(found, budget)}."
    if rival is None:
        return f"{own} No named recipe that costs less than bf16 is within the budget."
    if found.cost < rival.cost:
        return f"{own} The cheapest named recipe within the budget: {named}."
    return f"No candidate is cheaper than the cheapest named recipe within the budget, {named}. Next: {own}"


def totals(one: Outcome) -> str:
    """What the search spent."""
    halved = sum(trial.trained and trial.state == "pruned" for trial in one.trials)
    spared = sum(not trial.trained and trial.why != "tried before" for trial in one.trials)
    return (
        f"{one.runs} runs and {count(one.tokens)} tokens were spent; {halved} of the runs were stopped early. Proposed "
        f"and not trained, for they could not be cheaper: {spared}"
    )
