"""Switches: recipes that follow each other in one run; what they leave as it is, and what tells of them."""

import json

import pytest
from safetensors.torch import load_file

from pennyweight.recipes import Phase, recipe
from pennyweight.training import Checkpoint, Run, read_ledger, train, with_settings
from pennyweight.training.prediction import predict


def test_before_its_first_switch_a_run_is_the_run_without(small, tmp_path):
    text = "bf16 until 3, then penny8-nomaster until 5, then g8"
    plain, switched = (train(small(recipe=r, steps=6), tmp_path / r[:6], progress=False) for r in ("bf16", text))
    assert switched.curve[:3] == plain.curve[:3]
    assert [loss for _, loss in switched.curve[4:]] != [loss for _, loss in plain.curve[4:]]
    lines = [line for line in read_ledger(tmp_path / text[:6] / "ledger.jsonl") if line["kind"] == "switch"]
    assert lines == [
        {"kind": "switch", "step": 3, "before": "bf16", "recipe": "penny8-nomaster"},
        {"kind": "switch", "step": 5, "before": "penny8-nomaster", "recipe": "g8"},
    ]
    assert (switched.recipe, len(switched.converted)) == (text, 8)


@pytest.mark.parametrize("name", ["bf16", "penny8", "penny8-nomaster"])
def test_a_switch_to_the_same_recipe_changes_nothing(small, name):
    again = recipe(name).__class__.from_dict({**recipe(name).to_dict(), "name": "again"})
    there_and_back = recipe(name).__class__.from_dict(
        {**recipe(name).to_dict(), "then": [Phase(2, again).to_dict(), Phase(3, recipe(name)).to_dict()]}
    )
    one, other = (train(small(recipe=r, steps=5), progress=False) for r in (recipe(name), there_and_back))
    assert (one.curve, one.validation, one.val_loss_plain) == (other.curve, other.validation, other.val_loss_plain)
    assert one.memory == other.memory


def test_the_saved_model_is_as_the_last_recipe_writes_it(small, tmp_path):
    train(small(recipe="bf16 until 2, then penny8-nomaster", checkpoint=Checkpoint(every=4)), tmp_path, progress=False)
    held = load_file(tmp_path / "checkpoints" / "step-000004" / "model.safetensors")
    plain = load_file(tmp_path / "model" / "model.safetensors")
    name = "transformer.h.1.mlp.c_fc.weight"
    assert (plain[name] == held[f"{name}_codes"] * held[f"{name}_scales"]).all()


def test_the_largest_recipe_is_predicted_and_measured(small, tmp_path):
    held = {r: predict(small(recipe=r), vocab_size=512) for r in ("bf16", "penny8-nomaster", "m8v8")}
    both = predict(small(recipe="penny8-nomaster until 1, then bf16 until 3, then m8v8"), vocab_size=512)
    assert both == held["bf16"] != held["m8v8"]
    result = train(small(recipe="penny8-nomaster until 1, then bf16 until 3, then m8v8"), progress=False)
    alone = train(small(recipe="bf16"), progress=False)
    assert result.memory == alone.memory


def test_what_cannot_be_switched_is_refused_before_anything_starts(small, tmp_path):
    for changes, sentence in (
        ({"recipe": "bf16 until 4, then w8a8"}, "switches to w8a8 after step 4 of 4"),
        ({"recipe": "bf16 until 50%, then w8a8", "compile": True}, "switches, which compiled blocks cannot"),
    ):
        with pytest.raises(ValueError, match=sentence):
            small(**changes)
    with pytest.raises(ValueError, match="recipe w8b4096a8 writes W with blocks of 4096, but no row"):
        train(small(recipe="bf16 until 2, then w8b4096a8"), tmp_path / "r", progress=False)
    assert not (tmp_path / "r" / "run.json").exists()


def test_settings_read_schedules_and_do_not_change_one_recipe_of_them():
    run = with_settings(Run(), ["recipe=bf16 until 10%, then w8a8", "steps=50"])
    assert run.recipe.switches(50)[0][0] == 5
    assert Run.from_dict(json.loads(json.dumps(run.to_dict()))) == run
    with pytest.raises(ValueError, match=r"Recipe.m belongs to one recipe, but 'bf16 until 10%, then w8a8' are 2"):
        with_settings(run, ["recipe.m=int8"])
