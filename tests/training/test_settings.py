"""Settings as text lead to the right place or to the right name."""

import dataclasses
import json
import re
import typing

import pytest

from pennyweight.training import Optimizer, Run, Schedule, differences, resolved, with_settings


def test_each_kind_of_value_is_typed():
    run = with_settings(
        Run(),
        [
            "optimizer.lr=3e-4",
            "optimizer.betas=0.8,0.9",
            "checkpoint.every=50",
            "data.context=128",
            "data.source=123",
            "strategy=synchronous",
            "clip=none",
            "schedule.shape=wsd",
            "model=gpt2",
            "seed=3",
        ],
    )
    assert run.optimizer == Optimizer(lr=3e-4, betas=(0.8, 0.9))
    assert (run.checkpoint.every, run.data.context, run.data.source) == (50, 128, "123")
    assert (run.clip, run.schedule.shape, run.model, run.seed) == (None, "wsd", "gpt2", 3)
    assert with_settings(run, ["clip=0.5"]).clip == 0.5


def test_the_last_of_two_settings_counts():
    assert with_settings(Run(), ["steps=3", "steps=4"]).steps == 4


def test_settings_that_need_each_other_may_stand_in_any_order():
    for settings in (["schedule.decay=0.5", "schedule.shape=wsd"], ["schedule.shape=wsd", "schedule.decay=0.5"]):
        assert with_settings(Run(), settings).schedule == Schedule("wsd", decay=0.5)


def test_a_recipe_is_chosen_by_name_and_changed_by_path():
    assert with_settings(Run(), ["recipe=penny8"]) == Run(recipe="penny8")
    run = with_settings(Run(recipe="w8a8g8"), ["recipe.m=dynamic8", "recipe.head=true"])
    assert (run.recipe.m, run.recipe.head) == ("dynamic8", True)
    assert run.recipe.linear == Run(recipe="w8a8g8").recipe.linear
    assert run.recipe.name == "w8a8g8+m=dynamic8+head=true"
    assert Run.from_dict(run.to_dict()) == run


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("optimizer.lrr=1", "Run.optimizer has no field 'lrr'; did you mean 'lr'?"),
        ("lr=1", "Run has no field 'lr'; did you mean 'optimizer.lr'?"),
        ("every=1", "did you mean 'evaluation.every' or 'checkpoint.every' or 'diagnosis.every'?"),
        ("weight_decai=1", "did you mean 'optimizer.weight_decay'?"),
        ("stepz=1", "Run has no field 'stepz'; did you mean 'steps'?"),
        ("recipe.zz=1", "Recipe has no field 'zz'; there are name, linear"),
        ("optimiser.lr=1", "Run has no field 'optimiser'; did you mean 'optimizer'?"),
        ("steps.x=1", "Run.steps is one value and has no field 'x'"),
        ("optimizer=1", "optimizer.lr"),
        ("steps", "path=value"),
        ("steps=many", "got 'many'"),
        ("steps=0", "got 0"),
        ("optimizer.lr=nan", "finite"),
        ("recipe.mm=log8", "did you mean 'm'?"),
        ("recipe.m=logg8", "log"),
        ("recipe=peny4", "did you mean 'penny4'?"),
        ("strategy=acko", "strategy 'acko'"),
    ],
)
def test_a_wrong_setting_is_one_sentence(setting, said):
    with pytest.raises(ValueError, match=re.escape(said)) as caught:
        with_settings(Run(), [setting])
    assert "\n" not in str(caught.value)


def choices(owner: type, path: str = "") -> list[tuple[str, str]]:
    """Every setting below `owner` that takes a few words or true and false, with each of them."""
    found = []
    for each in dataclasses.fields(owner):
        kind = typing.get_type_hints(owner, include_extras=False)[each.name]
        if dataclasses.is_dataclass(kind) and isinstance(kind, type):
            found += choices(kind, f"{path}{each.name}.")
        elif typing.get_origin(kind) is typing.Literal:
            found += [(f"{path}{each.name}", name) for name in typing.get_args(kind)]
        elif kind is bool:
            found += [(f"{path}{each.name}", name) for name in ("true", "false")]
    return found


@pytest.mark.parametrize(
    ("path", "name"), [*choices(Run), ("strategy", "synchronous"), ("objective", "next-token"), ("recipe", "penny8")]
)
def test_a_misspelt_choice_names_the_right_one(path, name):
    for wrong in (name[:-1], f"{name}x", f"{name[:-1]}X"):
        with pytest.raises((ValueError, TypeError), match=re.escape(f"; did you mean '{name}'?")) as caught:
            with_settings(Run(), [f"{path}={wrong}"])
        assert "\n" not in str(caught.value)


def test_every_choice_of_a_run_is_tried():
    assert {path for path, _ in choices(Run)} >= {"clip_by", "gradients", "compile", "schedule.shape", "recipe.states"}


def test_differences_name_what_differs_and_nothing_else():
    assert differences(Run(), Run()) == []
    assert differences(Run(seed=1), Run(seed=2, optimizer=Optimizer(lr=0.5))) == [
        "optimizer.lr: 0.001 is not 0.5",
        "seed: 1 is not 2",
    ]
    assert differences(Run(recipe="bf16"), Run(recipe="penny8")) == ["recipe: bf16 is not penny8"]
    changed = with_settings(Run(recipe="penny8"), ["recipe.m=dynamic8", "recipe.name=penny8"])
    assert differences(Run(recipe="penny8"), changed) == [
        f'recipe.m: "{Run(recipe="penny8").recipe.m}" is not "dynamic8"'
    ]


def test_a_run_of_another_model_forgets_the_config_of_the_first():
    run = resolved(Run())
    assert run.config is not None
    assert run.config.written["n_layer"] == 4
    assert Run.from_dict(json.loads(json.dumps(run.to_dict()))) == run
    assert dataclasses.replace(run, model="gpt2").config is None
    assert with_settings(run, ["model=gpt2"]).config is None
    assert with_settings(run, ["steps=7"]).config == run.config


def test_configs_are_compared_where_both_runs_know_them():
    run = resolved(Run())
    other = with_settings(run, ["config.says.n_layer=5"])
    assert differences(run, other) == ["model.n_layer: 4 is not 5"]
    assert differences(run, Run()) == differences(Run(), run) == []
