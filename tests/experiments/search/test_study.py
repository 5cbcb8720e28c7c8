"""Optuna's study as a search keeps it: halving at the rungs, and what a killed search leaves."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import event

from pennyweight.experiments.search.folder import asked_of
from pennyweight.experiments.search.space import OPTIONS, Candidate
from pennyweight.experiments.search.study import Study, written
from pennyweight.training import DiskFull
from pennyweight.training.folder import TRIALS


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


def test_a_file_whose_making_was_cut_short_is_made_to_its_end(tmp_path: Path) -> None:
    path = tmp_path / TRIALS
    Study(path).close()
    with closing(sqlite3.connect(path)) as file:
        for table in ("study_user_attributes", "trial_params", "trial_values"):
            file.execute(f"DROP TABLE {table}")
        file.execute("DELETE FROM study_directions")
        file.execute("DELETE FROM studies")
        file.commit()
    assert asked_of(tmp_path) is None
    study = Study(path)
    study.say("asked", {"base": {}})
    study.close()
    assert asked_of(tmp_path) == {"base": {}}
    path.write_bytes(b"")
    assert asked_of(tmp_path) is None
    with closing(sqlite3.connect(path)) as file:
        file.execute("CREATE TABLE somebodys (value TEXT)")
    with pytest.raises(ValueError, match="does not hold the trials of a search"):
        asked_of(tmp_path)


def test_a_disk_that_is_full_is_one_sentence_and_what_was_told_stands(tmp_path: Path) -> None:
    path = tmp_path / TRIALS
    study = Study(path)
    study.say("asked", {"seed": 0})
    engine = study._storage.engine
    engine.dispose()
    # as a full disk: SQLite takes no page more
    event.listen(engine, "connect", lambda connection, _: connection.execute("PRAGMA max_page_count = 1"))
    said = "could not be written: .*database or disk is full; what it held stands"
    with pytest.raises(DiskFull, match=said), written(path):
        study.say("costs", "x" * 2_000_000)
    study.close()
    assert Study(path).said == {"asked": {"seed": 0}}
