"""Conduct: one baseline, and every recipe by the three ways, resumable; the rows of the one table."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from os.path import relpath
from pathlib import Path

from pennyweight.data import Corpus, prepare
from pennyweight.experiments.compare import Trainer, by_name, folder_name, outcome
from pennyweight.experiments.results import Row, finished, write
from pennyweight.experiments.ways.baseline import PLAIN, found
from pennyweight.experiments.ways.report import plan_of, write_report
from pennyweight.experiments.ways.written import weight_size, written_row
from pennyweight.experiments.worker import in_fresh_process
from pennyweight.nn.post_training import RULES
from pennyweight.recipes import Recipe, recipe
from pennyweight.spelling import choose
from pennyweight.training import Run, Weights, check, differences, resolved
from pennyweight.training.files import write_whole
from pennyweight.training.folder import MODEL, RESULTS, RUNS, WAYS, check_kind, claimed
from pennyweight.training.progress import teller

TUNED, WRITTEN = "tuned", "written"  # folders beside runs/: continued trainings, and what post-training came to
OTHER_ORDER = 1_000_000  # added to the seed of a continued training: it reads the text in another order


@dataclass(frozen=True)
class Plan:
    """What is the same for all of a table.

    run      the baseline, in bf16; its seed does not matter
    tune     the steps of a continued training, as a share of the baseline's (0: none)
    tune_lr  its highest learning rate, as a share of the baseline's
    rules    of post-training
    start    the folder that the baseline was found in, or nothing where it is trained here
    """

    run: Run
    tune: float = 0.1
    tune_lr: float = 0.1
    rules: tuple[str, ...] = RULES
    start: str = ""

    def __post_init__(self) -> None:
        if not 0 <= self.tune <= 1:
            raise ValueError(f"tune is a share of the baseline's steps between 0 and 1, got {self.tune:g}")
        if not 0 < self.tune_lr <= 1:
            raise ValueError(f"tune_lr is a share of the learning rate above 0 and up to 1, got {self.tune_lr:g}")
        if not self.rules:
            raise ValueError(f"post-training wants a rule, got none; there are {', '.join(RULES)}")
        for rule in self.rules:
            choose("A rule of post-training", rule, RULES)

    @property
    def tune_steps(self) -> int:
        """Steps of a continued training."""
        return max(1, round(self.tune * self.run.steps)) if self.tune else 0

    def tuning(self, which: Recipe, seed: int, model: Path) -> Run:
        """The run that continues the baseline's weights under a recipe (bf16: the control)."""
        run, schedule = self.run, self.run.schedule
        if schedule.warmup >= 1:
            schedule = replace(schedule, warmup=schedule.warmup / run.steps)
        optimizer = replace(run.optimizer, lr=run.optimizer.lr * self.tune_lr)
        return replace(
            run, recipe=which, seed=OTHER_ORDER + seed, steps=self.tune_steps, schedule=schedule, optimizer=optimizer,
            weights=Weights(of=str(model)),
        )  # fmt: skip

    def to_dict(self) -> dict[str, object]:
        """The plan as plain JSON."""
        return {
            "run": self.run.to_dict(), "tune": self.tune, "tune_lr": self.tune_lr, "rules": list(self.rules),
            "start": self.start,
        }  # fmt: skip


def ways(
    recipes: Sequence[Recipe | str], base: Run | None = None, *, seeds: int | None = None, out: Path | str,
    start: Path | str | None = None, tune: float = 0.1, tune_lr: float = 0.1, rules: Sequence[str] = RULES,
    progress: bool = True, trainer: Trainer = in_fresh_process,
) -> list[Row]:  # fmt: skip
    """Reaches each recipe by three ways on one bf16 baseline; writes the report, returns what results.json says.

    Every recipe is reached by post-training (the baseline's weights written by each rule, see `nn.post_train`), from
    the checkpoint (trained on under the recipe for `tune` of the steps at `tune_lr` of the learning rate, with fresh
    moments and the text in another order; beside it bf16 trained on just as long), and from scratch (`compare`'s own
    runs). Rows of one seed are paired: same baseline, same data.

    start  a finished bf16 run, or a comparison that holds some, to take as the baseline; then `base` and `seeds` are
           its own, and must not say otherwise. None: `base` is trained, for the seeds 0 ... seeds - 1 (None: one seed).
    out    runs/ (baseline and from scratch), tuned/, written/, results.json, report.html, report.md; the same call goes
           on where it stopped

    Errors: ValueError for a recipe that writes nothing in the forward pass, has several in turn or does not fit the
    model, an unknown rule and a bad setting, before anything starts; those of `baseline.found`; FileExistsError where
    `out` holds something else; KeyboardInterrupt once the current run is saved.
    """
    out = Path(out)
    held = {} if start is None else {seed: _seen_from(row, out) for seed, row in found(Path(start)).items()}
    chosen = {name: one for name, one in by_name(recipes).items() if name != PLAIN}
    wanted = _seeds(seeds, held)
    plan = Plan(
        baseline_of(base, start), tune, tune_lr, tuple(dict.fromkeys(rules)), "" if start is None else str(start)
    )
    _check_recipes(chosen)
    _admit(plan, out)
    corpus = prepare(plan.run.data.source, tokenizer=plan.run.data.tokenizer, validation=plan.run.data.validation)
    sizes = {name: weight_size(plan.run, one, corpus.vocab_size) for name, one in _with_plain(chosen).items()}
    with claimed(out, "command reaches its ways"):
        _admit(plan, out)  # another one may have begun there since it was looked at
        write_whole(out / WAYS, json.dumps(plan.to_dict(), indent=1) + "\n")
        table = Table(plan, out, corpus, progress, trainer, held)
        rows: list[Row] = []
        for row in table.rows(chosen, wanted):
            rows.append({**row, **sizes[row["recipe"]]})
            write(rows, out / RESULTS)
        rows.sort(key=lambda row: [*_with_plain(chosen)].index(row["recipe"]))
        write(rows, out / RESULTS)
        write_report(rows, out, plan.to_dict())
    return rows


def _with_plain(chosen: dict[str, Recipe]) -> dict[str, Recipe]:
    return {PLAIN: recipe(PLAIN), **chosen}


def _seen_from(row: Row, out: Path) -> Row:
    """The row with its folder as it is reached from `out`."""
    return {**row, "folder": relpath(row["folder"], out)}


def _seeds(asked: int | None, held: dict[int, Row]) -> list[int]:
    if asked is not None and asked < 1:
        raise ValueError(f"ways wants at least one seed, got seeds={asked}")
    if not held:
        return list(range(asked or 1))
    if asked is not None and asked > len(held):
        raise ValueError(f"--from holds {len(held)} bf16 runs (seeds {', '.join(map(str, held))}), got seeds={asked}")
    return sorted(held)[:asked]


def baseline_of(asked: Run | None, start: Path | str | None) -> Run:
    """The baseline's run, its seed 0: what is asked for, or what is found in `start`.

    Errors: ValueError where another one is asked for than is there, and those of `baseline.found`.
    """
    if start is None:
        return resolved(_plain(asked or Run()))
    held = found(Path(start))
    there = _plain(Run.from_dict(next(iter(held.values()))["run"]))
    if asked is not None and (told := differences(there, resolved(_plain(asked)))):
        what = f"what it holds and what was asked: {'; '.join(told)}"
        raise ValueError(f"--from holds another baseline than is asked for; {what}")
    return there


def _plain(run: Run) -> Run:
    return replace(run, recipe=recipe(PLAIN), seed=0)


def _check_recipes(chosen: dict[str, Recipe]) -> None:
    if not chosen:
        raise ValueError("ways wants at least one recipe beside bf16, which all are held against; such as w8, w4, w4a8")
    for name, one in chosen.items():
        if one.then:
            raise ValueError(f"a model is written by one recipe after training, but {name!r} are {len(one.phases)}")


def _admit(plan: Plan, out: Path) -> None:
    """Makes sure that this table may be written into `out`. Errors: FileExistsError, and those of `check`."""
    check_kind(out, WAYS)
    check(plan.run)
    if (out / WAYS).is_file() and (told := _other(plan, out)):
        raise FileExistsError(
            f"{out} already holds three ways on another baseline; what it holds and what was asked: "
            f"{'; '.join(told)}; choose another folder (--out)"
        )


def _other(plan: Plan, out: Path) -> list[str]:
    """What sets the table in `out` apart from this one; the rules of post-training may be other ones."""
    there = plan_of(out)
    told = differences(replace(Run.from_dict(there["run"]), seed=0), replace(plan.run, seed=0))
    own = plan.to_dict()
    shares = [name for name in ("tune", "tune_lr") if there[name] != own[name]]
    return [*told, *(f"{name}: {there[name]} is not {own[name]}" for name in shares)]


def is_ways(folder: Path) -> bool:
    """Whether a folder holds three ways."""
    return (folder / WAYS).is_file()


def belongs(out: Path, base: Run, tune: float, tune_lr: float) -> bool:
    """Whether `out` holds three ways that these continue."""
    return is_ways(out) and not _other(Plan(base, tune, tune_lr), out)


@dataclass(frozen=True)
class Table:
    """One table on its way: what it plans, where it writes, who trains."""

    plan: Plan
    out: Path
    corpus: Corpus
    progress: bool
    trainer: Trainer
    held: dict[int, Row]  # baselines that are there already

    def rows(self, chosen: dict[str, Recipe], seeds: Sequence[int]) -> Iterator[Row]:
        """A row for each seed, recipe and way, as it is done: seed by seed, what is cheap first."""
        for seed in seeds:
            baseline = self.held.get(seed) or self.trained(recipe(PLAIN), seed)
            yield {**baseline, "way": "baseline", "extra_tokens": 0}
            if finished(baseline):
                yield from self._from(baseline, chosen, seed)
            for one in chosen.values():
                row = self.trained(one, seed)
                yield {**row, "way": "scratch", "extra_tokens": 0}

    def _from(self, baseline: Row, chosen: dict[str, Recipe], seed: int) -> Iterator[Row]:
        """What begins from the baseline's weights: post-training, and the continued trainings with their control."""
        for name, one in chosen.items():
            for rule in self.plan.rules:
                place = self.out / WRITTEN / f"{folder_name(f'{name}-{rule}', seed)}.json"
                earlier = ", done earlier" if place.exists() else ""
                self._tell(f"{name}, seed {seed}: written after training, {rule}{earlier}")
                row = written_row(place, baseline, self.out, self.corpus, one, rule)
                yield {**row, "way": rule, "tokens": baseline["tokens"], "extra_tokens": 0}
        if not self.plan.tune_steps:
            return
        for one in _with_plain(chosen).values():
            run = self.plan.tuning(one, seed, self.out / baseline["folder"] / MODEL)
            row = self._outcome(resolved(run), self.out / TUNED / folder_name(str(one), seed))
            extra = row.get("tokens") or 0
            yield {**row, "seed": seed, "way": "tuned", "tokens": baseline["tokens"] + extra, "extra_tokens": extra}

    def trained(self, one: Recipe, seed: int) -> Row:
        """A run from scratch."""
        run = replace(self.plan.run, recipe=one, seed=seed)
        return self._outcome(run, self.out / RUNS / folder_name(str(one), seed))

    def _outcome(self, run: Run, folder: Path) -> Row:
        self._tell(f"{run.recipe}, {folder.parent.name}/{folder.name}, {run.steps} steps")
        row = outcome(run, folder, self.progress, self.trainer)
        if "error" in row:
            self._tell(f"{run.recipe}: {row['status']}: {row['error']}")
        return row

    def _tell(self, said: str) -> None:
        teller("ways", progress=self.progress)(said)
