"""Facts of a search: what its report says and where the points of its picture stand, before it is HTML or Markdown."""

import math
from dataclasses import dataclass, replace
from typing import Literal

from pennyweight.experiments.charts import Tick, decimals, spread_out, ticks
from pennyweight.experiments.facts import Grid, flags
from pennyweight.experiments.search.confirm import Confirmed
from pennyweight.experiments.search.outcome import Outcome, Told, totals
from pennyweight.experiments.statistics import Mark
from pennyweight.experiments.wording import NOTHING, number, percent

WHAT = {"memory": "memory a step holds", "time": "time of a step", "bits": "mean bits a number"}
LABEL_ROOM = 5.0  # percent of the picture's height
BEYOND = 4.0  # times the budget: what loses more stands at the upper edge


Kind = Literal["bf16", "trial", "halved", "fresh", "named", "answer"]  # fresh: found, and not the answer


@dataclass(frozen=True)
class Dot:
    """One recipe in the picture, in units of its frame of 1000 x 600; bar: the upper and lower end of its interval."""

    kind: Kind
    x: float
    y: float
    label: str
    said: str
    bar: tuple[float, float] | None = None
    left: bool = False  # whether its label stands on its left
    at: float = 0.0  # height of its label


@dataclass(frozen=True)
class Picture:
    """The loss difference against the cost."""

    title: str
    dots: tuple[Dot, ...]
    front: str  # an SVG path
    budget: float  # height of its line
    across: tuple[Tick, ...]
    up: tuple[Tick, ...]


@dataclass(frozen=True)
class SearchFacts:
    """The whole report of a search."""

    title: str
    mark: Mark  # "holds": cheaper than every named one, surely within; "open": on average, or no cheaper; "fails": none
    sentence: str
    spent: str
    picture: Picture
    confirmed: Grid
    trials: Grid
    spared: Grid
    named: Grid
    noise: Grid
    command: str
    replay: str
    files: str = "search.json, results.json and search.sqlite, which Optuna reads"


def search_facts(one: Outcome) -> SearchFacts:
    """Everything there is to say about a search."""
    asked = one.asked
    threads = asked["threads"]
    trained = [trial for trial in one.trials if trial.trained]
    base = [word for word in flags(asked["base"]) if word]
    tail = ["--loss-budget", f"{asked['loss_budget']:g}", "--minimise", asked["minimise"], "--threads", str(threads)]
    return SearchFacts(
        title=f"The recipe of least {asked['minimise']} within {100 * asked['loss_budget']:g} % of bf16's loss",
        mark="fails" if one.answer is None else "holds" if one.beaten and one.answer.surely else "open",
        sentence=one.sentence,
        spent=totals(one) + ".",
        picture=picture(one),
        confirmed=_confirmed([*one.confirmed, *one.named], {each.name for each in one.named}),
        trials=(
            ("trial", "recipe", "cost of bf16's", "loss against bf16", "at step", "what became of it"),
            [_trial(trial) for trial in trained],
        ),
        spared=(("trial", "recipe", "cost of bf16's", "why it was not trained"), _spared(one)),
        named=_named(one),
        noise=_noise(one),
        command=" ".join(["pennyweight search", *tail, *base]),
        replay=f"OMP_NUM_THREADS={threads} pennyweight train found/run.json --out replayed" if one.answer else "",
    )


def _trial(one: Told) -> tuple[str, ...]:
    return (
        str(one.number), one.name, number(one.share, 3), percent(one.difference),
        NOTHING if one.step is None else str(one.step), one.why or "trained to its end",
    )  # fmt: skip


def _spared(one: Outcome) -> list[tuple[str, ...]]:
    untrained = [trial for trial in one.trials if not trial.trained]
    return [(str(each.number), each.name, number(each.share, 3), each.why) for each in untrained]


def _confirmed(every: list[Confirmed], named: set[str]) -> Grid:
    lines = []
    for one in every:
        interval = f"{percent(one.low)} to {percent(one.high)}" if one.low is not None else NOTHING
        said = "within, surely" if one.surely else "within on average" if one.within else "not within"
        kind = "named" if one.name in named else "found"
        seeds = ", ".join(percent(each) for each in one.differences.values())
        what = f"{said}: {one.error}" if one.error else said
        lines.append((one.name, kind, number(one.share, 3), percent(one.mean), interval, seeds, what))
    header = ("recipe", "from", "cost of bf16's", "loss against bf16", "95 % interval", "each seed", "budget")
    return header, lines


def _named(one: Outcome) -> Grid:
    measured = {each.name: each for each in one.named}
    lines = []
    for name, cost in sorted(one.named_costs.items(), key=lambda pair: (pair[1], pair[0])):
        loss = percent(measured[name].mean) if name in measured else "not needed"
        lines.append((name, number(cost / one.bf16_cost, 3), "the baseline" if name == "bf16" else loss))
    return ("named recipe", "cost of bf16's", "loss against bf16, fresh seeds"), lines


def _noise(one: Outcome) -> Grid:
    told = [(db, name, option) for name, every in one.noise.items() for option, db in every.items()]
    lines = [(name, option, f"{db:.1f} dB") for db, name, option in sorted(told, reverse=True)]
    return ("component", "written in", "left of it"), lines


def picture(one: Outcome) -> Picture:
    """Where every recipe that was trained stands: to the left the cheaper, above the worse."""
    limit = 100 * one.asked["loss_budget"]
    named = {each.name for each in one.named}
    fresh = [each for each in (*one.confirmed, *one.named) if math.isfinite(each.mean)]
    seen = [each for each in one.trials if each.trained and each.share is not None and each.difference is not None]
    shares = [1.0, *(each.share for each in fresh), *(each.share or 1.0 for each in seen)]
    losses = [0.0, *(each.mean for each in fresh), *(each.difference or 0.0 for each in seen)]
    lows = [each.low for each in fresh if each.low is not None]
    left, right = min(shares) - 0.04, 1.06
    high = min(BEYOND * limit, max(1.3 * limit, *losses)) * 1.05
    low = max(-BEYOND * limit, min([-0.4 * limit, *losses, *lows])) * 1.05

    def x(share: float) -> float:
        return 1000 * (share - left) / (right - left)

    def y(loss: float) -> float:
        return min(592.0, max(8.0, 600 * (high - loss) / (high - low)))

    dots = [Dot("bf16", x(1.0), y(0.0), "bf16", "bf16, which all is measured against", left=True)]
    for each in seen:
        ended = each.state == "finished"
        share, loss = each.share or 0.0, each.difference or 0.0
        why = "to its end, on the seed of the search" if ended else each.why
        dots.append(Dot("trial" if ended else "halved", x(share), y(loss), "", f"{each.name}: {percent(loss)}, {why}"))
    for each in fresh:
        kind: Kind = (
            "answer" if one.answer and each.name == one.answer.name else "named" if each.name in named else "fresh"
        )
        bar = (y(each.high), y(each.low)) if each.low is not None and each.high is not None else None
        said = f"{each.name}: {percent(each.mean)} on {len(each.differences)} fresh seeds"
        dots.append(Dot(kind, x(each.share), y(each.mean), each.name, said, bar, left=x(each.share) > 700))
    named_dots = [dot for dot in dots if dot.label]
    heights = spread_out([dot.y / 6 for dot in named_dots], LABEL_ROOM)
    placed = {id(dot): 6 * height for dot, height in zip(named_dots, heights, strict=True)}
    dots = [replace(dot, at=placed.get(id(dot), 0.0)) for dot in dots]
    path = " L".join(f"{x(point.cost):.1f} {y(point.difference):.1f}" for point in one.front)
    across, up = ticks(left, right), ticks(low, high)
    digits = max(decimals(across), 1), decimals(up)
    return Picture(
        f"Loss against bf16, and {WHAT[one.asked['minimise']]} as a share of bf16's",
        tuple(dots), f"M{path}", y(limit),
        tuple(Tick(x(each), number(each, digits[0])) for each in across),
        tuple(Tick(y(each), number(each, digits[1]) + " %") for each in up),
    )  # fmt: skip
