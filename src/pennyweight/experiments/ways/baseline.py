"""Baseline: the finished bf16 runs that the three ways begin from, where they are there already."""

from dataclasses import replace
from pathlib import Path

from pennyweight.experiments.results import DONE, Row, is_single, read_run
from pennyweight.training import Run
from pennyweight.training.folder import MODEL, RUNS

PLAIN = "bf16"


def found(place: Path) -> dict[int, Row]:
    """Seed -> the finished bf16 run in `place`: a run folder, or a comparison's or sweep's, of which all are taken.

    Errors: FileNotFoundError for a folder without a run; ValueError for one that is unfinished, not bf16, without its
    model, and for runs that differ in more than their seed.
    """
    if not place.is_dir():
        raise FileNotFoundError(f"--from names the folder of a finished bf16 run, but {str(place)!r} is none")
    folders = [place] if is_single(place) else [one for one in sorted((place / RUNS).glob("*/")) if is_single(one)]
    if not folders:
        raise FileNotFoundError(f"--from names the folder of a finished bf16 run, but {str(place)!r} holds no run")
    rows = {folder: read_run(folder) for folder in folders}
    plain = {folder: row for folder, row in rows.items() if str(row["recipe"]) == PLAIN}
    if not plain:
        others = ", ".join(dict.fromkeys(str(row["recipe"]) for row in rows.values()))
        raise ValueError(f"the three ways begin from a run in bf16, but {place} holds {others}")
    for folder, row in plain.items():
        if row["status"] != DONE:
            said = f"{row['status']} ({row.get('error')})"
            raise ValueError(f"the three ways begin from a finished run, but {folder} is {said}; finish it first")
        if not (folder / MODEL).is_dir():
            raise ValueError(f"the three ways begin from the model of a run, but that of {folder} is gone")
    by_seed = {int(row["seed"]): {**row, "folder": str(folder)} for folder, row in plain.items()}
    bases = {replace(Run.from_dict(row["run"]), seed=0, tracker="none") for row in by_seed.values()}
    if len(bases) > 1 or len(by_seed) < len(plain):
        raise ValueError(f"the bf16 runs in {place} differ in more than their seed; name the folder of one of them")
    return by_seed
