"""What a candidate writes, and the way down from all-bf16."""

from dataclasses import replace

import pytest

from pennyweight.experiments.search.space import (
    NONE,
    OPTIONS,
    Candidate,
    bisected,
    count,
    moves,
    options,
    read,
    staircase,
)
from pennyweight.recipes import Rule, recipe


def test_nothing_written_is_bf16() -> None:
    assert Candidate().recipe() == recipe("bf16")
    assert Candidate(plain="quarter") == Candidate()  # no layer is written, so none is spared


@pytest.mark.parametrize(
    ("candidate", "word"),
    [
        (Candidate("8", "8", "8"), "w8a8g8"),
        (Candidate("8", "8", "8", "8", "8"), "w8a8g8m8v8"),
        (Candidate(m="4", v="4", saved="8"), "m4v4k8"),
        (Candidate(weights="4b32", activations="4b32"), "w4b32a4b32"),
    ],
)
def test_a_candidate_is_its_notation(candidate: Candidate, word: str) -> None:
    assert candidate.name == word
    assert candidate.recipe() == recipe(word)


def test_without_a_master_copy_it_is_the_named_recipe() -> None:
    made = Candidate("8-nomaster", "8", "8", "8", "8").recipe()
    assert replace(made, name="penny8-nomaster") == recipe("penny8-nomaster")
    assert made.name == "w8a8g8m8v8-nomaster"


def test_a_quarter_of_the_layers_is_spared_the_most_sensitive_first() -> None:
    made = Candidate("8", "8", plain="quarter").recipe(["d", "b", "a", "c", "e"])
    assert made.rules == (Rule("d", None), Rule("b", None))
    assert made.name == "w8a8-spared"


def test_every_move_can_be_built_and_written_down() -> None:
    every = moves(OPTIONS)
    assert len(every) == sum(len(values) - 1 for name, values in OPTIONS.items() if name != "plain")
    for one in every:
        assert one.recipe().name == one.name
        assert read(one.to_dict()) == one


def test_the_way_down_takes_the_least_noisy_first_and_only_what_saves() -> None:
    noise = {"m": {"8": 40.0, "4": 12.0}, "v": {"8": 45.0, "4": 30.0}, "saved": {"8": 35.0}, "gradients": {"8": 50.0}}
    saves = {"m": {"8": 3, "4": 4}, "v": {"8": 3, "4": 4}, "saved": {"8": 5}, "gradients": {"8": 0}}

    def cost(one: Candidate) -> float:
        said = one.to_dict()
        return 100 - sum(saves[name].get(option, 0) for name, option in said.items() if name in saves)

    path = staircase(noise, OPTIONS, cost)
    assert [one.name for one in path] == ["v8", "m8v8", "m8v8k8", "m8v4k8", "m4v4k8"]
    taken = staircase(noise, OPTIONS, cost, alone=False)
    assert [one.name for one in taken] == ["g8v8", "g8m8v8", "g8m8v8k8", "g8m8v4k8", "g8m4v4k8"]


def test_what_cannot_be_built_is_no_step_of_the_way() -> None:
    path = staircase({"m": {"8": 9.0}, "v": {"8": 8.0}}, OPTIONS, lambda one: None if one.m != NONE else 1.0)
    assert path == []


@pytest.mark.parametrize("length", [0, 1, 2, 3, 7, 9])
def test_halves_try_the_far_end_first_and_leave_nothing_out(length: int) -> None:
    path = [Candidate(m=str(place)) for place in range(length)]
    order = bisected(path)
    assert sorted(map(str, order)) == sorted(map(str, path))
    assert order[:1] == path[-1:]
    if length == 9:
        assert [int(one.m) for one in order] == [8, 4, 2, 6, 1, 3, 5, 7, 0]


def test_options_that_leave_little_of_a_tensor_are_not_tried() -> None:
    tried = options({"m": {"8": 40.0, "4": 9.9}, "v": {"4": 10.0}})
    assert tried["m"] == ("none", "8")
    assert tried["v"] == OPTIONS["v"]
    assert count({"m": ("none", "8"), "v": ("none", "8", "4")}) == 5
