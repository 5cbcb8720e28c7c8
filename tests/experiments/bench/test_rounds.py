"""Rounds: everybody's turn comes once a round, and nobody always follows the same one."""

from typing import Any

import pytest

from pennyweight.experiments.bench.rounds import WARM, Built, Ratio, Side, Timed, begun, in_turn, ratio


def sides_of(names: str, order: list[str]) -> list[Side]:
    """Sides that write their name into `order` when they are called."""
    return [Side(name, lambda name=name: Built(lambda: order.append(name), f"note of {name}")) for name in names]


def timed(sides: list[Side], repeats: int, **how: Any) -> list[Timed]:
    found = begun(sides)
    in_turn(found, repeats, tell=lambda said: None, **how)
    return found


def test_an_interruption_leaves_whole_rounds() -> None:
    order: list[str] = []

    def interrupted() -> None:
        order.append("b")
        if order.count("b") == WARM + 3:
            raise KeyboardInterrupt

    found = begun([*sides_of("a", order), Side("b", lambda: Built(interrupted)), *sides_of("c", order)])
    with pytest.raises(KeyboardInterrupt):
        in_turn(found, 9, tell=lambda said: None)
    assert [len(one.seconds) for one in found] == [2, 2, 2]


def test_sides_are_warmed_one_by_one_and_then_take_turns() -> None:
    order: list[str] = []
    timed(sides_of("abc", order), 4)
    warmed, rounds = order[: 3 * WARM], order[3 * WARM :]
    assert "".join(warmed) == "a" * WARM + "b" * WARM + "c" * WARM
    assert "".join(rounds) == "abc" + "bca" + "cab" + "abc"


def test_several_calls_of_one_timing_are_waited_for_together() -> None:
    now, done = [0.0], []

    def settle() -> None:
        done.append(now[0])
        now[0] += 4.0

    def call() -> None:
        now[0] += 1.0

    (only,) = timed([Side("a", lambda: Built(call))], 2, clock=lambda: now[0], calls=4, settle=settle)
    assert only.seconds == [2.0, 2.0]  # four calls of one second and four of waiting
    assert len(done) == 1 + 2


def test_each_side_gets_the_seconds_of_its_own_calls() -> None:
    now = [0.0]
    takes = {"slow": 3.0, "quick": 1.0}

    def work(name: str) -> Built:
        def call() -> None:
            now[0] += takes[name]

        return Built(call)

    sides = [Side(name, lambda name=name: work(name)) for name in takes]
    found = timed(sides, 3, clock=lambda: now[0])
    assert {one.side.name: one.seconds for one in found} == {"slow": [3.0] * 3, "quick": [1.0] * 3}


def test_an_absent_side_is_never_built_and_says_why() -> None:
    def build() -> Built:
        raise AssertionError("an absent side was built")

    order: list[str] = []
    found = timed([*sides_of("a", order), Side("peer", build, missing="not installed")], 2)
    assert [(one.side.name, len(one.seconds), one.note) for one in found] == [
        ("a", 2, "note of a"),
        ("peer", 0, "not installed"),
    ]


def test_a_side_that_fails_says_so_and_the_others_go_on() -> None:
    def build() -> Built:
        raise RuntimeError("no\n compiler")

    order: list[str] = []
    failed, fine = timed([Side("broken", build), *sides_of("a", order)], 2)
    assert (failed.seconds, failed.note) == ([], "failed: no compiler")
    assert len(fine.seconds) == 2


def test_a_ratio_is_taken_round_by_round_so_that_a_slow_spell_cancels() -> None:
    machine = [1.0, 10.0, 2.0, 1.0, 1.0]  # how slow it was in each round
    assert ratio([2.0 * slow for slow in machine], machine) == Ratio(2.0, 2.0, 2.0)


def test_a_ratio_has_the_quartiles_of_its_rounds() -> None:
    assert ratio([1.0, 2.0, 3.0, 4.0, 5.0], [1.0] * 5) == Ratio(3.0, 2.0, 4.0)
    assert ratio([3.0], [2.0]) == Ratio(1.5, 1.5, 1.5)


def test_a_ratio_wants_the_same_rounds_on_both_sides() -> None:
    with pytest.raises(ValueError, match="zip"):
        ratio([1.0, 2.0], [1.0])
