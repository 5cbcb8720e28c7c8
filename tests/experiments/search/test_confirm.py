"""What runs on fresh seeds say of a recipe, on rows made by hand."""

import math

import pytest

from pennyweight.experiments.search.confirm import confirmed
from pennyweight.experiments.search.outcome import sentence

BF16 = {1: 4.0, 2: 5.0, 3: 4.0}


def ends(losses: dict[int, float], plain: float = 0.0) -> dict[int, dict]:
    return {seed: {"status": "finished", "val_loss": one, "val_loss_plain": plain} for seed, one in losses.items()}


def test_the_mean_of_the_paired_differences_decides_and_the_interval_is_told() -> None:
    # +1 %, +1 %, +0.4 %: mean 0.8, deviation 0.3464, half the interval 4.303 * 0.3464 / sqrt(3) = 0.8606
    one = confirmed("r", 5.0, 0.5, ends({1: 4.04, 2: 5.05, 3: 4.016}), ends(BF16), 1.0)
    assert one.differences == pytest.approx({1: 1.0, 2: 1.0, 3: 0.4})
    assert one.mean == pytest.approx(0.8)
    assert (one.low, one.high) == pytest.approx((0.8 - 0.8606, 0.8 + 0.8606), abs=1e-4)
    assert one.within
    assert not one.surely
    assert confirmed("r", 5.0, 0.5, ends({1: 4.04, 2: 5.05, 3: 4.016}), ends(BF16), 1.7).surely
    assert not confirmed("r", 5.0, 0.5, ends({1: 4.04, 2: 5.05, 3: 4.016}), ends(BF16), 0.79).within


def test_the_model_as_saved_counts_where_it_is_worse() -> None:
    one = confirmed("r", 5.0, 0.5, ends({1: 4.0}, plain=4.4), ends({1: 4.0}), 1.0)
    assert one.mean == pytest.approx(10.0)


def test_a_seed_that_is_missing_or_diverged_is_not_within() -> None:
    assert not confirmed("r", 5.0, 0.5, ends({1: 4.0}), ends(BF16), 1.0).within
    rows = {**ends({1: 4.0, 2: 5.0}), 3: {"status": "diverged", "error": "at step 3 the loss is nan"}}
    one = confirmed("r", 5.0, 0.5, rows, ends(BF16), 1.0)
    assert (one.mean, one.within, one.error) == (math.inf, False, "at step 3 the loss is nan")


def test_the_sentence_says_whether_a_named_recipe_is_as_cheap() -> None:
    asked = {"minimise": "bits", "loss_budget": 0.01}
    cheap = confirmed("found", 5.0, 0.5, ends(BF16), ends(BF16), 1.0)
    named = confirmed("penny8", 5.0, 0.5, ends(BF16), ends(BF16), 1.0)
    dear = confirmed("m8v8", 7.0, 0.7, ends(BF16), ends(BF16), 1.0)
    assert sentence(cheap, named, asked).startswith("No candidate is cheaper than the cheapest named recipe")
    assert sentence(cheap, dear, asked).startswith("found: 5.00 bits a number, 0.500 of bf16's; validation loss 0.00 %")
    assert "cheapest named recipe that is: m8v8" in sentence(None, dear, asked)
    assert "No named recipe" in sentence(cheap, None, asked)
    assert sentence(None, None, asked).startswith("No recipe was confirmed within the budget of 1 %")
