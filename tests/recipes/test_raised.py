"""Raised recipes: a rung higher in one component, plain in some layers, and nothing else."""

import pytest

from pennyweight.numerics import cast
from pennyweight.recipes import Recipe, names, recipe
from pennyweight.recipes.raised import COMPONENTS, Component, bits_of, is_written, raised, without_layers

EVERY = [*names(), "w8a4tg8", "we2m1mxae2m1mxge2m1mxs", "w8q32a8q32g8q32", "w4b32ha4b32hg4b32sh"]


@pytest.mark.parametrize("component", COMPONENTS)
@pytest.mark.parametrize("name", [*EVERY, "bf16 until 10%, then penny8-nomaster, then w4a4g4 from 50%"])
def test_a_component_of_every_recipe_goes_up_until_it_is_plain(name: str, component: Component) -> None:
    one, bits = recipe(name), 0
    for _ in range(4):
        assert bits_of(one, component) >= bits
        bits, before = bits_of(one, component), one
        one = raised(one, component)
        assert Recipe.from_dict(one.to_dict()) == one
        assert (one == before) == (bits == 32)
        assert (str(one) == str(before)) == (bits == 32)
    assert bits_of(one, component) == 32


@pytest.mark.parametrize("name", EVERY)
def test_all_components_can_be_raised_in_turn(name: str) -> None:
    one = recipe(name)
    for component in COMPONENTS * 3:
        one = raised(one, component)
    assert not is_written(one)
    assert one.linear is None or not one.linear.writes


def test_v_leaves_its_linear_code_for_one_without_a_zero() -> None:
    one = raised(recipe("paper-v8"), "v")
    assert (one.v, one.m, one.states) == ("log8/block256", "fp32", "linear")
    assert one.linear == recipe("paper-v8").linear
    assert one.name == "paper-v8+v log8/block256"
    assert raised(one, "v").v == "fp32"
    assert raised(recipe("m4v4"), "m").m == "int8/block128"


def test_activations_of_one_scale_go_to_a_scale_a_row_and_then_unwritten() -> None:
    once = raised(recipe("w8a4tg8"), "activations")
    assert once.linear == recipe("w8a8g8").linear
    twice = raised(once, "activations")
    assert twice.linear == recipe("w8g8").linear
    published = raised(recipe("paper-a4"), "activations")
    assert published.linear is not None
    assert published.linear.output.left == cast("int8/row/published")
    assert published.linear.backward == "original"


def test_gradients_keep_their_noise() -> None:
    one = raised(recipe("w8a8g4s"), "gradients")
    assert one.linear is not None
    assert one.linear.grad_input.left == one.linear.grad_weight.left == cast("int8/row/stochastic")


def test_weights_without_a_master_copy_get_one_first() -> None:
    one = raised(recipe("penny8-nomaster"), "weights")
    assert one.weights is None
    assert one.linear == recipe("penny8-nomaster").linear


def test_layers_are_left_plain_by_name_alone() -> None:
    one = without_layers(recipe("w8a8"), ["h.0.fc", "h.1.[x]"])
    assert one.choice("h.0.fc")[0] is None
    assert one.choice("h.1.[x]")[0] is None
    assert one.choice("h.0.fcx")[0] == one.choice("h.1.x")[0] == recipe("w8a8").linear
    assert str(one) == "w8a8+2 layers plain"


def test_every_recipe_of_a_schedule_is_raised() -> None:
    one = without_layers(raised(recipe("w8a8 until 10, then w4a4"), "activations"), ["a"])
    assert str(one) == "w8a8+activations plain+1 layer plain until 10, then w4a4+activations int8/row+1 layer plain"
    assert [phase.rules[0].pattern for phase in one.phases] == ["a", "a"]
