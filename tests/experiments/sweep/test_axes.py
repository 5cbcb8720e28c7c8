"""Axes: what a grid may vary, and what its values make of a recipe."""

import pytest

from pennyweight.experiments.sweep.axes import Axis, read_axes, settings_of
from pennyweight.recipes import recipe
from pennyweight.training import Run


def test_an_axis_is_a_name_and_its_values_each_once() -> None:
    grid = ["weights=none, 8,8", "optimizer.lr=1e-3", "optimizer.betas=[0.9,0.95],[0.8,0.9]", "run.gradients=held"]
    assert read_axes(grid, Run()) == [
        Axis("weights", ("none", "8")),
        Axis("optimizer.lr", ("1e-3",)),
        Axis("optimizer.betas", ("[0.9,0.95]", "[0.8,0.9]")),
        Axis("run.gradients", ("held",)),
    ]


@pytest.mark.parametrize(
    ("grid", "said"),
    [
        ([], "at least one axis, got an empty grid"),
        (["weights"], "an axis is written AXIS=VALUE,VALUE, got 'weights'"),
        (["=8"], "an axis is written"),
        (["weights=8,,4"], "axis weights wants values"),
        (["weights=8", "weights=4"], "got weights twice"),
        (["wieghts=8"], "a grid has no axis 'wieghts'; did you mean 'weights'?"),
        (["lr=1"], "did you mean 'optimizer.lr'?"),
        (["optimiser.lr=1"], "did you mean 'optimizer.lr'?"),
        (["zzz=1"], "there are weights, activations, gradients, m, v, saved"),
        (["seed=1"], "--seeds"),
        (["optimizer=1"], "did you mean 'optimizer"),
        (["recipe.wieghts=1"], "did you mean 'weights'?"),
        (["m.rounding=nearest"], "a grid has no axis 'm.rounding'"),
        (["weights=fp8"], "did you mean 'e4m3'?"),
        (["weights=e4m33"], "did you mean 'e4m3'?"),
        (["weights=bf16"], "did you mean 'none'?"),
        (["weights=9"], "an integer has 2 to 8 bits, got 9"),
        (["v=3"], "did you mean 'v4'?"),
        (["gradients=held"], "did you mean run.gradients=held?"),
        (["recipe=peny8"], "did you mean 'penny8'?"),
        (["weights=8", "granularity=blok32"], "did you mean 'block32'?"),
        (["weights=8", "rounding=nearst"], "did you mean 'nearest'?"),
    ],
)
def test_what_is_no_axis_or_no_value_is_answered_with_the_nearest_that_is(grid: list[str], said: str) -> None:
    with pytest.raises(ValueError, match=".") as caught:
        read_axes(grid, Run())
    assert said in str(caught.value)


def test_all_wrong_values_are_told_together() -> None:
    with pytest.raises(ValueError, match="weights has no value '9'.*gradients has no value '1'"):
        read_axes(["weights=9,8", "gradients=1"], Run())


@pytest.mark.parametrize(
    ("values", "settings"),
    [
        ({"weights": "8", "activations": "4b32", "gradients": "none"}, ["recipe=w8a4b32"]),
        ({"weights": "none", "activations": "none"}, []),
        ({"weights": "8", "granularity": "tensor", "weights.granularity": "column"}, ["recipe=w8c"]),
        ({"weights": "8", "gradients": "8", "gradients.rounding": "stochastic"}, ["recipe=w8g8s"]),
        ({"weights": "4b32sh", "granularity": "square16", "rounding": "nearest"}, ["recipe=w4q16h"]),
        ({"m": "8", "m.granularity": "block64", "granularity": "tensor"}, ["recipe=m8b64"]),
        ({"saved": "8", "v": "4"}, ["recipe=v4k8"]),
        ({"recipe": "penny8", "gradients": "none"}, ["recipe=w8a8m8v8"]),
        ({"recipe": "penny8", "gradients": "8"}, ["recipe=penny8"]),
        ({"recipe": "penny4", "optimizer.lr": "1"}, ["recipe=penny4", "optimizer.lr=1"]),
        ({"run.gradients": "freed", "recipe.last": "0.5"}, ["gradients=freed", "recipe.last=0.5"]),
    ],
)
def test_the_values_of_a_cell_are_the_settings_they_stand_for(values: dict[str, str], settings: list[str]) -> None:
    assert settings_of(values, recipe("bf16")) == settings


def test_components_change_the_recipe_that_the_base_run_has() -> None:
    assert settings_of({"activations": "none"}, recipe("w8a8g8")) == ["recipe=w8g8"]


@pytest.mark.parametrize("name", ["penny4", "penny8-nomaster", "paper-w8", "fp32"])
def test_a_recipe_beyond_the_notation_takes_no_component(name: str) -> None:
    with pytest.raises(ValueError, match="more than its notation says"):
        settings_of({"recipe": name, "weights": "8"}, recipe("bf16"))
