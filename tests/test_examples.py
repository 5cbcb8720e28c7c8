"""The examples run as they stand, stay short, and say what they promise."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
ARGUMENTS = {"02_train_a_transformer.py": ["2"]}


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_is_short_and_runs(path: Path, tmp_path: Path) -> None:
    assert path.read_text(encoding="utf8").count("\n") < 60
    command = [sys.executable, str(path), *ARGUMENTS.get(path.name, [])]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


def test_the_readmes_first_block_runs(tmp_path: Path) -> None:
    block = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf8"), re.DOTALL)
    assert block
    done = subprocess.run([sys.executable, "-c", block[1]], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "converted" in done.stdout


@pytest.mark.long
def test_the_readmes_block_on_training_runs(tmp_path: Path) -> None:
    _, block, *_ = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf8"), re.DOTALL)
    quick = block.replace("steps=50", "steps=1, evaluation={'tokens': 1024}").replace("seeds=2", "seeds=1")
    done = subprocess.run([sys.executable, "-c", quick], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "runs/py/model/config.json").exists()
    assert (tmp_path / "runs/both/report.html").exists()
    assert (tmp_path / "runs/grid/results.sqlite").exists()


def test_every_command_of_the_readme_is_one_the_door_knows() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf8") + (ROOT / "docs/methods/quantized-pretraining.md").read_text(
        "utf8"
    )
    verbs = set(re.findall(r"^pennyweight (\w+)", text, re.MULTILINE))
    assert verbs >= {"compare", "train", "eval", "report", "recipes", "doctor"}
    for verb in sorted(verbs):
        command = [sys.executable, "-m", "pennyweight", verb, "--help"]
        assert subprocess.run(command, capture_output=True, check=False).returncode == 0, verb


def test_every_recipe_named_in_the_readme_is_a_recipe() -> None:
    import pennyweight as pw

    table = re.search(r"## Recipes\n(.*?)\n## ", (ROOT / "README.md").read_text(encoding="utf8"), re.DOTALL)
    assert table
    names = re.findall(r"^\| `([\w-]+)`", table[1], re.MULTILINE)
    assert len(names) >= 6
    assert [str(pw.recipe(name)) for name in names] == names


def test_every_file_the_readme_points_to_is_there() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf8")
    for target in re.findall(r"\]\(([^)#:]+)\)", text):
        assert (ROOT / target).exists(), target
