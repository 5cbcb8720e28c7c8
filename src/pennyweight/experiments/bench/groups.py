"""Groups: what can be measured, the chosen groups one after the other, and what they found, with the machine."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from pennyweight.experiments.bench import peak
from pennyweight.experiments.bench.course import Course, Quiet
from pennyweight.experiments.bench.layers import layers, products
from pennyweight.experiments.bench.memory import SIDES, peak_bytes
from pennyweight.experiments.bench.optimizers import optimizers
from pennyweight.experiments.bench.results import Row, memory_row, rows
from pennyweight.experiments.bench.rounds import Question, begun, in_turn
from pennyweight.experiments.bench.sizes import GPU, Sizes
from pennyweight.experiments.bench.steps import compiled, steps
from pennyweight.experiments.bench.table import markdown
from pennyweight.kernels import doctor
from pennyweight.spelling import nearest
from pennyweight.training import commit, machine, versions
from pennyweight.training.files import write_whole
from pennyweight.training.folder import check_writable
from pennyweight.training.memory import give_freed_memory_back, keep_freed_memory

TIMED: dict[str, Callable[[Sizes], list[Question]]] = {
    "products": products,
    "layer": layers,
    "optimizer": optimizers,
    "gpt2": lambda sizes: steps("gpt2", sizes),
    "llama": lambda sizes: steps("llama", sizes),
    "compiled": compiled,
}
GROUPS = (*TIMED, "memory")
TOGETHER = {"step": ("gpt2", "llama", "compiled")}
CALLS = {"products": 20, "layer": 10, "optimizer": 5}  # timed together on a GPU, where waiting for one would count most
MARKDOWN, JSON = "bench.md", "bench.json"


def chosen(only: Sequence[str]) -> list[str]:
    """The groups that are asked for, in the order of the table; all of them where none is named.

    Errors: ValueError for a name that is none, with the nearest right one.
    """
    asked: set[str] = set()
    for name in only:
        if name not in GROUPS and name not in TOGETHER:
            raise ValueError(f"bench has no group {name!r}{nearest(name, [*GROUPS, *TOGETHER])}")
        asked.update(TOGETHER.get(name, (name,)))
    return [name for name in GROUPS if name in asked or not only]


def bench(
    only: Sequence[str] = (), *, device: str = "cpu", repeats: int = 20, threads: int | None = None,
    out: Path | str | None = None, sizes: Sizes | None = None, progress: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """Measures the chosen groups on this machine's CPU or GPU; returns everything as plain values, rows under "rows".

    device:  "cpu" or "cuda"; where sizes are given, it is theirs.

    repeats: rounds of each piece of work, and steps that the memory is measured over.
    threads: of PyTorch, for every side; None: as many as it has now.
    out:     a folder for bench.md and bench.json, written after every group and at Ctrl-C (whole rounds).
    progress: says on stderr how long it takes, before and while it runs.

    Errors: ValueError for names, numbers and folders that cannot be; FileExistsError for a folder that holds a bench.
    """
    names, sizes, place = chosen(only), sizes or _sizes_on(device), None if out is None else Path(out)
    for name, number in (("repeats", repeats), ("threads", threads)):
        if number is not None and number < 1:
            raise ValueError(f"bench takes {name} of 1 or more, got {number}")
    if place is not None:
        _check_free(place)
    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        with torch.random.fork_rng(devices=[0] if sizes.device == "cuda" else []):
            torch.manual_seed(0)
            course = Course(names, repeats) if progress and sizes.device == "cpu" else Quiet()
            with course:
                return _measured(names, repeats, torch.get_num_threads(), place, sizes, course)
    finally:
        torch.set_num_threads(before)


def _sizes_on(device: str) -> Sizes:
    if device not in ("cpu", "cuda"):
        raise ValueError(f"bench runs on cpu or cuda, got {device!r}")
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("bench was asked for cuda, but this PyTorch sees no GPU")
    return GPU if device == "cuda" else Sizes()


def _check_free(place: Path) -> None:
    check_writable(place)
    if (place / JSON).exists():
        raise FileExistsError(f"{place} already holds a bench; name another folder")


def _measured(
    names: Sequence[str], repeats: int, threads: int, place: Path | None, sizes: Sizes, course: Course
) -> dict[str, Any]:
    found: dict[str, Any] = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        "machine": machine(),
        "versions": versions(),
        "doors": [door._asdict() for door in doctor()],
        "threads": threads,
        "repeats": repeats,
        "sizes": asdict(sizes),
        "peak": None,
        "rows": [],
    }
    there = peak.measured(threads) if "products" in names and sizes.device == "cpu" else None
    found["peak"] = asdict(there) if there else None
    # Every side gets the allocator's setting that `pennyweight train` takes for shapes like these.
    keep_freed_memory({"weights": 0, "saved activations": 1})
    for name in names:
        if name == "memory":
            found["rows"] += _memory(sizes, repeats, threads, course)
        else:
            questions = TIMED[name](sizes)
            for place_of, question in enumerate(questions):
                _timed(question, found, there, place, _Part(course, name, place_of, len(questions), repeats))
        give_freed_memory_back()
        if place is not None:
            _write(found, place)
    return found


@dataclass(frozen=True)
class _Part:
    """One question's part of its group's course."""

    course: Course
    name: str
    place: int
    of: int
    repeats: int

    def tell(self, said: str) -> None:
        self.course.tell(f"{self.name}: {said}")

    def after(self, rounds: int) -> None:
        self.course.at(self.name, (self.place + rounds / self.repeats) / self.of)


def _timed(
    question: Question, found: dict[str, Any], there: peak.Machine | None, place: Path | None, part: _Part
) -> None:
    """Adds the question's rows; after an interruption those of the whole rounds, which are kept in the folder."""
    timed = begun(question.sides)
    gpu = found["sizes"]["device"] == "cuda"
    how = {"calls": CALLS.get(question.group, 1), "settle": torch.cuda.synchronize} if gpu else {}
    try:
        in_turn(timed, found["repeats"], tell=part.tell, after=part.after, **how)
    except KeyboardInterrupt:
        if place is not None and any(one.seconds for one in timed):
            found["rows"] += rows(question, timed, there)
            _write(found, place)
        raise
    found["rows"] += rows(question, timed, there)


def _memory(sizes: Sizes, steps: int, threads: int, course: Course) -> list[Row]:
    what = f"gpt2, {steps} steps in a fresh process"
    held: dict[str, int] = {}
    for number, side in enumerate(SIDES):
        course.tell(f"memory: {side}, {what}")
        held[side] = peak_bytes(side, sizes, steps, threads)
        course.at("memory", (number + 1) / len(SIDES))
    baseline = next(iter(held.values()))
    return [memory_row(what, side, held[side], baseline) for side in SIDES]


def _write(found: dict[str, Any], place: Path) -> None:
    place.mkdir(parents=True, exist_ok=True)
    write_whole(place / MARKDOWN, markdown(found))
    write_whole(place / JSON, json.dumps(found, indent=1) + "\n")
