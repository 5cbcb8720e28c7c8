"""Compare: the same model on the same tokens, once for each recipe and seed, set side by side."""

import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

from pennyweight.experiments.report import write_report
from pennyweight.experiments.results import Row, read, run_of, write
from pennyweight.experiments.worker import REFUSALS, Answer, in_fresh_process
from pennyweight.recipes import Recipe, recipe
from pennyweight.training import Run, check, differences, resolved, train
from pennyweight.training.folder import RESULT as RUN_RESULT
from pennyweight.training.folder import RESULTS, RUNS, STORE, check_kind

DEFAULT_RECIPES = ("bf16", "w8a8", "w8a8g8", "penny8")

Trainer = Callable[[Run, Path, bool], Answer]  # (run, folder, progress) -> what it came to


def folder_name(name: str, seed: int) -> str:
    """The run folder of a recipe and a seed: its name where that is safe in a path, else made so, with a hash."""
    safe = re.sub(r"[^A-Za-z0-9._+=-]", "_", name)[:80].lstrip(".")
    if safe != name:
        safe = f"{safe}-{sha256(name.encode()).hexdigest()[:8]}"
    return f"{safe}-seed{seed}"


def compare(
    recipes: Sequence[Recipe | str], base: Run | None = None, *, seeds: int = 1, out: Path | str,
    progress: bool = True, trainer: Trainer = in_fresh_process,
) -> list[Row]:  # fmt: skip
    """Trains `base` with each recipe for the seeds 0 ... seeds - 1; writes the report, returns what results.json says.

    `out` holds runs/<recipe>-seed<k>/, results.json (rewritten after every run), report.html and report.md. Runs that
    are finished there answer again without training; unfinished ones go on. A run that diverges or fails stands in the
    table with its status, and the others go on.

    Errors: ValueError for an unknown recipe or a bad setting, FileExistsError where `out` holds a comparison of another
    run, KeyboardInterrupt once the current run is saved.
    """
    base, out = resolved(base or Run()), Path(out)
    chosen = by_name(recipes)
    if seeds < 1:
        raise ValueError(f"compare wants at least one seed, got seeds={seeds}")
    rows = _earlier(out, base)
    order = list(dict.fromkeys([*(str(row["recipe"]) for row in rows), *chosen]))
    runs = [replace(base, recipe=one, seed=seed) for seed in range(seeds) for one in chosen.values()]
    for place, run in enumerate(runs, 1):
        name = str(run.recipe)
        folder = out / RUNS / folder_name(name, run.seed)
        if progress:
            now = "finished earlier, nothing is trained" if _is_finished(folder) else "starting"
            print(f"run {place} of {len(runs)}: {name}, seed {run.seed}: {now}", file=sys.stderr, flush=True)
        row = outcome(run, folder, progress, trainer)
        rows = [one for one in rows if run_of(one) != (name, run.seed)] + [row]
        rows.sort(key=lambda one: (order.index(run_of(one)[0]), run_of(one)[1]))
        if progress and "error" in row:
            print(f"{name}, seed {run.seed}: {row['status']}: {row['error']}", file=sys.stderr, flush=True)
        write(rows, out / RESULTS)
        write_report(rows, out)
    return rows


def by_name(recipes: Sequence[Recipe | str]) -> dict[str, Recipe]:
    """The recipes by name, each once. Errors: ValueError for none, an unknown one, or two of one name."""
    chosen: dict[str, Recipe] = {}
    for one in recipes:
        made = recipe(one) if isinstance(one, str) else one
        if chosen.setdefault(str(made), made) != made:
            raise ValueError(f"recipes are told apart by name, but two different ones are called {made}")
    if not chosen:
        raise ValueError("compare wants at least one recipe, got none")
    return chosen


def _earlier(out: Path, base: Run) -> list[Row]:
    """The rows that an earlier comparison left.

    Errors: FileExistsError where it compared another run, ValueError where nothing can be written.
    """
    check_kind(out, RESULTS)
    if not (out / RESULTS).is_file():
        return []
    rows = read(out / RESULTS)
    if told := _other(rows, base):
        check(base)  # a slip is said first, for it may be what differs
        raise FileExistsError(
            f"{out} already holds a comparison of another run; what it holds and what was asked: {'; '.join(told)}; "
            "choose another folder (--out)"
        )
    return rows


def _other(rows: Sequence[Row], base: Run) -> list[str]:
    """What sets these rows apart from runs of `base`, recipe and seed left out; nothing: they may share a table."""
    told = (Run.from_dict(row["run"]) for row in rows if isinstance(row.get("run"), dict))
    runs = [replace(run, recipe=base.recipe, seed=base.seed) for run in told]
    return next((found for run in runs if (found := differences(run, base))), [])


def belongs(out: Path, base: Run) -> bool:
    """Whether `out` holds a comparison that `base` continues."""
    return (out / RESULTS).is_file() and not (out / STORE).exists() and not _other(read(out / RESULTS), resolved(base))


def _is_finished(folder: Path) -> bool:
    return (folder / RUN_RESULT).is_file()


def outcome(run: Run, folder: Path, progress: bool, trainer: Trainer) -> Row:
    """What one run came to, trained in `folder` unless it is finished there.

    Errors: those of a bad request, raised again; KeyboardInterrupt.
    """
    if _is_finished(folder):  # train only reads it, so no process is needed
        return _told(train(run, folder, progress=False).to_dict(), folder)
    told = trainer(run, folder, progress)
    if told.get("interrupted"):
        raise KeyboardInterrupt
    if "refused" in told:
        raise REFUSALS[told["refused"]](told["error"])
    if "result" in told:
        return _told(told["result"], folder)
    return _told({"recipe": str(run.recipe), "seed": run.seed, "run": run.to_dict(), **told}, folder)


def _told(row: dict[str, Any], folder: Path) -> Row:
    """The row with the folder as it is reached from results.json, so that a comparison can be moved."""
    return {**row, "folder": f"{folder.parent.name}/{folder.name}"}
