"""Places: the folder that a run or a comparison goes to when none is named."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import chain, count
from pathlib import Path
from typing import TYPE_CHECKING

from pennyweight.cli.failures import say

if TYPE_CHECKING:
    from pennyweight.training import Run

HOME = Path("runs")


def slug(text: str) -> str:
    """Text that is safe as part of a path."""
    return re.sub(r"[^A-Za-z0-9._+-]+", "-", text).strip("-.")[:60] or "run"


def run_folder(run: "Run") -> Path:
    """runs/<recipe>-<model>-seed<k>, or the next number where another run already lives there."""
    from pennyweight.training import differences, load_run, resolved

    def is_of(folder: Path) -> bool:
        return (folder / "run.json").is_file() and not differences(load_run(folder), resolved(run))

    return _free(f"{slug(str(run.recipe))}-{slug(Path(run.model).name)}-seed{run.seed}", is_of)


def comparison_folder(run: "Run") -> Path:
    """runs/compare-<model>, or the next number where a comparison of another run already lives there."""
    from pennyweight.experiments import belongs

    return _free(f"compare-{slug(Path(run.model).name)}", lambda folder: belongs(folder, run))


def sweep_folder(run: "Run") -> Path:
    """runs/sweep-<model>, or the next number where a sweep of another run already lives there."""
    from pennyweight.experiments.sweep import belongs
    from pennyweight.training import resolved

    return _free(f"sweep-{slug(Path(run.model).name)}", lambda folder: belongs(folder, resolved(run)))


def search_folder(run: "Run", loss_budget: float, minimise: str) -> Path:
    """runs/search-<model>, or the next number where another search already lives there."""
    from pennyweight.experiments.search import belongs

    name = f"search-{slug(Path(run.model).name)}"
    return _free(name, lambda folder: belongs(folder, run, loss_budget, minimise))


def ways_folder(run: "Run | None", start: Path | None, tune: float, tune_lr: float) -> Path:
    """runs/ways-<model>, or the next number where three ways on another baseline already stand there."""
    from pennyweight.experiments.ways import baseline_of, belongs

    base = baseline_of(run, start)
    return _free(f"ways-{slug(Path(base.model).name)}", lambda folder: belongs(folder, base, tune, tune_lr))


def interrupted(folder: Path, again: str) -> str:
    """What an interrupted command says: where what is done is saved and how to go on, or that there is nothing yet."""
    found = (next(folder.glob(pattern), None) for pattern in ("**/checkpoints/step-*", "**/result.json"))
    if not any(found):
        return "nothing was done yet"
    return f"what is done is saved in {folder}; {again}"


@contextmanager
def resumable(folder: Path) -> Iterator[None]:
    """Says on Ctrl-C what is done in `folder`, and that the same command goes on there."""
    try:
        yield
    except KeyboardInterrupt:
        say(interrupted(folder, f"the same command with --out {folder} goes on"))
        raise


def _free(name: str, is_own: Callable[[Path], bool]) -> Path:
    """runs/<name>, or the first of runs/<name>-2, -3 ... that is not there yet or holds what is its own."""
    numbered = (HOME / f"{name}-{number}" for number in count(2))
    return next(folder for folder in chain([HOME / name], numbered) if not folder.exists() or is_own(folder))
