"""What was typed, brought into one form."""

import pytest

from pennyweight.cli.arguments import run_with, spread_settings
from pennyweight.training import Run


@pytest.mark.parametrize(
    ("typed", "read"),
    [
        ("train --set a=1 b=2", "train --set a=1 --set b=2"),
        ("train --set a=1 --set b=2", "train --set a=1 --set b=2"),
        ("train --set a.b=1 c.d=2 --steps 3", "train --set a.b=1 --set c.d=2 --steps 3"),
        ("train --set=a=1 b=2", "train --set=a=1 --set b=2"),
        ("compare --set a=1 b=2 bf16 w8a8", "compare --set a=1 --set b=2 bf16 w8a8"),
        ("train --set a=1 x.json b=2", "train --set a=1 x.json b=2"),
        ("train a=1 b=2", "train a=1 b=2"),
        ("train --set a=1 -- b=2", "train --set a=1 -- b=2"),
        ("train --set", "train --set"),
        ("sweep --grid a=1,2 b=3 --set c=4 d=5", "sweep --grid a=1,2 --grid b=3 --set c=4 --set d=5"),
        ("sweep --set c=4 d=5 --grid=a=1 b=2", "sweep --set c=4 --set d=5 --grid=a=1 --grid b=2"),
        ("train --set --steps 3", "train --set --steps 3"),
        ("train --out r --set a=1 b=2 --set c=3 d=4", "train --out r --set a=1 --set b=2 --set c=3 --set d=4"),
    ],
)
def test_every_setting_after_a_setting_is_one_too(typed: str, read: str) -> None:
    assert spread_settings(typed.split()) == read.split()


def test_values_with_spaces_and_signs_stay_whole() -> None:
    assert spread_settings(["--set", "data.source=a b=c", "x=-1"]) == ["--set", "data.source=a b=c", "--set", "x=-1"]


def test_flags_and_settings_make_the_run_they_say() -> None:
    run = run_with(
        Run(), recipe="w8a8", model="gpt2", data="x.txt", steps=7, seed=3, settings=["optimizer.lr=0.5", "batch=2"]
    )
    assert (str(run.recipe), run.model, run.data.source, run.steps, run.seed) == ("w8a8", "gpt2", "x.txt", 7, 3)
    assert (run.optimizer.lr, run.batch) == (0.5, 2)
    assert run.schedule == Run().schedule


def test_no_flag_is_the_run_as_it_was() -> None:
    base = Run(steps=9, recipe="w8a8")
    assert run_with(base) == base
