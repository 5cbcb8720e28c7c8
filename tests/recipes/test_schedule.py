"""Schedule: recipes that follow each other, as a person writes them, and at which step each begins."""

from dataclasses import replace

import pytest

from pennyweight.recipes import Phase, Recipe, recipe

THREE = "bf16 until 10%, then w8a8g8 until 90%, then g8"


@pytest.mark.parametrize(
    "text",
    [
        THREE,
        "bf16 until 10%, then w8a8g8, then g8 from 90%",
        "bf16, w8a8g8 from 0.1, g8 from .9",
        "BF16 until 10% then W8A8G8 until 90% then g8",
        "bf16 until 10%, w8a8g8 from 10% until 90%, g8",
    ],
)
def test_one_schedule_is_written_in_many_ways(text):
    expected = Recipe("bf16", then=(Phase(0.1, recipe("w8a8g8")), Phase(0.9, recipe("g8"))))
    assert recipe(text) == expected
    assert str(expected) == THREE


@pytest.mark.parametrize("text", ["w8a8 until 100%", "w8a8 until the end", " w8a8 "])
def test_a_schedule_of_one_recipe_is_that_recipe(text):
    assert recipe(text) == recipe("w8a8")


def test_steps_are_whole_numbers_and_shares_are_rounded_to_them():
    one = recipe("bf16 until step 40, then m8v8 until 90 steps, then g8, then bf16 from 95%")
    assert [(start, str(after)) for start, after in one.switches(1000)] == [(40, "m8v8"), (90, "g8"), (950, "bf16")]
    assert [start for start, _ in recipe(THREE).switches(15)] == [2, 14]  # 1.5 and 13.5, ties to even
    assert [str(recipe(THREE).at(step, 15)) for step in (0, 1, 2, 13, 14)] == ["bf16", "bf16", *["w8a8g8"] * 2, "g8"]
    assert recipe("w8a8").at(3, 15) == recipe("w8a8")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("bf16 untill 10%, then w8a8", "cannot be read at 'untill'; did you mean 'until'"),
        ("bf16 until 10%", "does not say what follows bf16 after 10%"),
        ("bf16, w8a8", "does not say when w8a8 follows bf16; it is read as RECIPE until 10%, then RECIPE"),
        ("w8a8 from 10%, then bf16", "begins with w8a8, which holds from the first step on"),
        ("bf16 until 10%, then w8a8 from 20%", "says bf16 until 10%, but w8a8 from 20%; say it once"),
        ("bf16 until 110%, then w8a8", "such as 10% or 0.1, or after a number of steps such as 40, got '110%'"),
        ("bf16 until 1.5, then w8a8", "got '1.5'"),
        ("bf16 until 0, then w8a8", "got '0'"),
        ("bf16 until soon, then w8a8", "got 'soon'"),
        ("bf16 until, then w8a8", "cannot be read at 'until'"),
        ("bf16 until 10%,, then w8a8", "has a comma with no recipe beside it"),
        ("bf16 until 10% w8a8", "cannot be read at 'w8a8'"),
        ("bf16 w8a8", "No recipe is called 'bf16 w8a8'; did you mean"),
        ("bf16 until 10%, then peny8", "did you mean 'penny8'"),
    ],
)
def test_what_is_no_schedule_is_refused_in_one_sentence(text, sentence):
    with pytest.raises(ValueError, match=r".") as refusal:
        recipe(text)
    assert sentence in str(refusal.value)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("text", "steps"),
    [(THREE, 4), ("bf16 until 40, then w8a8", 40), ("bf16 until 9, then g8 until 5%, then w8a8", 100)],
)
def test_a_recipe_that_would_hold_for_no_step_is_refused(text, steps):
    with pytest.raises(ValueError, match="but a switch comes after step .* and before the last"):
        recipe(text).switches(steps)


def test_a_schedule_is_saved_as_json_and_a_phase_is_checked():
    one = recipe(THREE)
    assert Recipe.from_dict(one.to_dict()) == one
    assert Recipe.from_dict({"name": "old"}).then == ()  # a file from before there were schedules
    with pytest.raises(ValueError, match="Phase needs a field 'recipe'"):
        Recipe.from_dict({**one.to_dict(), "then": [{"start": 0.5}]})
    with pytest.raises(ValueError, match="Phase.start is a share of the steps between 0 and 1, or a whole"):
        Phase(2.5, one.phases[0])
    with pytest.raises(ValueError, match="Phase.recipe is one recipe, got the schedule"):
        Phase(0.5, one)
    with pytest.raises(TypeError, match="Recipe.then is a tuple of Phase"):
        replace(one, then=("w8a8",))  # type: ignore[arg-type]


def test_the_table_and_the_notes_say_of_which_recipe_they_speak():
    one = recipe(THREE)
    rows = one.table()
    assert list(dict.fromkeys(row["when"] for row in rows)) == ["until 10%", "from 10%", "from 90%"]
    assert [{**row, "when": ""} for row in rows if row["when"] == "from 90%"] == [
        {"when": "", **row} for row in recipe("g8").table()
    ]
    assert {note.partition(":")[0] for note in one.notes} == {"w8a8g8", "g8"}
