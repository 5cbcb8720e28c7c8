"""The door: instant, frozen, and clear about what it does not know."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer

from pennyweight.cli.app import app, main
from pennyweight.cli.settings import SETTINGS

FLAGS = {
    "compare": {"--model", "--data", "--steps", "--seeds", "--out", "--set", "--json"},
    "sweep": {
        "--grid",
        "--model",
        "--data",
        "--steps",
        "--seeds",
        "--jobs",
        "--threads",
        "--out",
        "--on",
        "--address",
        "--retry",
        "--set",
        "--json",
    },
    "search": {
        "--loss-budget",
        "--minimise",
        "--model",
        "--data",
        "--steps",
        "--trials",
        "--minutes",
        "--seeds",
        "--jobs",
        "--threads",
        "--out",
        "--set",
        "--json",
    },
    "train": {
        "--recipe",
        "--model",
        "--data",
        "--weights",
        "--steps",
        "--seed",
        "--out",
        "--resume",
        "--set",
        "--json",
    },
    "ways": {
        "--from",
        "--model",
        "--data",
        "--steps",
        "--seeds",
        "--tune",
        "--tune-lr",
        "--rule",
        "--out",
        "--set",
        "--json",
    },
    "eval": {"--data", "--context", "--json"},
    "study": {
        "--quick",
        "--full",
        "--data",
        "--minutes",
        "--jobs",
        "--threads",
        "--out",
        "--retry",
        "--json",
    },
    "report": {"--json"},
    "recipes": {"--json"},
    "doctor": {"--json"},
    "analyze": {"--json"},
    "bench": {"--only", "--device", "--repeats", "--threads", "--out", "--json"},
}


def test_the_flags_are_frozen() -> None:
    """A new setting is reached by --set; a new flag needs a reason, and this list."""
    command = typer.main.get_command(app)
    there = {
        name: {text for parameter in verb.params for text in parameter.opts if text.startswith("-")}
        for name, verb in command.commands.items()  # type: ignore[attr-defined]  # a group has commands
    }
    assert there == FLAGS


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; from pennyweight.cli.app import main; status = main(['--help']); "
        "heavy = {'torch', 'transformers', 'numpy', 'pydantic', 'datasets', 'jinja2', 'rich'} & set(sys.modules); "
        "sys.exit(f'imported {heavy}' if heavy else status)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert "compare" in done.stdout


def test_python_dash_m_is_the_command() -> None:
    done = subprocess.run([sys.executable, "-m", "pennyweight", "--version"], capture_output=True, text=True)
    assert done.returncode == 0
    assert done.stdout.startswith("pennyweight ")


def test_nothing_typed_shows_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    assert "Commands:" in capsys.readouterr().out


@pytest.mark.parametrize("verb", FLAGS)
def test_every_verb_explains_itself(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([verb, "--help"]) == 0
    told = capsys.readouterr().out
    assert all(flag in told for flag in FLAGS[verb])


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("comapre bf16", "did you mean 'compare'?"),
        (
            "xyzzy",
            "there are analyze, bench, compare, doctor, eval, recipes, report, search, study, sweep, train, ways",
        ),
        ("train --recip bf16", "train has no option '--recip'; did you mean '--recipe'?"),
        ("doctor --zzzzzz", "doctor has no option '--zzzzzz'; there are --json"),
        ("train --steps many", "--steps"),
        ("train --steps", "--steps"),
        ("report", "FOLDER"),
        ("report a b", "b"),
        ("train --steps 0", "Run.steps"),
        ("train --recipe peny8", "did you mean 'penny8'?"),
        ("compare bf16 peny8", "did you mean 'penny8'?"),
        ("recipes peny8", "did you mean 'penny8'?"),
        ("train --set optimiser.lr=1", "did you mean 'optimizer'?"),
        ("train --set optimizer.weigth_decay=1", "did you mean 'weight_decay'?"),
        ("train --set steps", "path=value"),
        ("train --set schedule.shape=cosin", "cosin"),
        ("train --set lr=1e-3", "did you mean 'optimizer.lr'?"),
        ("train --set --out x", "got '--out'"),
        ("train data.context=64", "a setting stands after --set, got data.context=64 alone: --set data.context=64"),
        ("compare bf16 steps=3", "--set steps=3"),
        ("recipes wmxfp4", "did you mean 'we2m1mx'?"),
        ("train --model tinny", "did you mean 'tiny'?"),
        ("train --data absent.txt", "absent.txt"),
        ("train absent.json", "absent.json"),
        ("train --resume absent", "absent"),
        ("train x.json --resume y", "got both"),
        ("train --set data.context=100000", "256"),
        ("compare bf16 --seeds 0", "seeds=0"),
        ("compare --set recipe=bf16", "as arguments"),
        ("compare --set seed=1", "--seeds"),
        ("report absent", "absent"),
        ("sweep", "at least one axis, got an empty grid"),
        ("sweep --grid weights", "AXIS=VALUE,VALUE"),
        ("sweep --grid --out x", "got '--out'"),
        ("sweep --grid weights=", "axis weights wants values"),
        ("sweep --grid wieghts=8", "did you mean 'weights'?"),
        ("sweep --grid lr=1,2", "did you mean 'optimizer.lr'?"),
        ("sweep --grid weights=e4m33", "did you mean 'e4m3'?"),
        ("sweep --grid weights=8 --seeds 0", "seeds=0"),
        ("sweep --grid weights=8 --jobs 0", "jobs=0"),
        ("sweep --grid weights=8 --on rays", "did you mean 'ray'?"),
        ("sweep --grid weights=8 --address auto", "add --on ray"),
        ("sweep --grid weights=8 --set seed=3", "--seeds"),
        ("search --loss-budget 0", "0.01: one percent more"),
        ("search --loss-budget 5", "did you mean 0.05?"),
        ("search --minimise memroy", "did you mean 'memory'?"),
        ("search --steps 7", "halving wants a rung"),
        ("search --trials 0", "trials=0"),
        ("search --minimise time --jobs 2", "leave --jobs out"),
        ("search --set recipe=w8", "finds the recipe itself"),
        ("eval absent --data x", "absent"),
        ("bench --only prodcts", "did you mean 'products'?"),
        ("bench --only step,products --repeats 0", "repeats of 1 or more, got 0"),
    ],
)
def test_a_bad_request_is_one_sentence_and_status_2(
    typed: str, said: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main(typed.split()) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.startswith("pennyweight: ")
    assert told.err.count("\n") == 1
    assert said in told.err
    assert "Traceback" not in told.err
    assert list(tmp_path.iterdir()) == []


def test_every_setting_is_listed_with_what_it_is_when_nobody_sets_it(capsys: pytest.CaptureFixture[str]) -> None:
    from pennyweight.training import Run, with_settings

    def paths(written: dict[str, Any], before: str = "") -> set[str]:
        deeper = [paths(part, f"{name}.") for name, part in written.items() if isinstance(part, dict)]
        return {f"{before}{name}" for name, part in written.items() if not isinstance(part, dict)}.union(*deeper)

    humble = Run().to_dict()
    del humble["recipe"]
    assert {path for path, _, _ in SETTINGS} == paths(humble) - {
        "model",
        "weights",
        "steps",
        "seed",
    }  # these have flags
    assert with_settings(Run(), [f"{path}={default}" for path, default, _ in SETTINGS]) == Run()
    assert main(["train", "--help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert all(any(line.split()[:2] == [path, default] for line in lines) for path, default, _ in SETTINGS)


def test_the_help_of_recipes_names_every_letter_suffix_and_format(capsys: pytest.CaptureFixture[str]) -> None:
    from pennyweight.recipes.notation import LETTERS, STATE_FORMATS

    assert main(["recipes", "--help"]) == 0
    told = capsys.readouterr().out.split("Notation:")[1].replace(";", " ").split()
    assert {*LETTERS, "t", "c", "bN", "qN", "mx", "nv", "s", "h", *STATE_FORMATS} <= set(told)


def test_recipes_lists_every_name_with_a_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    import json

    assert main(["recipes", "--json"]) == 0
    told = {one["name"]: one["sentence"] for one in json.loads(capsys.readouterr().out)}
    assert {"fp32", "bf16", "w8a8", "w8a8g8", "penny8", "penny4"} <= told.keys()
    assert all(sentence.endswith(".") and sentence[0].isupper() for sentence in told.values())
    assert "moment v in log8" in told["penny8"]
    assert told["paper-m8"] == "Moment m in int8/row."
    assert "the last 15% of the blocks, rounded down (none below 7 blocks), stay in bf16" in told["penny4"]
    assert main(["recipes"]) == 0
    assert "penny8" in capsys.readouterr().out


def test_a_recipe_shows_its_six_operands(capsys: pytest.CaptureFixture[str]) -> None:
    import json

    assert main(["recipes", "w8a8g8", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    operands = [line for line in told["table"] if line["product"] in ("output", "grad_input", "grad_weight")]
    assert len(operands) == 6
    assert {line["format"] for line in operands} == {"int8"}
    assert main(["recipes", "w4ca8t"]) == 0
    assert "int4" in capsys.readouterr().out


def test_doctor_knows_this_machine(capsys: pytest.CaptureFixture[str]) -> None:
    import json
    import os
    import platform

    assert main(["doctor", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["machine"]["python"] == platform.python_version()
    assert told["machine"]["cores"] == os.cpu_count()
    assert "int8 product" in {door["operation"] for door in told["doors"]}
    assert main(["doctor"]) == 0
    assert "int8 product" in capsys.readouterr().out


@pytest.mark.parametrize("words", [["train", "--out", ""], ["train", "--resume", " "], ["compare", "--out", ""]])
def test_a_folder_without_a_name_is_refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 2
    assert "a folder wants a name" in capsys.readouterr().err
