"""The verbs on real runs: what they write, what they say, and how they end."""

import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pennyweight.cli.app import main

KEYS = {
    "recipe", "seed", "val_loss", "perplexity", "tokens", "steps", "tokens_per_second", "peak_memory_bytes", "seconds",
    "val_loss_plain", "bits_per_byte",
}  # fmt: skip


def test_compare_trains_each_recipe_in_its_own_process_and_tells_what_it_costs(small: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pennyweight", "compare", "bf16", "w8a8", "--steps", "2", "--out", "c", *small],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows = json.loads(Path("c/results.json").read_text())
    assert [(row["recipe"], row["seed"], row["status"]) for row in rows] == [
        ("bf16", 0, "finished"),
        ("w8a8", 0, "finished"),
    ]
    assert all(row.keys() >= KEYS for row in rows)
    assert {(row["steps"], row["tokens"]) for row in rows} == {(2, 2 * 2 * 16)}
    assert all(row["perplexity"] == pytest.approx(math.exp(row["val_loss"])) for row in rows)
    assert "c/report.html" in done.stdout
    assert "w8a8" in done.stdout
    assert "run 2 of 2" in done.stderr
    assert "Warning" not in done.stderr
    assert "run 2 of 2" not in done.stdout
    assert Path("c/report.html").read_text().count('<svg viewBox="0 0 1000') == 3
    assert Path("c/report.md").exists()
    assert Path("c/runs/w8a8-seed0/model/config.json").exists()


def test_train_trains_and_the_same_command_answers_again(small: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    command = ["train", "--recipe", "w8a8", "--steps", "2", "--out", "r", "--json", *small]
    assert main(command) == 0
    first = json.loads(capsys.readouterr().out)
    assert first.keys() >= KEYS
    assert {"run.json", "ledger.jsonl", "model", "report.html", "report.md", "result.json"} <= set(os.listdir("r"))
    lines = Path("r/ledger.jsonl").read_text()
    assert main(command) == 0
    assert json.loads(capsys.readouterr().out) == first
    assert Path("r/ledger.jsonl").read_text() == lines
    assert main(["train", "--resume", "r"]) == 0
    assert f"{first['val_loss']:.4f}" in capsys.readouterr().out
    assert main(["train", "--recipe", "bf16", "--steps", "2", "--out", "r", *small]) == 2
    assert "recipe: w8a8 is not bf16" in capsys.readouterr().err
    assert main(["train", "--resume", "r", "--recipe", "bf16"]) == 2
    assert "recipe: w8a8 is not bf16" in capsys.readouterr().err


def test_train_says_what_a_recipe_without_masters_swallowed(
    small: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    said = "of the numbers that a step should have moved"
    for recipe, there in (("w8a8", False), ("penny8-nomaster", True)):
        assert main(["train", "--recipe", recipe, "--steps", "1", "--out", recipe, *small]) == 0
        assert (said in capsys.readouterr().out) == there


def test_train_replays_a_run_json_and_finds_a_folder_of_its_own(
    small: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", "--steps", "1", "--seed", "3", *small]) == 0
    assert main(["train", "runs/bf16-config.json-seed3/run.json", "--steps", "2", "--json"]) == 0
    capsys_out = capsys.readouterr().out
    told = json.loads(capsys_out[capsys_out.index("\n{") :])
    assert told["folder"] == "runs/bf16-config.json-seed3-2"
    assert (told["steps"], told["seed"]) == (2, 3)


def test_eval_measures_the_saved_model_as_its_run_did_and_on_any_text(
    small: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    uneven = "evaluation.tokens=250"  # 15 windows of 16 and one of 10
    assert main(["train", "--recipe", "fp32", "--steps", "2", "--out", "r", "--json", *small, uneven]) == 0
    trained = json.loads(capsys.readouterr().out)
    assert main(["eval", "r/model", "--json"]) == 0
    own = json.loads(capsys.readouterr().out)
    assert own["loss"] == pytest.approx(trained["val_loss_plain"], abs=1e-5)  # the same float32 sums in other batches
    assert own["tokens"] == 250
    assert own["bits_per_byte"] / own["loss"] == pytest.approx(trained["bits_per_byte"] / trained["val_loss"])
    Path("t.txt").write_text("few bits " * 50)
    assert main(["eval", "r", "--data", "t.txt", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["bytes"] == 450
    assert told["perplexity"] == pytest.approx(math.exp(told["loss"]))
    assert told["bits_per_byte"] == pytest.approx(told["loss"] * told["tokens"] / math.log(2) / 450)
    assert main(["eval", "r", "--data", "t.txt"]) == 0
    assert f"{told['loss']:.4f} nats a token, computed in fp32" in capsys.readouterr().out


def test_eval_of_a_run_gives_its_own_numbers_in_its_own_precision(
    small: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", "--recipe", "bf16", "--steps", "2", "--out", "r", "--json", *small]) == 0
    trained = json.loads(capsys.readouterr().out)
    assert main(["eval", "r", "--json"]) == 0
    own = json.loads(capsys.readouterr().out)
    assert own["precision"] == "bf16"
    assert own["loss"] == trained["val_loss_plain"] == trained["val_loss"]  # bf16 writes nothing: one model
    for name in ("perplexity", "bits_per_byte"):
        assert own[name] == pytest.approx(trained[name], rel=1e-12)  # float64: another order of products


def test_eval_reads_a_file_as_one_document_and_gives_what_a_plain_loop_over_the_model_gives(
    small: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    assert main(["train", "--recipe", "w8a8", "--steps", "2", "--out", "r", *small]) == 0
    text = "".join(
        f"the model {n} reads few bits and says what each costs\n{chr(10) * (n % 5 == 0)}" for n in range(90)
    )
    Path("t.txt").write_text(text)
    capsys.readouterr()
    assert main(["eval", "r", "--data", "t.txt", "--context", "16", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    tokens = AutoTokenizer.from_pretrained("r/model")(text, return_tensors="pt").input_ids[0]
    model = AutoModelForCausalLM.from_pretrained("r/model", dtype=torch.float32).eval()
    nats = 0.0
    with torch.no_grad():
        for begin in range(0, len(tokens) - 1, 16):
            window = tokens[begin : begin + 17]
            logits = model(window[None, :-1]).logits[0]
            nats += torch.nn.functional.cross_entropy(logits, window[1:], reduction="sum").item()
    assert (told["tokens"], told["documents"], told["ends"]) == (len(tokens) - 1, 1, 0)
    assert told["loss"] == pytest.approx(nats / (len(tokens) - 1), rel=1e-5)  # float32: other batches
    assert told["bits_per_byte"] == pytest.approx(nats / math.log(2) / len(text), rel=1e-5)
    Path("two").mkdir()
    for name in ("a", "b"):
        Path("two", name).write_text(text)
    assert main(["eval", "r", "--data", "two"]) == 0
    assert f"{2 * len(tokens):,} of 2 documents, 1 of them end tokens" in capsys.readouterr().out


def test_eval_refuses_what_is_no_whole_model(small: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--steps", "1", "--out", "r", *small]) == 0
    Path("t.txt").write_text("few bits " * 50)
    capsys.readouterr()
    for context in ("33", "0"):
        assert main(["eval", "r", "--data", "t.txt", "--context", context]) == 2
        assert f"got context={context}" in capsys.readouterr().err
    weights = Path("r/model/model.safetensors")
    weights.write_bytes(weights.read_bytes()[:1000])
    assert main(["eval", "r", "--data", "t.txt"]) == 2
    weights.unlink()
    assert main(["eval", "r", "--data", "t.txt"]) == 2
    Path("alone").mkdir()
    Path("alone/config.json").write_text("{}")
    assert main(["eval", "alone"]) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.count("\n") == 3
    assert "Traceback" not in told.err


def test_report_says_where_it_is(small: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--steps", "1", "--out", "r", *small]) == 0
    Path("r/report.html").unlink()
    capsys.readouterr()
    assert main(["report", "r"]) == 0
    assert capsys.readouterr().out == "r/report.html\n"
    assert Path("r/report.html").exists()


def test_a_loss_that_is_no_number_is_status_1(small: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--steps", "8", "--out", "r", *small, "optimizer.lr=1e30", "optimizer.weight_decay=0"]) == 1
    told = capsys.readouterr()
    assert told.out == ""
    assert "Traceback" not in told.err
    assert told.err.splitlines()[-1].startswith("pennyweight: ")


def test_ctrl_c_saves_the_run_and_is_status_130(small: list[str]) -> None:
    command = [sys.executable, "-m", "pennyweight", "compare", "bf16", "--steps", "100000", "--out", "c", *small]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    ledger = Path("c/runs/bf16-seed0/ledger.jsonl")
    deadline = time.monotonic() + 120
    while not (ledger.exists() and ledger.read_text().count('"step"') > 3):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 130, err
    assert out == ""
    assert "Traceback" not in err
    assert list(Path("c/runs/bf16-seed0/checkpoints").glob("step-*"))
    assert not Path("c/results.json").exists()


@pytest.mark.parametrize("verb", ["recipes", "doctor", "report", "train"])
def test_a_verb_that_needs_no_model_does_not_wait_for_transformers(
    verb: str, small: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    words = [verb]
    if verb in ("report", "train"):
        assert main(["train", "--steps", "1", "--out", "r", *small]) == 0
        words = ["report", "r"] if verb == "report" else ["train", "--resume", "r"]  # finished: it only answers
    code = (
        f"import sys; from pennyweight.cli.app import main; status = main({words!r}); "
        "sys.exit('imported transformers' if 'transformers' in sys.modules else status)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    said = "bf16: finished earlier, nothing is trained\n" if verb == "train" else ""
    assert (done.returncode, done.stderr) == (0, said)


@pytest.mark.parametrize("verb", [["train"], ["compare", "bf16"]])
def test_a_folder_that_cannot_be_written_is_a_bad_request_and_not_a_full_disk(
    verb: list[str], small: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("file").write_text("")
    for out in ("file", "file/below"):
        assert main([*verb, "--out", out, *small]) == 2
        assert capsys.readouterr().err.endswith("file is a file\n")
    Path("closed").mkdir()
    whole = os.access

    def access(path: str | Path, mode: int) -> bool:  # root may write everywhere, so chmod would not do
        return whole(path, mode) and not (Path(path).name == "closed" and mode & os.W_OK)

    monkeypatch.setattr(os, "access", access)
    for out in ("closed", "closed/below"):
        assert main([*verb, "--out", out, *small]) == 2
        told = capsys.readouterr().err
        assert told.startswith(f"pennyweight: results cannot be written into {out}")
        assert told.count("\n") == 1
    assert list(Path("closed").iterdir()) == []


def test_a_comparison_says_a_slip_before_the_folder_that_seems_to_hold_another(
    small: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["compare", "bf16", "--steps", "1", "--out", "c", *small]) == 0
    capsys.readouterr()
    assert main(["compare", "bf16", "--steps", "1", "--out", "c", *small, "model=tinny"]) == 2
    assert "did you mean 'tiny'" in capsys.readouterr().err
    assert main(["compare", "bf16", "--steps", "2", "--out", "c", *small]) == 2
    assert "already holds a comparison of another run" in capsys.readouterr().err
