"""Costs against numbers worked out by hand."""

from dataclasses import replace

import pytest

from pennyweight.data import prepare
from pennyweight.experiments.search.costs import Costs, mean_bits, memory, numbers_saved
from pennyweight.recipes import recipe
from pennyweight.training import Run, resolved

WIDTH, WORDS, PLACES = 64, 300, 32
LINEAR = 12 * WIDTH * WIDTH  # one GPT-2 block: 3 + 1 + 4 + 4 squares
PARAMETERS = LINEAR + 13 * WIDTH + 2 * WIDTH + WORDS * WIDTH + PLACES * WIDTH  # biases, norms, two embeddings


@pytest.fixture
def costs(base: Run) -> Costs:
    run = resolved(base)
    corpus = prepare(run.data.source, tokenizer=run.data.tokenizer, validation=run.data.validation)
    assert corpus.vocab_size == WORDS
    return Costs("memory", run, corpus)


def test_memory_is_the_sum_of_what_a_step_holds(costs: Costs) -> None:
    assert memory({"weights": 1, "gradients": 20, "states": 300, "saved activations": 4000}) == 4321
    moments = costs(recipe("bf16")) - costs(recipe("m8"))
    # of tensors of two dimensions and 4096 numbers or more: int8 codes and a float32 scale a block of 128
    assert PLACES * WIDTH < 4096
    written = LINEAR + WORDS * WIDTH
    assert moments == written * 4 - (written + written // 128 * 4)


def test_bits_a_number_is_a_mean_over_weights_moments_and_what_is_kept() -> None:
    held = {"weights": 0, "gradients": 0, "states": 20, "saved activations": 6}
    # 10 weights of 16 bits, 20 moments of 8 bits, 3 kept numbers of 16 bits: (160 + 160 + 48) / 33
    assert mean_bits(weight_bits=160, held=held, parameters=10, saved=3) == pytest.approx(368 / 33)


def test_written_weights_count_by_their_format(costs: Costs) -> None:
    bits = Costs("bits", costs.base, costs.corpus)
    saved = numbers_saved(costs.base, WORDS)
    kept = 8 * (costs(recipe("bf16")) - costs(recipe("w8")))  # what w8 keeps less than bf16 does, in bits
    difference = bits(recipe("bf16")) - bits(recipe("w8"))
    assert difference == pytest.approx((LINEAR * (32 - 8) + kept) / (3 * PARAMETERS + saved))


def test_every_sequence_beyond_the_second_keeps_as_many_numbers_as_the_second(costs: Costs) -> None:
    one, two, five = (numbers_saved(replace(costs.base, batch=batch), WORDS) for batch in (1, 2, 5))
    assert five - one == 4 * (two - one) > 0


def test_a_step_takes_about_as_long_as_itself(costs: Costs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pennyweight.experiments.search.costs.ROUNDS", 5)
    timed = Costs("time", costs.base, costs.corpus)
    assert 0.3 < timed(recipe("bf16")) < 3  # a busy machine; the sides take turns


def test_a_recipe_that_no_layer_can_hold_is_refused(costs: Costs) -> None:
    with pytest.raises(ValueError, match="block"):
        costs(recipe("w4b4096"))
