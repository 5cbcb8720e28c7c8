"""A run is a value: it compares, saves, and refuses in one sentence with the nearest right name."""

import dataclasses
import json
import re

import pytest

from pennyweight.recipes import recipe
from pennyweight.training import Data, Optimizer, Run, Schedule, with_settings

NAMED = ["fp32", "bf16", "w8a8", "w8a8g8", "m8v8", "penny8", "penny4", "w2a2-control", "w4ca8tg8m8v8"]


@pytest.mark.parametrize("name", NAMED)
def test_a_run_survives_json(name):
    run = Run(model="gpt2", recipe=name, clip=None, optimizer=Optimizer(betas=(0.8, 0.99)), seed=7)
    again = Run.from_dict(json.loads(json.dumps(run.to_dict())))
    assert again == run
    assert again.recipe == recipe(name)


def test_the_humble_baseline_is_the_default():
    run = Run()
    assert (run.model, run.data.source, run.data.tokenizer, run.data.context) == ("tiny", "stdlib", "bpe-4096", 256)
    assert (run.recipe.name, run.steps, run.batch, run.accumulate, run.clip, run.seed) == ("bf16", 400, 16, 1, 1.0, 0)
    assert run.tokens_per_step == 4096
    assert run.to_dict()["strategy"] == "synchronous"
    assert run.to_dict()["objective"] == "next-token"


def test_a_run_is_frozen_and_derives_by_replace():
    run = Run()
    with pytest.raises(dataclasses.FrozenInstanceError):
        run.steps = 3
    assert dataclasses.replace(run, steps=3).steps == 3
    assert run.steps == 400


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"stepz": 3}, "Run has no field 'stepz'; did you mean 'steps'?"),
        ({"steps": 0}, "Run.steps: input should be greater than or equal to 1, got 0"),
        ({"steps": 2.5}, "got 2.5"),
        ({"seed": -1}, "got -1"),
        ({"clip": 0.0}, "got 0.0"),
        (
            {"clip": None, "clip_by": "previous"},
            "Run.clip_by='previous' says by which norm clip cuts, but clip is None",
        ),
        ({"gradients": "freed"}, "set clip_by='previous' or clip=None, or gradients='held'"),
        ({"gradients": "freed", "clip": None, "accumulate": 2}, "accumulate=2 adds up several; take one larger batch"),
        ({"gradients": "freeed"}, "'held' or 'freed', got 'freeed'"),
        ({"recipe": "peny8"}, "did you mean 'penny8'?"),
        ({"strategy": "synchronus"}, "did you mean 'synchronous'?"),
        ({"objective": "next-tokn"}, "did you mean 'next-token'?"),
        ({"data": {"contxt": 3}}, "Data has no field 'contxt'; did you mean 'context'?"),
        ({"optimizer": {"lr": -1.0}}, "Run.optimizer.lr: input should be greater than 0, got -1.0"),
        ({"optimizer": {"betas": [0.9, 1.0]}}, "got 1.0"),
        ({"schedule": {"shape": "cosin"}}, "'cosine', 'wsd' or 'constant', got 'cosin'"),
        ({"schedule": {"warmup": 500}}, "at most steps=400, got 500"),
        ({"schedule": {"decay": 0.5}}, "Schedule.decay is how wsd ends, but shape is 'cosine', got 0.5"),
        ({"schedule": {"shape": "constant", "decay": 0.0}}, "Schedule.decay is how wsd ends"),
        ({"schedule": {"shape": "constant", "final": 0.5}}, "Schedule.final is where cosine and wsd end"),
        ({"data": {"validation": 0.6}}, "Run.data.validation: input should be less than or equal to 0.5, got 0.6"),
    ],
)
def test_a_wrong_field_is_one_sentence(wrong, said):
    with pytest.raises(ValueError, match=re.escape(said)) as caught:
        Run(**wrong)
    assert "\n" not in str(caught.value)


def test_gradients_are_freed_where_nothing_needs_them_together():
    assert Run(gradients="freed", clip=None).gradients == "freed"
    assert Run(gradients="freed", clip_by="previous").clip == 1.0
    assert Run(clip_by="previous", accumulate=2).gradients == "held"


def test_every_number_that_a_schedule_reads_may_be_set():
    assert Schedule("wsd", decay=0.5, final=0.0).decay == 0.5
    assert Schedule("cosine", final=0.0).final == 0.0
    assert Schedule("constant", warmup=3).warmup == 3
    assert Data(validation=0.5).validation == 0.5


def test_the_parts_refuse_in_one_sentence_too():
    with pytest.raises(ValueError, match=r"^Data\.context: input should be greater than or equal to 1, got 0$"):
        Data(context=0)
    with pytest.raises(ValueError, match=r"^Schedule has no field 'shap'; did you mean 'shape'\?$"):
        Schedule(shap="wsd")
    with pytest.raises(ValueError, match="finite"):
        Optimizer(lr=float("nan"))


def test_one_folder_of_data_is_one_run_however_it_is_spelled():
    assert Run(data=Data(source="./notes/")) == Run(data=Data(source="notes"))


@pytest.mark.parametrize("setting", ["steps", "batch", "optimizer.lr", "data.context", "optimizer.betas"])
def test_true_is_no_number(setting):
    value = "true,0.5" if setting.endswith("betas") else "true"
    with pytest.raises(ValueError, match=r"input should be a number, got True$"):
        with_settings(Run(), [f"{setting}={value}"])


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"recipe": 3}, "Run.recipe is a name such as 'penny8', .* or a Recipe, got 3"),
        ({"strategy": 3}, "Run.strategy is one of 'synchronous', got 3"),
        ({"objective": None}, "Run.objective is one of 'next-token', got None"),
    ],
)
def test_a_choice_of_the_wrong_kind_is_answered_with_what_to_write(wrong, said):
    with pytest.raises(ValueError, match=f"^{said}$"):
        Run(**wrong)


def test_compiled_blocks_and_written_saved_tensors_do_not_go_together():
    assert Run(compile=True).compile
    with pytest.raises(ValueError, match="compiled blocks do not show"):
        Run(compile=True, recipe="w8a8g8k8")
    with pytest.raises(ValueError, match="Run.compile: input should be a valid boolean"):
        Run(compile="yes")
