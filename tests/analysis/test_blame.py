"""The layers that break a run are named, and healthy ones are not."""

import pytest

from pennyweight.analysis import Look, blame
from pennyweight.analysis.blame import breaks


def look(step: int, **layers: dict[str, float]) -> Look:
    return Look(step, layers)


def test_the_layer_that_lost_most_bits_is_blamed_first() -> None:
    looks = [look(50, a={"x.db": 42.0}, b={"x.db": 42.0}), look(100, a={"x.db": 41.0}, b={"x.db": 29.96})]
    first, second = blame(looks)
    assert (first.layer, first.measure, first.before, first.now) == ("b", "x.db", 42.0, 29.96)
    assert first.score == pytest.approx(2.0)
    assert second.score == pytest.approx(1 / 6.02)


def test_the_past_is_the_median_of_the_earlier_looks() -> None:
    looks = [look(step, a={"x.db": db}) for step, db in ((1, 0.0), (2, 42.0), (3, 42.02), (4, 35.98))]
    assert blame(looks)[0].score == pytest.approx(1.0)


def test_shares_are_judged_by_how_many_times_they_grew() -> None:
    looks = [
        look(1, a={"x.saturated": 0.0, "gradient.cosine": 0.95}),
        look(2, a={"x.saturated": 0.03, "gradient.cosine": 0.85}),
    ]
    (only,) = blame(looks)
    assert (only.measure, only.score) == ("x.saturated", pytest.approx(2.0))  # (0.03 + 0.01) / 0.01
    (only,) = blame([look(1, a={"gradient.cosine": 0.95}), look(2, a={"gradient.cosine": 0.85})])
    assert only.score == pytest.approx(1.0)  # (0.15 + 0.05) / (0.05 + 0.05)


def test_a_first_look_holds_a_layer_against_the_others() -> None:
    ranking = blame([look(1, a={"g.db": 40.0}, b={"g.db": 40.0}, c={"g.db": 10.0})])
    assert (ranking[0].layer, ranking[0].before) == ("c", 40.0)


def test_zeros_of_v_are_blamed_from_the_first_look_on() -> None:
    looks = [look(1, a={"v.zero": 0.4}, b={"v.zero": 0.0})]
    assert [one.layer for one in blame(looks)] == ["a", "b"]
    assert blame(looks)[1].score == 0
    assert breaks(looks) is not None


def test_few_zeros_of_v_are_enough_where_zeros_elsewhere_are_not() -> None:
    assert breaks([look(1, a={"v.zero": 0.01}, b={"v.zero": 0.0})]) is not None
    assert breaks([look(1, a={"x.zero": 0.01}), look(2, a={"x.zero": 0.12})]) is None


def test_only_a_layers_own_past_breaks_it() -> None:
    first = look(1, a={"x.db": 40.0}, b={"x.db": 40.0})
    new = {"gradient.cosine": 0.99}
    assert breaks([first, look(2, a={"x.db": 40.0, **new}, b={"x.db": 40.0, "gradient.cosine": 0.1})]) is None
    assert blame([first, look(2, a={"x.db": 40.0, **new}, b={"gradient.cosine": -1.0})])[0].layer == "b"


def test_looks_at_another_recipe_are_no_past() -> None:
    looks = [Look(1, {"a": {"x.db": 40.0}}, recipe="bf16"), Look(2, {"a": {"x.db": 10.0}}, recipe="w2a2")]
    assert breaks(looks) is None
    assert breaks([*looks, Look(3, {"a": {"x.db": -10.0}}, recipe="w2a2")]) is not None
    assert Look.from_line({"step": 2, **looks[1].to_line()}) == looks[1]


def test_what_became_of_a_layer_slowly_is_no_break() -> None:
    slow = [look(step, a={"x.db": 60.0 - step}) for step in range(1, 50)]
    assert breaks(slow) is None
    assert breaks([slow[0], slow[-1]]) is not None


def test_what_is_no_judge_says_nothing() -> None:
    assert blame([]) == []
    assert blame([look(1, a={"x.codes": 255.0, "x.kurtosis": 3.0})]) == []


def test_a_run_breaks_where_the_first_layer_does() -> None:
    calm = {"x.db": 42.0}
    looks = [look(50, a=calm, b=calm), look(100, a=calm, b=calm), look(150, a=calm, b={"x.db": 20.0})]
    step, broken = breaks(looks) or (0, [])
    assert (step, [one.layer for one in broken]) == (150, ["b"])
    assert breaks(looks[:2]) is None
    assert breaks([]) is None
