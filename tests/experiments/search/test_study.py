"""Optuna's study as a search keeps it: halving at the rungs, and what a killed search leaves."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from pennyweight.experiments.search.space import OPTIONS, Candidate
from pennyweight.experiments.search.study import Study


@pytest.fixture
def study(tmp_path: Path) -> Iterator[Study]:
    one = Study(tmp_path / "search.sqlite")
    one.halve(2)
    yield one
    one.close()


def test_planned_candidates_come_first_and_in_order(study: Study) -> None:
    planned = [Candidate(m="8", v="8"), Candidate(weights="8")]
    study.enqueue(planned)
    assert [study.ask(OPTIONS, 0) for _ in planned] == list(enumerate(planned))
    number, proposed = study.ask(OPTIONS, 0)
    assert number == 2
    assert all(option in OPTIONS[name] for name, option in proposed.to_dict().items())


def test_the_half_that_is_further_over_stops_and_equals_go_on(study: Study) -> None:
    numbers = [study.ask(OPTIONS, 0)[0] for _ in range(4)]
    assert [study.report(number, 2, over) for number, over in zip(numbers, (0.0, 0.0, 3.0, 0.0), strict=True)] == [
        False, False, True, False,
    ]  # fmt: skip
    assert not study.report(numbers[0], 3, 9.0)  # no rung
    assert not study.report(numbers[1], 4, 1.0)  # the first at this one
    assert study.report(numbers[3], 4, 2.0)


def test_trials_of_a_search_that_died_are_asked_for_again(tmp_path: Path) -> None:
    first = Study(tmp_path / "search.sqlite")
    number, candidate = first.ask(OPTIONS, 0)
    first.note(number, share=0.5, trained=True)
    first.close()
    second = Study(tmp_path / "search.sqlite")
    second.again()
    assert second.trials()[0].notes["why"] == "killed"
    assert second.ask(OPTIONS, 0)[1] == candidate
    second.close()


def test_proposals_depend_on_the_trials_before_and_the_seed_alone(tmp_path: Path) -> None:
    def asked(name: str, seed: int) -> list[Candidate]:
        one, found = Study(tmp_path / name), []
        for _ in range(3):
            number, candidate = one.ask(OPTIONS, seed)
            one.finish(number, 0.5)
            found.append(candidate)
        one.close()
        return found

    assert asked("a", 1) == asked("b", 1) != asked("c", 2)
