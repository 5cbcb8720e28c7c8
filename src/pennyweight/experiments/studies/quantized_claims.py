"""Quantized claims: what arms must have come to for a claim of quantized pre-training to hold."""

import re
from collections.abc import Callable, Mapping
from statistics import fmean

from pennyweight.experiments.statistics import Spread, paired
from pennyweight.experiments.studies.evidence import Evidence, spread_of
from pennyweight.experiments.studies.study import FAILS, HOLDS, UNTOLD, Effect, Judged, Side, judged

Judge = Callable[[Evidence], Judged | None]
BLOCK = re.compile(r"\.(\d+)\.")
MOST = 0.5  # of G: from which share of zeros on it counts as sparse


def against_bf16(evidence: Evidence, arm: str, wanted: Side) -> Effect:
    """How much higher an arm ends than bf16, and on which side of the margin the claim wants that."""
    return Effect(
        f"{arm} − bf16", evidence.difference(arm), wanted, evidence.margin,
        diverged=len(evidence.diverged(arm)), seeds=len(evidence.rows.get(arm, {})),
    )  # fmt: skip


def _judged(arms: tuple[str, ...], make: Callable[[Evidence], Judged]) -> Judge:
    """The judge that says nothing where one of its arms is no part of the study's."""
    return lambda evidence: make(evidence) if all(arm in evidence.rows for arm in arms) else None


def as_good(*arms: str) -> Judge:
    """Each arm is as good as bf16: its whole interval is below the margin, and no run broke down."""
    return _judged(arms, lambda evidence: judged(*(against_bf16(evidence, arm, "below") for arm in arms)))


def costs(*arms: str) -> Judge:
    """Each arm is worse than bf16: its whole interval is above the margin, or most runs broke down."""
    return _judged(arms, lambda evidence: judged(*(against_bf16(evidence, arm, "above") for arm in arms)))


def same(arm: str) -> Judge:
    """An arm that must not be found different: its interval is not on one side of both margins."""

    def judge(evidence: Evidence) -> Judged:
        effect = against_bf16(evidence, arm, "below")
        values = effect.values
        if values is None or values.low is None or values.high is None:
            return Judged(UNTOLD, "", (effect,))
        apart = effect.diverged > 0 or values.low > evidence.margin or values.high < -evidence.margin
        said = "One interval in twenty of equals leaves 0 out; more than the margin away is far less likely."
        return Judged(FAILS if apart else HOLDS, said, (effect,))

    return _judged((arm,), judge)


def _between(evidence: Evidence, arm: str, other: str, wanted: Side) -> Effect:
    """The difference of two arms, and on which side of 0 the claim wants it."""
    values = spread_of(paired(evidence.losses(arm), evidence.losses(other)))
    return Effect(f"{arm} − {other}", values, wanted)


def dearer(arm: str, other: str) -> Judge:
    """An arm ends above another."""
    return _judged((arm, other), lambda evidence: judged(_between(evidence, arm, other, "above")))


def cheaper(arm: str, *others: str) -> Judge:
    """An arm ends below each of the others."""
    return _judged((arm, *others), lambda e: judged(*(_between(e, arm, other, "below") for other in others)))


def diverge(*arms: str) -> Judge:
    """Most runs of each arm broke down. That none did says little, where the paper's did after many more steps."""

    def judge(evidence: Evidence) -> Judged:
        broken = {arm: evidence.diverged(arm) for arm in arms}
        counts = {arm: len(evidence.rows[arm]) for arm in arms}
        told = ", ".join(f"{arm} {len(broken[arm])} of {counts[arm]}" for arm in arms)
        holds = all(counts[arm] and 2 * len(broken[arm]) > counts[arm] for arm in arms)
        late = "" if holds else " The published histories break off after 20,000 steps and more, far beyond these runs."
        return Judged(HOLDS if holds else UNTOLD, f"Runs that broke down: {told}.{late}")

    return _judged(arms, judge)


def outliers(evidence: Evidence) -> Judged | None:
    """One scale a channel, which no other's outliers reach, keeps more of X and trains better than one a token."""
    if not {"a4", "a4 channel"} <= evidence.rows.keys():
        return None
    told = {seed: after["channels"] for seed, after in evidence.after.items() if "channels" in after}
    gained = {seed: fmean(one["column"] - one["row"] for one in layers.values()) for seed, layers in told.items()}
    worst = [max(layers.items(), key=lambda item: item[1]["kurtosis"]) for layers in told.values()]
    said = ""
    if worst:
        name, one = max(worst, key=lambda item: item[1]["kurtosis"])
        said = (
            f"In trained bf16 models the strongest channels are those of the input of {name}: kurtosis of the "
            f"channels' power {one['kurtosis']:.1f} (1: all alike), its largest channel {one['top']:.1f} times the rms "
            f"of all; there 4 bits keep {one['row']:.1f} dB with a scale a token, {one['column']:.1f} a channel, "
            f"{one['tensor']:.1f} a tensor."
        )
    effects = (
        Effect("decibels kept, a channel − a token", spread_of(gained), "above", unit="dB"),
        _between(evidence, "a4 channel", "a4", "below"),
    )
    return judged(*effects, said=said)


def head(evidence: Evidence) -> Judged | None:
    """With the head plain 8-bit gradients are as good as bf16, and better than with it."""
    if not {"g8", "g8 without head"} <= evidence.rows.keys():
        return None
    return judged(
        against_bf16(evidence, "g8 without head", "below"), _between(evidence, "g8", "g8 without head", "above")
    )


def sparsity(evidence: Evidence) -> Judged | None:
    """Most of G becomes 0, and rounding that keeps the mean of what became 0 wins back some of the loss."""
    if not {"g8", "g4", "g4 stochastic"} <= evidence.rows.keys():
        return None
    shares = {arm: spread_of(evidence.seen(arm, "gt.zero")) for arm in ("g8", "g4", "g4 stochastic", "g8 without head")}
    cosines = {arm: spread_of(evidence.seen(arm, "gradient.cosine")) for arm in shares}
    zero = ", ".join(f"{arm} {100 * one.mean:.0f} %" for arm, one in shares.items() if one)
    cosine = ", ".join(f"{arm} {one.mean:.3f}" for arm, one in cosines.items() if one)
    said = f"Of G became 0, mean over layers: {zero}. Cosine of the weight gradient with full precision: {cosine}."
    return judged(
        Effect("share of G that becomes 0 in 4 bits", shares["g4"], "above", MOST, unit=""),
        _between(evidence, "g4", "g4 stochastic", "above"),
        said=said,
    )


def sharper(*arms: str) -> Judge:
    """Both sharpnesses of each arm are above bf16's, in their logarithm."""

    def judge(evidence: Evidence) -> Judged:
        names = {"m_sharpness": "m-sharpness", "eigenvalue": "top Hessian eigenvalue"}
        return judged(*(
            Effect(f"log {said}, {arm} − bf16", _sharpness(evidence, arm, name), "above", unit="")
            for arm in arms for name, said in names.items()
        ))  # fmt: skip

    return _judged(arms, judge)


def _sharpness(evidence: Evidence, arm: str, name: str) -> Spread | None:
    return spread_of(paired(evidence.sharpness(arm, name), evidence.sharpness("bf16", name)))


def _rounded(evidence: Evidence, recipe: str) -> dict[int, float]:
    """Seed -> the loss of its bf16 model when it is written by a recipe after training."""
    return {seed: one["rounded"][recipe] for seed, one in evidence.after.items() if recipe in one.get("rounded", {})}


def rounded(recipe: str) -> Judge:
    """The trained bf16 model, written by a recipe afterwards, is as good as it was."""

    def judge(evidence: Evidence) -> Judged:
        values = spread_of(paired(_rounded(evidence, recipe), evidence.losses("bf16")))
        return judged(Effect("rounded afterwards − bf16", values, "below", evidence.margin))

    return judge


def beats_rounding(arms: Mapping[str, str]) -> Judge:
    """Each arm ends below bf16 rounded afterwards by the recipe beside it."""

    def judge(evidence: Evidence) -> Judged:
        return judged(*(
            Effect(f"{arm} trained − rounded afterwards",
                   spread_of(paired(evidence.losses(arm), _rounded(evidence, recipe))), "below",
                   diverged=len(evidence.diverged(arm)), seeds=len(evidence.rows[arm]))
            for arm, recipe in arms.items()
        ))  # fmt: skip

    return _judged(tuple(arms), judge)


def depth(arm: str) -> Judge:
    """The outputs of the last block's layers keep fewer decibels than those of the first."""

    def judge(evidence: Evidence) -> Judged:
        lost: dict[int, float] = {}
        counts = set()
        for seed, row in evidence.rows[arm].items():
            looks = evidence.looks(row)
            blocks = _by_block(looks[-1].measures) if looks else {}
            if len(blocks) > 1:
                counts.add(len(blocks))
                lost[seed] = blocks[min(blocks)] - blocks[max(blocks)]
        said = f"The model has {max(counts)} blocks." if counts else ""
        effect = Effect("decibels kept, first block − last", spread_of(lost), "above", unit="dB")
        return judged(effect, said=said)

    return _judged((arm,), judge)


def _by_block(measures: Mapping[str, Mapping[str, float | None]]) -> dict[int, float]:
    """Block -> mean decibels of its layers' outputs."""
    found: dict[int, list[float]] = {}
    for layer, told in measures.items():
        number = BLOCK.search(layer)
        value = told.get("output.db")
        if number and value is not None:
            found.setdefault(int(number[1]), []).append(value)
    return {block: fmean(values) for block, values in found.items()}
