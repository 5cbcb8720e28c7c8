"""A run from its beginning to its files, and what it refuses."""

import dataclasses
import errno
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch

from pennyweight.nn import activations_off, quantize
from pennyweight.training import (
    Checkpoint,
    Data,
    DiskFull,
    Diverged,
    Evaluation,
    Optimizer,
    Result,
    build_model,
    load_run,
    read_ledger,
    resolved,
    train,
    with_settings,
)
from pennyweight.training import checkpoint as checkpoint_room
from pennyweight.training import loop as loop_room


def quiet(run, out=None, **rest):
    return train(run, out, progress=False, **rest)


def kinds(folder):
    return [(line["kind"], line["step"]) for line in read_ledger(folder / "ledger.jsonl")]


def test_a_run_folder_holds_what_it_promises(small, tmp_path):
    run = small(recipe="w8a8g8", steps=5, evaluation=Evaluation(every=2, tokens=256), checkpoint=Checkpoint(every=2))
    run = dataclasses.replace(run, tracker="none")
    result = quiet(run, tmp_path / "r")
    assert sorted(p.name for p in (tmp_path / "r").iterdir()) == [
        ".lock",
        "checkpoints",
        "ledger.jsonl",
        "model",
        "result.json",
        "run.json",
    ]
    assert sorted(os.listdir(tmp_path / "r" / "checkpoints")) == ["step-000004", "step-000005"]
    assert kinds(tmp_path / "r") == [
        ("evaluation", 0),
        ("step", 1),
        ("step", 2),
        ("evaluation", 2),
        ("checkpoint", 2),
        ("step", 3),
        ("step", 4),
        ("evaluation", 4),
        ("checkpoint", 4),
        ("step", 5),
        ("evaluation", 5),
        ("checkpoint", 5),
        ("end", 5),
    ]
    line = read_ledger(tmp_path / "r" / "ledger.jsonl")[1]
    assert {"loss", "learning_rate", "gradient_norm", "tokens", "tokens_per_second", "resident_bytes"} < set(line)
    assert line["tokens"] == 2 * 32
    assert load_run(tmp_path / "r") == resolved(run) == load_run(tmp_path / "r" / "run.json")
    written = json.loads((tmp_path / "r" / "run.json").read_text())
    assert {"run", "data_hash", "commit", "machine", "versions"} == set(written)
    assert Result.from_dict(json.loads((tmp_path / "r" / "result.json").read_text())) == result
    assert result.tokens == 5 * 2 * 32
    assert (result.steps, result.recipe, result.seed, result.status) == (5, "w8a8g8", 0, "finished")
    assert result.perplexity == pytest.approx(math.exp(result.val_loss))
    assert [step for step, _ in result.validation] == [0, 2, 4, 5]
    assert result.validation[0][1] == result.initial_loss
    assert result.peak_memory_bytes > 0


def test_the_saved_model_loads_without_pennyweight_and_gives_our_logits(small, tmp_path):
    run = small(recipe="w8a8g8", steps=3)
    quiet(run, tmp_path / "r")
    ours = build_model(run.model, vocab_size=512, context=32, seed=0)
    quantize(ours, run.recipe)
    masters = checkpoint_room.load(tmp_path / "r" / "checkpoints" / "step-000003").model
    ours.load_state_dict(masters, strict=False)  # the tied head's second name is not saved
    tokens = torch.arange(1, 21)[None]
    with torch.no_grad(), activations_off(ours.eval()):
        expected = ours(tokens).logits
    torch.save(expected, tmp_path / "expected.pt")
    code = f"""
import sys, torch
sys.modules["pennyweight"] = None  # an import of it fails
from transformers import AutoModelForCausalLM, AutoTokenizer
model = AutoModelForCausalLM.from_pretrained({str(tmp_path / "r" / "model")!r})
tokenizer = AutoTokenizer.from_pretrained({str(tmp_path / "r" / "model")!r})
assert tokenizer.decode(tokenizer("ba be bi")["input_ids"]) == "ba be bi"
expected = torch.load({str(tmp_path / "expected.pt")!r}, weights_only=True)
with torch.no_grad():
    got = model.eval()(torch.arange(1, 21)[None]).logits
print((got - expected).abs().max().item() / expected.abs().max().item())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert float(done.stdout) < 1e-5  # float32: another order of sums


def test_the_saved_model_is_for_everyone_and_knows_its_context(small, tmp_path):
    quiet(small(steps=1), tmp_path / "r")
    modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "r" / "model").iterdir()}
    (tmp_path / "new").write_text("")
    assert set(modes.values()) == {(tmp_path / "new").stat().st_mode & 0o777}
    assert "model.safetensors" in modes
    told = json.loads((tmp_path / "r" / "model" / "tokenizer_config.json").read_text())
    assert told["model_max_length"] == 32


def test_a_tied_head_that_is_written_alone_is_saved_untied(small, tmp_path):
    from transformers import AutoModelForCausalLM

    run = with_settings(small(recipe="w8a8", steps=2), ["recipe.head=true"])
    result = quiet(run, tmp_path / "r")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "r" / "model")
    assert not torch.equal(model.lm_head.weight, model.transformer.wte.weight)
    assert result.val_loss_plain == pytest.approx(result.val_loss, rel=0.02)


def test_the_same_run_answers_again_and_another_is_refused(small, tmp_path):
    run = small(steps=2)
    result = quiet(run, tmp_path / "r")
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "r").rglob("*")}
    assert quiet(run, tmp_path / "r") == result
    assert quiet(run, resume=tmp_path / "r") == result
    other = dataclasses.replace(run, seed=1, optimizer=Optimizer(lr=0.5))
    with pytest.raises(FileExistsError, match=r"already holds another run.*lr: 0.001 is not 0.5.*seed: 0 is not 1"):
        quiet(other, tmp_path / "r")
    with pytest.raises(ValueError, match=r"cannot be resumed as another run.*recipe: bf16 is not penny8"):
        quiet(dataclasses.replace(run, recipe=small(recipe="penny8").recipe), tmp_path / "r", resume=True)
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "r").rglob("*")} == before


def test_a_finished_run_says_that_nothing_is_trained(small, tmp_path, capfd):
    train(small(steps=1), tmp_path / "r")
    assert "bf16: building the model\n" in capfd.readouterr().err
    train(small(steps=1), tmp_path / "r")
    assert capfd.readouterr().err == "bf16: finished earlier, nothing is trained\n"


def test_without_a_folder_nothing_is_written_and_nothing_can_be_resumed(small, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = quiet(small(steps=2))
    assert result.folder is None
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ValueError, match=r"checkpoint.every=1 needs a run folder"):
        quiet(small(checkpoint=Checkpoint(every=1)))
    with pytest.raises(ValueError, match="resume needs a run folder"):
        quiet(small(), resume=True)
    with pytest.raises(FileNotFoundError, match=r"nothing to resume in .*nowhere"):
        quiet(small(), resume=tmp_path / "nowhere")
    with pytest.raises(ValueError, match="differ"):
        quiet(small(), tmp_path / "a", resume=tmp_path / "b")


def test_bad_requests_leave_no_folder(small, tmp_path):
    out = tmp_path / "r"
    too_long = dataclasses.replace(small().data, context=64)
    for run, said in [
        (small(data=too_long), "reads at most 32 tokens at once, got data.context=64"),
        (small(model="tinny"), "did you mean 'tiny'"),
        (small(model=str(tmp_path / "no.json")), "does not exist"),
        (small(data=Data(source=str(tmp_path / "no.txt"), context=32)), "no.txt"),
    ]:
        with pytest.raises((ValueError, FileNotFoundError), match=said):
            quiet(run, out)
        assert not out.exists()


def test_a_slip_is_said_before_the_folder_that_seems_to_hold_another_run(small, tmp_path):
    quiet(small(steps=1), tmp_path / "r")
    for run, said in [
        (small(model="tinny"), "did you mean 'tiny'"),
        (small(data=dataclasses.replace(small().data, source=small().data.source + "x")), "did you mean '.*jsonl'"),
        (small(data=dataclasses.replace(small().data, tokenizer="bpe512")), "did you mean 'bpe-512'"),
        (small(data=dataclasses.replace(small().data, context=64)), "reads at most 32 tokens"),
    ]:
        with pytest.raises((ValueError, FileNotFoundError), match=said):
            quiet(run, tmp_path / "r")
    with pytest.raises(FileExistsError, match="already holds another run"):
        quiet(small(steps=2), tmp_path / "r")


def test_a_first_look_at_the_data_is_told_and_a_quiet_run_says_nothing(small, tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("PENNYWEIGHT_CACHE", str(tmp_path / "one"))
    train(small(steps=1))
    told = capfd.readouterr().err
    assert "bf16: splitting 50 documents\nbf16: making the tokenizer bpe-512\n" in told
    monkeypatch.setenv("PENNYWEIGHT_CACHE", str(tmp_path / "two"))
    quiet(small(steps=1))
    assert capfd.readouterr() == ("", "")


def test_a_folder_with_somebody_elses_model_is_left_alone(small, tmp_path):
    (tmp_path / "r" / "model").mkdir(parents=True)
    with pytest.raises(FileExistsError, match="something else"):
        quiet(small(), tmp_path / "r")
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(FileExistsError, match=f"{tmp_path / 'file'} is a file"):
            quiet(small(), place)
    assert sorted(os.listdir(tmp_path / "r")) == ["model"]


def test_two_processes_cannot_train_in_one_folder(small, tmp_path):
    import fcntl

    (tmp_path / "r").mkdir()
    with (tmp_path / "r" / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(FileExistsError, match="another process trains"):
            quiet(small(), tmp_path / "r")
    assert quiet(small(steps=1), tmp_path / "r").status == "finished"


def test_a_damaged_checkpoint_is_passed_over_with_a_warning(small, tmp_path, caplog):
    run = small(steps=6, checkpoint=Checkpoint(every=2, keep=3))
    result = quiet(run, tmp_path / "r")
    (tmp_path / "r" / "result.json").unlink()
    victim = tmp_path / "r" / "checkpoints" / "step-000006" / "model.safetensors"
    victim.write_bytes(victim.read_bytes()[:-8])
    again = quiet(run, tmp_path / "r")
    assert "step-000006 is damaged (model.safetensors does not match its checksum); going on from step-000004" in (
        caplog.text
    )
    assert (again.val_loss, again.curve) == (result.val_loss, result.curve)
    steps = [step for kind, step in kinds(tmp_path / "r") if kind == "step"]
    assert steps == [1, 2, 3, 4, 5, 6]
    for path in (tmp_path / "r" / "checkpoints").iterdir():
        (path / "state.json").write_text("{}")
    (tmp_path / "r" / "result.json").unlink()
    with pytest.raises(ValueError, match="no checkpoint in .* can be trusted"):
        quiet(run, tmp_path / "r")


@pytest.fixture
def own_model(small, tmp_path):
    """A run's config.json of its own, and what changes it."""
    path = tmp_path / "shape" / "config.json"
    path.parent.mkdir()
    path.write_text(Path(small().model).read_text())
    return path, lambda **fields: path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def test_a_replay_trains_the_model_that_the_run_began_with(small, tmp_path, own_model, monkeypatch, capfd):
    path, change = own_model
    first = quiet(small(model=str(path), steps=2), tmp_path / "r")
    change(n_embd=32)
    capfd.readouterr()
    again = train(load_run(tmp_path / "r" / "run.json"), tmp_path / "s")
    assert f"the config of {path} has changed since the run began" in capfd.readouterr().err
    assert (again.parameters, again.val_loss) == (first.parameters, first.val_loss)
    path.unlink()
    assert quiet(load_run(tmp_path / "s"), tmp_path / "t").val_loss == first.val_loss


def test_the_same_command_with_another_config_is_another_run_and_going_on_keeps_the_first(small, tmp_path, own_model):
    path, change = own_model
    run = small(model=str(path), steps=2)
    first = quiet(run, tmp_path / "r")
    (tmp_path / "r" / "result.json").unlink()
    change(layer_norm_epsilon=0.1)
    with pytest.raises(FileExistsError, match=r"holds another run.*: model.layer_norm_epsilon: nothing is not 0.1"):
        quiet(run, tmp_path / "r")
    assert quiet(load_run(tmp_path / "r"), resume=tmp_path / "r").val_loss == first.val_loss


def test_a_checkpoint_of_another_shape_is_refused_in_one_sentence(small, tmp_path):
    run = small(steps=2)
    quiet(run, tmp_path / "r")
    (tmp_path / "r" / "result.json").unlink()
    written = json.loads((tmp_path / "r" / "run.json").read_text())
    del written["run"]["config"]  # as a run.json was before it held the config
    (tmp_path / "r" / "run.json").write_text(json.dumps(written))
    wider = with_settings(resolved(run), ["config.says.n_embd=32"])
    with pytest.raises(ValueError, match=r"does not fit this run: it is of another run.*n_embd: 64 is not 32"):
        quiet(wider, tmp_path / "r")


def test_a_folder_with_weights_is_said_to_give_its_config_only(small, tmp_path, own_model, capfd):
    path, _ = own_model
    train(small(model=str(path.parent), steps=1))
    assert "weights" not in capfd.readouterr().err
    (path.parent / "model-00001-of-00002.safetensors").write_bytes(b"")
    train(small(model=str(path.parent), steps=1))
    assert f"bf16: of {path.parent} only the config is read; the weights are fresh" in capfd.readouterr().err


def test_data_that_changed_is_not_continued_on(small, tmp_path):
    data = tmp_path / "text.jsonl"
    shutil.copy(small().data.source, data)
    run = small(steps=2, data=dataclasses.replace(small().data, source=str(data)))
    quiet(run, tmp_path / "r")
    (tmp_path / "r" / "result.json").unlink()
    data.write_text(data.read_text() + json.dumps({"text": "more " * 400}) + "\n")
    with pytest.raises(ValueError, match="was trained on other data"):
        quiet(run, tmp_path / "r")


def test_a_full_disk_fails_in_one_sentence_and_the_last_checkpoint_survives(small, tmp_path, monkeypatch):
    run = small(steps=4, checkpoint=Checkpoint(every=2))
    whole = checkpoint_room.write_tensors
    calls = []

    def full(path, tensors):
        calls.append(path)
        if len(calls) == 4:
            path.write_bytes(b"half")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return whole(path, tensors)

    monkeypatch.setattr(checkpoint_room, "write_tensors", full)
    with pytest.raises(DiskFull, match=r"No space left on device; the last checkpoint is step-000002$"):
        quiet(run, tmp_path / "r")
    assert os.listdir(tmp_path / "r" / "checkpoints") == ["step-000002"]
    assert not (tmp_path / "r" / "model").exists()
    monkeypatch.setattr(checkpoint_room, "write_tensors", whole)
    resumed = quiet(run, tmp_path / "r")
    assert resumed.curve == quiet(dataclasses.replace(run, checkpoint=Checkpoint()), None).curve


def test_a_loss_that_is_no_number_stops_with_step_and_layer(small, tmp_path, monkeypatch):
    run = small(steps=6, checkpoint=Checkpoint(every=2), accumulate=2)
    before = loop_room.Loop.step

    def poisoned(self):
        if self.training.progress.step == 4:  # the fifth step: an overflow in the second block's MLP
            mlp = self.training.model.transformer.h[1].mlp.c_fc
            mlp.register_forward_hook(lambda module, inputs, output: output * float("inf"))
        before(self)

    monkeypatch.setattr(loop_room.Loop, "step", poisoned)
    with pytest.raises(Diverged, match=r"at step 5 the loss is nan; .*; the last checkpoint is step-000004") as caught:
        quiet(run, tmp_path / "r")
    assert caught.value.step == 5
    assert caught.value.where == "the output of layer transformer.h.1.mlp.c_fc"
    assert kinds(tmp_path / "r")[-1] == ("divergence", 5)
    assert sorted(os.listdir(tmp_path / "r" / "checkpoints")) == ["step-000002", "step-000004"]


def test_a_learning_rate_out_of_this_world_diverges_by_name(small):
    with pytest.raises(Diverged, match=r"^at step \d the .*loss is nan; first not finite: the (output|weights)"):
        quiet(small(steps=8, optimizer=Optimizer(lr=1e30), clip=None))


def test_ctrl_c_finishes_the_step_saves_and_can_go_on(small, tmp_path, monkeypatch, capfd):
    run = small(steps=6)
    before = loop_room.Loop.step

    def interrupted(self):
        if self.training.progress.step == 2:
            os.kill(os.getpid(), signal.SIGINT)
        before(self)

    monkeypatch.setattr(loop_room.Loop, "step", interrupted)
    with pytest.raises(KeyboardInterrupt, match=r"stopped after step 3 of 6; the last checkpoint is step-000003"):
        quiet(run, tmp_path / "r")
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert "once more stops at once" in capfd.readouterr().err
    assert kinds(tmp_path / "r")[-2:] == [("checkpoint", 3), ("interruption", 3)]
    monkeypatch.setattr(loop_room.Loop, "step", before)
    resumed = quiet(run, tmp_path / "r")
    straight = quiet(run, tmp_path / "s")
    assert resumed.curve == straight.curve
    assert kinds(tmp_path / "r") == kinds(tmp_path / "s")


def test_a_second_ctrl_c_stops_at_once(small, tmp_path, monkeypatch, capfd):
    before = loop_room.Loop.step

    def interrupted(self):
        if self.training.progress.step == 2:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)
        before(self)

    monkeypatch.setattr(loop_room.Loop, "step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        quiet(small(), tmp_path / "r")
    assert not (tmp_path / "r" / "checkpoints").exists()


def test_it_trains_outside_of_the_main_thread(small):
    results = []
    thread = threading.Thread(target=lambda: results.append(quiet(small(steps=1))))
    thread.start()
    thread.join()
    assert results[0].steps == 1


def test_accumulation_is_one_larger_batch(small, tmp_path):
    # without dropout and without casts, two micro-batches of two are one batch of four
    config = json.loads(Path(small().model).read_text()) | {"resid_pdrop": 0.0, "embd_pdrop": 0.0}
    path = tmp_path / "steady.json"
    path.write_text(json.dumps(config))
    one = quiet(small(model=str(path), recipe="fp32", batch=4, steps=3))
    two = quiet(small(model=str(path), recipe="fp32", batch=2, accumulate=2, steps=3))
    assert one.tokens == two.tokens
    assert one.val_loss == pytest.approx(two.val_loss, rel=1e-5)  # float32: another order of sums


def test_training_leaves_the_callers_random_numbers_alone(small):
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    quiet(small(steps=1))
    assert torch.equal(torch.rand(1), expected)


LLAMA = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 2}
LLAMA |= {"max_position_embeddings": 32, "vocab_size": 512, "bos_token_id": 0, "eos_token_id": 0}
FAMILIES = {
    "llama": {**LLAMA, "model_type": "llama"},
    "qwen2 tied": {**LLAMA, "model_type": "qwen2", "num_key_value_heads": 2, "tie_word_embeddings": True},
    "qwen3": {**LLAMA, "model_type": "qwen3", "num_key_value_heads": 1, "head_dim": 32},
}


@pytest.mark.parametrize("family", FAMILIES)
def test_other_families_convert_train_and_load_again(small, tmp_path, family):
    from transformers import AutoModelForCausalLM

    path = tmp_path / "config.json"
    path.write_text(json.dumps(FAMILIES[family]))
    run = small(model=str(path), recipe="penny8", steps=2)
    result = quiet(run, tmp_path / "r")
    assert len(result.converted) == 14
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "r" / "model").eval()
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    tokens = next(iter(validation(run)))
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        logits = model(tokens[:, :-1]).logits.float()
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
    assert loss.item() == pytest.approx(result.val_loss_plain, abs=1e-3)  # bf16 products, other batches


def validation(run):
    from pennyweight.data import prepare, validation_batches

    corpus = prepare(run.data.source, tokenizer=run.data.tokenizer, validation=run.data.validation)
    return validation_batches(corpus.valid, 32, 8, run.evaluation.tokens)
