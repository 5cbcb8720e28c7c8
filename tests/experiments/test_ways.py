"""Three ways on one baseline: each row is what its ancestor gives, nothing is done twice, slips are said."""

import json
import random
import shutil
from pathlib import Path
from typing import Any

import pytest

from pennyweight.experiments import compare
from pennyweight.experiments.ways import answers, comparison, rebuilt, summary, ways
from pennyweight.training import Data, Diagnosis, Evaluation, Run, train
from pennyweight.training.folder import claimed

RULES = ("absmax", "mse", "gptq")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run of a real model on a real text that takes a second."""
    folder = tmp_path_factory.mktemp("text")
    draw = random.Random(0)
    words = ["the", "model", "reads", "few", "bits", "and", "says", "what", "each", "costs"]
    lines = [" ".join(draw.choices(words, k=9)) for _ in range(900)]
    for place in range(30):
        (folder / f"{place}.txt").write_text("\n".join(lines[30 * place : 30 * place + 30]))
    shape = {"model_type": "gpt2", "n_layer": 1, "n_embd": 32, "n_head": 2, "n_positions": 32, "vocab_size": 300}
    place = tmp_path_factory.mktemp("model") / "config.json"
    place.write_text(json.dumps(shape | {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}))
    return Run(
        model=str(place), data=Data(source=str(folder), tokenizer="bpe-300", context=16), batch=2, steps=10,
        evaluation=Evaluation(tokens=256), diagnosis=Diagnosis(every=0, fidelity_every=0), tracker="none",
    )  # fmt: skip


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PENNYWEIGHT_CACHE", str(tmp_path_factory.getbasetemp() / "ways-cache"))


def here(run: Run, folder: Path, progress: bool) -> dict[str, Any]:
    """Trains in this process."""
    return {"result": train(run, folder, progress=False).to_dict()}


def reached(recipes: list[str], base: Run | None, out: Path, **more: Any) -> list[dict[str, Any]]:
    return ways(recipes, base, out=out, progress=False, trainer=here, **{"rules": RULES, **more})


@pytest.fixture(scope="module")
def table(base: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished table, two seeds of two recipes; not to be changed."""
    out = tmp_path_factory.mktemp("table") / "o"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PENNYWEIGHT_CACHE", str(tmp_path_factory.getbasetemp() / "ways-cache"))
        reached(["w4", "w8a8"], base, out, seeds=2)
    return out


def rows_of(out: Path) -> dict[tuple[str, str, int], dict[str, Any]]:
    rows = json.loads((out / "results.json").read_text())
    return {(row["recipe"], row["way"], row["seed"]): row for row in rows}


def test_every_recipe_goes_every_way_with_every_seed(table: Path) -> None:
    named = {(name, way) for name in ("w4", "w8a8") for way in (*RULES, "tuned", "scratch")}
    named |= {("bf16", "baseline"), ("bf16", "tuned")}
    assert set(rows_of(table)) == {(*one, seed) for one in named for seed in (0, 1)}


def test_from_scratch_is_what_compare_gives_bit_for_bit(table: Path, base: Run, tmp_path: Path) -> None:
    rows = compare(["bf16", "w4", "w8a8"], base, seeds=2, out=tmp_path, progress=False, trainer=here)
    own = rows_of(table)
    for row in rows:
        way = "baseline" if row["recipe"] == "bf16" else "scratch"
        assert own[row["recipe"], way, row["seed"]]["val_loss"] == row["val_loss"]


def test_a_continued_training_begins_at_the_loss_of_rounding_to_nearest(table: Path) -> None:
    rows = rows_of(table)
    for name in ("w4", "w8a8"):
        for seed in (0, 1):
            assert rows[name, "tuned", seed]["initial_loss"] == rows[name, "absmax", seed]["val_loss"]
            assert rows[name, "tuned", seed]["val_loss"] != rows[name, "absmax", seed]["val_loss"]
    assert rows["bf16", "tuned", 1]["initial_loss"] == rows["bf16", "baseline", 1]["val_loss"]


def test_tokens_bits_and_bytes_are_counted(table: Path) -> None:
    rows = rows_of(table)
    assert rows["w4", "mse", 0]["extra_tokens"] == 0
    assert rows["w4", "tuned", 0]["extra_tokens"] == 2 * 16  # one step of ten
    assert rows["w4", "tuned", 0]["tokens"] == 11 * 2 * 16
    assert rows["bf16", "baseline", 0]["bits"] == 16
    assert rows["w4", "scratch", 0]["bits"] == pytest.approx(4 + (96 + 32 + 128 + 32) * 32 / (12 * 32 * 32))
    assert rows["w4", "mse", 0]["stored_bytes"] < rows["w8a8", "mse", 0]["stored_bytes"]
    assert rows["w8a8", "mse", 0]["stored_bytes"] < rows["bf16", "baseline", 0]["stored_bytes"]


def test_what_is_done_is_not_done_again(table: Path, base: Run, tmp_path: Path) -> None:
    out = tmp_path / "o"
    shutil.copytree(table, out)
    before = rows_of(out)

    def never(run: Run, folder: Path, progress: bool) -> dict[str, Any]:
        pytest.fail("trained again")

    for rule in RULES:
        assert (out / "written" / f"w4-{rule}-seed0.json").is_file()
    ways(["w4", "w8a8"], base, seeds=2, out=out, rules=RULES, progress=False, trainer=never)
    assert rows_of(out) == before


def test_ctrl_c_keeps_what_is_done_and_the_same_call_goes_on(table: Path, base: Run, tmp_path: Path) -> None:
    asked: list[Path] = []

    def second_time_lucky(run: Run, folder: Path, progress: bool) -> dict[str, Any]:
        asked.append(folder)
        return {"interrupted": True} if len(asked) == 3 else here(run, folder, progress)

    with pytest.raises(KeyboardInterrupt):
        ways(["w4"], base, out=tmp_path, rules=RULES, progress=False, trainer=second_time_lucky)
    assert len(rows_of(tmp_path)) == 1 + len(RULES) + 1
    ways(["w4"], base, out=tmp_path, rules=RULES, progress=False, trainer=second_time_lucky)
    assert len(asked) == len(set(asked)) + 1
    whole = rows_of(table)
    assert all(row["val_loss"] == whole[key]["val_loss"] for key, row in rows_of(tmp_path).items())


def test_the_table_and_the_report_say_the_same_as_the_rows(table: Path) -> None:
    rows = list(rows_of(table).values())
    header, lines = comparison(rows)
    told = {(line[0], line[1]): dict(zip(header, line, strict=True)) for line in lines}
    mean = (rows_of(table)["w4", "mse", 0]["val_loss"] + rows_of(table)["w4", "mse", 1]["val_loss"]) / 2
    assert told["w4", "post-training, mse"]["validation loss"].startswith(f"{mean:.4f} ±")
    assert "against bf16 trained on" in told["w4", "from the checkpoint"]["cost against bf16"]
    assert told["bf16", "the baseline"]["verdict"] == "the baseline"
    machine = {(one["recipe"], one["way"]): one for one in answers(rows)}
    assert machine["w4", "mse"]["loss"]["mean"] == pytest.approx(mean)
    assert machine["w4", "tuned"]["cost_against_bf16_trained_on"] is not None
    assert len(summary(rows)) == 3
    page, text = (table / "report.html").read_text(), (table / "report.md").read_text()
    for said in summary(rows):
        assert said in page.replace("&#39;", "'")
    assert "post-training, gptq" in text
    before = page
    assert rebuilt(table).read_text() == before


def test_a_baseline_that_is_there_is_taken_as_it_is(table: Path, tmp_path: Path) -> None:
    for start in (table, table / "runs" / "bf16-seed1"):
        rows = ways(
            ["w4"], None, out=tmp_path / start.name, start=start, rules=["mse"], tune=0, progress=False, trainer=here
        )
        seeds = (0, 1) if start == table else (1,)
        own = {(row["recipe"], row["way"], row["seed"]): row for row in rows}
        assert set(own) == {
            (*one, seed) for one in (("bf16", "baseline"), ("w4", "mse"), ("w4", "scratch")) for seed in seeds
        }
        assert all(row["val_loss"] == rows_of(table)[key]["val_loss"] for key, row in own.items())
        assert not (tmp_path / start.name / "runs" / "bf16-seed1").exists()


@pytest.mark.parametrize(
    ("recipes", "more", "said"),
    [
        (["m8v8"], {}, "recipe m8v8 writes neither weights nor activations"),
        (["g8"], {}, "recipe g8 writes neither"),
        (["bf16"], {}, "at least one recipe beside bf16"),
        ([], {}, "at least one recipe"),
        (["w44"], {}, "w44"),
        (["w4b512"], {}, "blocks of 512"),
        (["bf16 until 10%, then w4"], {}, "one recipe after training"),
        (["w4"], {"rules": ["msee"]}, "'msee'; did you mean 'mse'"),
        (["w4"], {"rules": []}, "wants a rule"),
        (["w4"], {"tune": 1.5}, "tune is a share"),
        (["w4"], {"tune_lr": 0.0}, "tune_lr is a share"),
        (["w4"], {"seeds": 0}, "at least one seed"),
    ],
)
def test_a_bad_request_is_refused_before_anything_starts(
    base: Run, tmp_path: Path, recipes: list[str], more: dict[str, Any], said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        reached(recipes, base, tmp_path / "o", **more)
    assert not (tmp_path / "o").exists()


def test_a_start_that_is_no_finished_bf16_run_is_refused(table: Path, base: Run, tmp_path: Path) -> None:
    cut = tmp_path / "cut"
    shutil.copytree(table / "runs" / "bf16-seed0", cut)
    (cut / "result.json").unlink()
    shutil.copytree(table / "runs" / "bf16-seed0", tmp_path / "gone", ignore=shutil.ignore_patterns("model"))
    (tmp_path / "empty").mkdir()
    for start, kind, said in (
        (table / "runs" / "w4-seed0", ValueError, "begin from a run in bf16, but .* holds w4"),
        (cut, ValueError, "unfinished .*; finish it first"),
        (tmp_path / "gone", ValueError, "the model of a run, but that of .* is gone"),
        (tmp_path / "empty", FileNotFoundError, "holds no run"),
        (tmp_path / "nowhere", FileNotFoundError, "is none"),
    ):
        with pytest.raises(kind, match=said):
            reached(["w4"], None, tmp_path / "o", start=start)
    with pytest.raises(ValueError, match="another baseline than is asked for.*steps: 10 is not 20"):
        reached(["w4"], Run.from_dict({**base.to_dict(), "steps": 20}), tmp_path / "o", start=table)
    with pytest.raises(ValueError, match=r"holds 2 bf16 runs \(seeds 0, 1\), got seeds=3"):
        reached(["w4"], None, tmp_path / "o", start=table, seeds=3)


def test_a_folder_that_holds_something_else_is_left_alone(table: Path, base: Run, tmp_path: Path) -> None:
    with pytest.raises(FileExistsError, match="holds a single run"):
        reached(["w4"], base, table / "runs" / "bf16-seed0")
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "results.json").write_text("[]")
    with pytest.raises(FileExistsError, match="holds a comparison"):
        reached(["w4"], base, tmp_path / "c")
    with pytest.raises(FileExistsError, match=r"another baseline.*tune: 0.1 is not 0.2"):
        reached(["w4"], base, table, tune=0.2)
    with pytest.raises(FileExistsError, match="holds the three ways"):
        compare(["bf16"], base, out=table, progress=False, trainer=here)


def test_only_one_command_at_a_time_writes_in_a_folder(table: Path, base: Run, tmp_path: Path) -> None:
    out = tmp_path / "o"
    shutil.copytree(table, out)
    said = "another command reaches its ways in .* right now"
    with claimed(out, "command reaches its ways"), pytest.raises(FileExistsError, match=said):
        reached(["w4", "w8a8"], base, out, seeds=2, rules=("absmax",))
    assert json.loads((out / "ways.json").read_text())["rules"] == list(RULES)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"run": {"model": 3}}', '{"run": {}}'])
def test_a_damaged_plan_is_one_sentence(table: Path, base: Run, tmp_path: Path, text: str) -> None:
    shutil.copytree(table, tmp_path / "o")
    (tmp_path / "o" / "ways.json").write_text(text)
    with pytest.raises(ValueError, match=r"ways\.json does not say what three ways were asked for"):
        reached(["w4"], base, tmp_path / "o")
    with pytest.raises(ValueError, match=r"ways\.json does not say what three ways were asked for"):
        rebuilt(tmp_path / "o")


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"run":'])
def test_a_damaged_row_is_measured_again(table: Path, base: Run, tmp_path: Path, text: str) -> None:
    shutil.copytree(table, tmp_path / "o")
    place = tmp_path / "o" / "written" / "w4-absmax-seed0.json"
    before = json.loads(place.read_text())
    place.write_text(text)
    reached(["w4", "w8a8"], base, tmp_path / "o", seeds=2)
    assert json.loads(place.read_text())["val_loss"] == before["val_loss"]
