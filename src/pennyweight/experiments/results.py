"""Results: what runs came to, as the rows of results.json: gathered from run folders, read and written safely."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pennyweight.training import load_run, read_ledger
from pennyweight.training.files import write_whole
from pennyweight.training.folder import LEDGER, RESULTS, RUN, RUNS
from pennyweight.training.folder import RESULT as RUN_RESULT

Row = dict[str, Any]  # one run as results.json tells it: plain JSON, numbers that are not finite are null

KEYS = (
    "recipe", "seed", "val_loss", "perplexity", "tokens", "steps", "tokens_per_second", "peak_memory_bytes", "seconds",
    "bits_per_byte", "val_loss_plain", "initial_loss", "memory", "data_hash", "status", "folder",
)  # fmt: skip
DONE = "finished"
UNFINISHED = "unfinished"


def finite(value: Any) -> Any:
    """The value as strict JSON: numbers that are not finite become None, tuples lists."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): finite(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [finite(one) for one in value]
    return value


def write(rows: Sequence[Row], path: Path) -> None:
    """Writes results.json: a list with one object per run, every key of `KEYS` there."""
    full = [{key: row.get(key) for key in KEYS} | row for row in rows]
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, json.dumps(finite(full), indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def _json(path: Path) -> Any:
    """What a file of ours holds. Errors: ValueError where it is not JSON."""
    try:
        return json.loads(path.read_text(encoding="utf8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not JSON: {error}") from None


def read(path: Path) -> list[Row]:
    """The rows of a results.json. Errors: ValueError where the file is something else."""
    rows = _json(path)
    if not isinstance(rows, list) or not all(isinstance(row, dict) and "recipe" in row for row in rows):
        raise ValueError(f"{path} holds no list of runs (objects with 'recipe', 'seed', 'val_loss' ...)")
    return rows


def finished(row: Row) -> bool:
    """Whether the run ended with a validation loss that can be compared."""
    return row.get("status", DONE) == DONE and isinstance(row.get("val_loss"), int | float)


def is_single(folder: Path) -> bool:
    """Whether a folder is that of a single run, finished or not."""
    return any((folder / name).is_file() for name in (RUN, RUN_RESULT))


def run_of(row: Row) -> tuple[str, int]:
    """Which run of a comparison a row tells of."""
    return str(row["recipe"]), int(row.get("seed") or 0)


def read_run(folder: Path) -> Row:
    """What a run came to, or how far it is. Errors: ValueError where a file is damaged."""
    path = folder / RUN_RESULT
    if not path.is_file():
        return _unfinished(folder)
    row = _json(path)
    if not isinstance(row, dict) or "recipe" not in row:
        raise ValueError(f"{path} is not the result of a run")
    return {"status": DONE, **row}


def _unfinished(folder: Path) -> Row:
    """How far a run is that has no result: what its ledger tells, and why it stopped where it diverged."""
    run = load_run(folder)
    lines = read_ledger(folder / LEDGER) if (folder / LEDGER).is_file() else []
    steps = [line for line in lines if line["kind"] == "step"]
    row = {"recipe": str(run.recipe), "seed": run.seed, "run": run.to_dict(), "folder": str(folder)}
    if lines and (last := lines[-1])["kind"] == "divergence":
        where = f"; first not finite: {last.get('where')}"
        row |= {"status": "diverged", "error": f"at step {last['step']} {last.get('what')}{where}"}
    else:
        row |= {"status": UNFINISHED, "error": f"step {steps[-1]['step'] if steps else 0} of {run.steps}"}
    return {**row, "steps": len(steps), "tokens": steps[-1].get("tokens") if steps else 0}


def rows_of(folder: Path) -> list[Row]:
    """The runs that stand in a folder: of a comparison, or the single run that it is.

    A comparison's rows are those of results.json, and what its run folders came to since, unfinished ones too.
    Errors: FileNotFoundError for a folder that is not there or holds no run.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"report wants the folder of a run or of a comparison, but {str(folder)!r} is none")
    if is_single(folder):
        return [read_run(folder)]
    rows = read(folder / RESULTS) if (folder / RESULTS).is_file() else []
    for path in sorted((folder / RUNS).glob("*/")):
        if not is_single(path):
            continue
        one = {**read_run(path), "folder": f"{RUNS}/{path.name}"}
        place = next((place for place, row in enumerate(rows) if run_of(row) == run_of(one)), len(rows))
        if place == len(rows) or one["status"] == DONE or rows[place].get("status") == UNFINISHED:
            rows[place : place + 1] = [one]
    if not rows:
        raise FileNotFoundError(f"report finds no run in {str(folder)!r} (no {RESULTS}, no {RUN})")
    return rows
