"""The judges of quantized pre-training, on rows and looks made by hand."""

from collections.abc import Callable
from typing import Any

import pytest

from pennyweight.analysis import Look
from pennyweight.experiments.studies import quantized_claims as judges
from pennyweight.experiments.studies.evidence import Evidence
from pennyweight.experiments.studies.findings import UNSUPPORTED, find
from pennyweight.experiments.studies.quantized_pretraining import STUDY
from pennyweight.experiments.studies.study import FAILS, HOLDS, UNTOLD, Judged

Row = Callable[..., dict[str, Any]]
BASE = (4.0, 4.1, 3.9)
NOISE = (0.001, -0.001, 0.0)  # half an interval: 4.303 * 0.001 / sqrt(3) = 0.0025


@pytest.fixture
def arms(row: Row) -> Callable[..., Evidence]:
    """Evidence of arms by their mean distance to bf16."""

    def make(after: dict[int, Any] | None = None, looks: Any = lambda _: (), **away: float) -> Evidence:
        def rows(distance: float) -> dict[int, dict[str, Any]]:
            losses = (base + distance + noise for base, noise in zip(BASE, NOISE, strict=True))
            return {seed: row(seed=seed, val_loss=loss) for seed, loss in enumerate(losses)}

        told = {name.replace("_", " "): rows(distance) for name, distance in away.items()}
        base = {seed: row(seed=seed, val_loss=loss) for seed, loss in enumerate(BASE)}
        return Evidence({"bf16": base, **told}, looks, after or {})

    return make


def verdict(found: Judged | None) -> str:
    assert found is not None
    return found.verdict


def test_an_arm_is_as_good_only_with_its_whole_interval_below_the_margin(arms: Callable[..., Evidence]) -> None:
    evidence = arms(w8=0.0, w4=0.02, w6=0.009)
    assert [verdict(judges.as_good(arm)(evidence)) for arm in ("w8", "w6", "w4")] == [HOLDS, UNTOLD, FAILS]
    assert [verdict(judges.costs(arm)(evidence)) for arm in ("w8", "w6", "w4")] == [FAILS, UNTOLD, HOLDS]
    assert judges.costs("w4", "w3")(evidence) is None  # no arm of this study


def test_equal_arms_are_not_found_different_and_unequal_ones_are(arms: Callable[..., Evidence]) -> None:
    evidence = arms(again=0.0, beyond=0.05, lower=-0.05)
    assert [verdict(judges.same(arm)(evidence)) for arm in ("again", "beyond", "lower")] == [HOLDS, FAILS, FAILS]


def test_arms_are_ordered_against_each_other(arms: Callable[..., Evidence]) -> None:
    evidence = arms(a=0.5, b=0.2, c=0.5)
    assert verdict(judges.dearer("a", "b")(evidence)) == HOLDS
    assert verdict(judges.cheaper("a", "b", "c")(evidence)) == FAILS
    assert verdict(judges.cheaper("b", "a", "c")(evidence)) == HOLDS


def test_that_nothing_diverged_in_a_short_run_decides_nothing(arms: Callable[..., Evidence], row: Row) -> None:
    evidence = arms(a4=0.3)
    assert verdict(judges.diverge("a4")(evidence)) == UNTOLD
    broken = {seed: row(seed=seed, val_loss=None, status="diverged") for seed in range(3)}
    assert verdict(judges.diverge("a4")(Evidence({**evidence.rows, "a4": broken}))) == HOLDS


def test_outliers_want_both_the_decibels_and_the_loss(arms: Callable[..., Evidence]) -> None:
    def layer(gain: float) -> dict[str, Any]:
        return {"channels": {"h.0": {"kurtosis": 9.0, "top": 5.0, "row": 10.0, "column": 10 + gain, "tensor": 4.0}}}

    after = {seed: layer(2 + 0.1 * seed) for seed in range(3)}
    found = judges.outliers(arms(after, a4=0.3, a4_channel=0.1))
    assert verdict(found) == HOLDS
    assert found is not None
    assert "h.0: kurtosis" in found.said
    assert verdict(judges.outliers(arms(after, a4=0.1, a4_channel=0.3))) == FAILS


def test_sparsity_wants_zeros_and_that_stochastic_rounding_wins_back(arms: Callable[..., Evidence]) -> None:
    looks = [Look(1, {"h": {"gt.zero": 0.8, "gradient.cosine": 0.9}})]
    told = arms(
        looks=lambda row: [Look(1, {"h": {"gt.zero": 0.8 + row["seed"] / 100}})], g8=0.0, g4=0.4, g4_stochastic=0.1
    )
    assert verdict(judges.sparsity(told)) == HOLDS
    assert verdict(judges.sparsity(arms(looks=lambda _: looks, g8=0.0, g4=0.1, g4_stochastic=0.4))) == FAILS


def test_training_is_held_against_rounding_of_the_same_seed(arms: Callable[..., Evidence]) -> None:
    after = {seed: {"rounded": {"paper-w4": loss + 0.3 + noise, "paper-w8": loss + noise}}
             for seed, (loss, noise) in enumerate(zip(BASE, NOISE[::-1], strict=True))}  # fmt: skip
    evidence = arms(after, w4=0.1)
    assert verdict(judges.beats_rounding({"w4": "paper-w4"})(evidence)) == HOLDS
    assert verdict(judges.rounded("paper-w8")(evidence)) == HOLDS
    assert verdict(judges.rounded("paper-w4")(evidence)) == FAILS
    assert verdict(judges.rounded("paper-w4")(arms(w4=0.1))) == UNTOLD  # nothing was rounded


def test_depth_compares_the_last_block_with_the_first(arms: Callable[..., Evidence]) -> None:
    def seen(row: dict[str, Any]) -> list[Look]:
        first = {"output.db": 40.0 + row["seed"] / 10}
        return [Look(1, {"h.0.fc": first, "h.1.fc": {"output.db": 1.0}, "h.2.fc": {"output.db": 35.0}, "lm_head": {}})]

    found = judges.depth("w8a8")(arms(looks=seen, w8a8=0.0))
    assert found is not None
    assert found.verdict == HOLDS
    assert found.effects[0].values is not None
    assert found.effects[0].values.mean == pytest.approx(5.1)
    assert found.said == "The model has 3 blocks."


def test_a_failed_control_leaves_no_verdict_supported(arms: Callable[..., Evidence]) -> None:
    good = find(STUDY, [("p", arms(bf16_again=0.0, int2=2.0, w8=0.0))])
    assert good.passed
    assert [(one.claim.name, one.verdict) for one in good.claims if one.decided] == [("w8-channel", HOLDS)]
    bad = find(STUDY, [("p", arms(bf16_again=0.0, int2=0.0, w8=0.0))])
    assert not bad.passed
    assert bad.count(HOLDS) == 0
    assert bad.claims[0].verdict == f"{UNSUPPORTED} ({HOLDS})"
    assert not bad.claims[0].decided


def test_verdicts_that_many_tests_cannot_all_carry_are_told_apart(arms: Callable[..., Evidence]) -> None:
    # t of w8: 0.01 / 0.00058 = 17.3, p = 0.0033; of the three at 0.006: 6.9, p = 0.020, more than 0.05 / 3
    near = {name: 0.006 for name in ("w8_tensor", "a8", "a8_tensor")}
    found = find(STUDY, [("p", arms(bf16_again=0.0, int2=2.0, w8=0.0, **near))])
    told = {one.claim.name: (one.decided, one.together) for one in found.claims}
    assert told["w8-channel"] == (True, True)
    assert [told[name] for name in ("w8-tensor", "a8-token", "a8-tensor")] == [(True, False)] * 3


def test_every_claim_of_the_quick_study_has_its_arms_but_the_one_on_backward_passes() -> None:
    run = STUDY.base("stdlib", 8)
    for scale, left in (("quick", {"backward"}), ("full", set())):
        first = STUDY.parts(run, scale)[0]
        evidence = Evidence({arm.name: {} for arm in first.arms})
        assert {claim.name for claim in STUDY.claims if claim.judge(evidence) is None} == left
        assert all(control.judge(evidence) for part in STUDY.parts(run, scale) for control in STUDY.controls)
