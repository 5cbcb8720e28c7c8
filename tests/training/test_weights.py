"""A training begins from the weights of a model folder, exactly those, or says why it cannot."""

import dataclasses
import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from pennyweight.training import Checkpoint, Evaluation, Optimizer, Weights, differences, load_run, resolved, train


def quiet(run, out=None, **rest):
    return train(run, out, progress=False, **rest)


@pytest.fixture
def trained(small, tmp_path):
    """A finished run and its folder."""
    run = small(steps=6, tracker="none", optimizer=Optimizer(lr=1e-2))
    return quiet(run, tmp_path / "first"), tmp_path / "first"


def test_it_begins_where_the_first_training_ended(trained, small, tmp_path):
    first, folder = trained
    for place in (folder, folder / "model", folder / "model" / "model.safetensors"):
        next_one = quiet(small(steps=1, seed=5, weights=str(place)))
        assert next_one.initial_loss == first.val_loss


def test_its_first_loss_under_a_recipe_is_that_of_the_model_written_by_it(trained, small):
    _, folder = trained
    from transformers import AutoModelForCausalLM

    from pennyweight.data import prepare, validation_batches
    from pennyweight.nn import post_train
    from pennyweight.training import validation_loss

    run = small(steps=1, weights=str(folder), recipe="w4a8")
    model = AutoModelForCausalLM.from_pretrained(folder / "model", local_files_only=True, dtype=torch.float32)
    post_train(model, "w4a8")
    corpus = prepare(run.data.source, tokenizer=run.data.tokenizer, validation=run.data.validation)
    batches = validation_batches(corpus.valid, run.data.context, run.batch, run.evaluation.tokens)
    expected = validation_loss(model, batches, objective=run.objective, precision="bf16")
    assert quiet(run).initial_loss == expected


def test_the_run_remembers_their_hash_and_goes_on_with_no_others(trained, small, tmp_path):
    _, folder = trained
    run = small(steps=3, weights=str(folder), tracker="none", checkpoint=Checkpoint(every=1))
    quiet(run, tmp_path / "second")
    written = load_run(tmp_path / "second").weights
    assert written is not None
    assert len(written.hash) == 64
    path = folder / "model" / "model.safetensors"
    tensors = load_file(path)
    save_file({name: tensor + 1 for name, tensor in tensors.items()}, path, metadata={"format": "pt"})
    with pytest.raises(FileExistsError, match="weights.hash"):
        quiet(run, tmp_path / "second")
    with pytest.raises(ValueError, match="have changed since the run began"):
        quiet(load_run(tmp_path / "second"), tmp_path / "third")


def test_a_folder_that_moved_is_the_same_weights(trained, small, tmp_path):
    _, folder = trained
    here = resolved(small(weights=str(folder)))
    shutil.copytree(folder / "model", tmp_path / "moved")
    assert differences(here, resolved(small(weights=str(tmp_path / "moved")))) == []
    assert differences(here, resolved(small())) != []


def test_a_continued_training_that_was_killed_resumes_bit_for_bit(trained, small, tmp_path):
    _, folder = trained
    run = small(
        steps=4, weights=str(folder), tracker="none", checkpoint=Checkpoint(every=2), evaluation=Evaluation(tokens=256)
    )
    whole = quiet(run, tmp_path / "whole")
    shutil.copytree(
        tmp_path / "whole", tmp_path / "cut", ignore=shutil.ignore_patterns("step-000004", "result.json", "model")
    )
    assert quiet(run, tmp_path / "cut").val_loss == whole.val_loss


@pytest.mark.parametrize(
    ("place", "kind", "said"),
    [
        ("nowhere", FileNotFoundError, "is no folder"),
        ("empty", FileNotFoundError, r"holds no \*.safetensors"),
        ("pickled", ValueError, "pickled"),
        ("damaged", ValueError, "cannot be read"),
        ("narrower", ValueError, "has the shapes"),
        ("other", ValueError, "in only one of the two"),
        ("words", ValueError, "other tokens"),
    ],
)
def test_what_cannot_be_begun_from_is_refused_in_one_sentence(trained, small, tmp_path, place, kind, said):
    _, folder = trained
    there = tmp_path / place
    tensors = load_file(folder / "model" / "model.safetensors")
    if place != "nowhere":
        there.mkdir()
    if place == "pickled":
        torch.save(tensors, there / "pytorch_model.bin")
    if place == "damaged":
        (there / "model.safetensors").write_bytes(b"nothing of the kind")
    if place == "narrower":
        save_file({name: tensor[:-1].contiguous() for name, tensor in tensors.items()}, there / "model.safetensors")
    if place == "other":
        save_file({f"other.{name}": tensor for name, tensor in tensors.items()}, there / "model.safetensors")
    if place == "words":
        shutil.copytree(folder / "model", there, dirs_exist_ok=True)
        written = json.loads((there / "tokenizer.json").read_text())
        written["model"]["vocab"] = {word: 511 - number for word, number in written["model"]["vocab"].items()}
        written["added_tokens"] = []
        (there / "tokenizer.json").write_text(json.dumps(written))
    with pytest.raises(kind, match=said):
        quiet(small(weights=str(there)), tmp_path / "run")


def test_a_setting_names_them_and_no_other_kind_of_value_does(small):
    run = dataclasses.replace(small(), weights=Weights(of="somewhere"))
    assert run.to_dict()["weights"] == {"of": "somewhere", "hash": ""}
    with pytest.raises(ValueError, match=r"Run\.weights is the folder of a model or a run, got 3"):
        small(weights=3)


def test_weights_that_are_no_numbers_are_refused_by_name(trained, small):
    _, folder = trained
    path = folder / "model" / "model.safetensors"
    tensors = load_file(path)
    name = min(tensors)
    tensors[name].view(-1)[0] = float("nan")
    save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=f"hold numbers that are not finite: {name}"):
        quiet(small(steps=1, weights=str(folder)))
