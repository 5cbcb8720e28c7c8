"""Planning: how large a study is for the minutes that there are, what that leaves out, and what its text must hold."""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pennyweight.data import Corpus
from pennyweight.experiments.studies.study import Part, Scale, Study, with_seeds
from pennyweight.experiments.sweep import Cell
from pennyweight.experiments.worker import in_fresh_process
from pennyweight.training import Run, TrainingFailed, resolved

MOST_EPOCHS = 4.0  # that a run may read its text
START_SECONDS = 9.0  # of a run on the author's machine, beside its steps: imports, building, evaluation, saving
AFTER_SECONDS = 15.0  # a seed of the baseline, for what is measured of its model afterwards
PROBE_STEPS = 24


@dataclass(frozen=True)
class Plan:
    """What a study trains: its parts with their seeds, at so many steps, and what that leaves out (one sentence)."""

    base: Run
    parts: tuple[Part, ...]
    left_out: str = ""

    def cells(self) -> list[Cell]:
        """Every run, seeds varying slowest in each part: what is finished early compares all of its arms."""
        return [
            Cell((("arm", key(self.parts, part, arm.name)),), resolved(replace(arm.run, seed=seed + arm.shift)))
            for part in self.parts
            for seed in range(part.seeds)
            for arm in part.arms
        ]

    @property
    def tokens(self) -> int:
        """Tokens that a run learns from."""
        return self.base.steps * self.base.tokens_per_step


def key(parts: Sequence[Part], part: Part, arm: str) -> str:
    """What an arm is called among those of all parts."""
    return arm if part == parts[0] or part.label == parts[0].label else f"{arm}, {part.label}"


def whole(study: Study, scale: Scale, data: str) -> Plan:
    """The study as its scale says."""
    base = resolved(study.base(data, scale.steps))
    return Plan(base, study.parts(base, scale.name))


def planned(study: Study, scale: Scale, data: str, steps: int, seeds: Sequence[int], left_out: str) -> Plan:
    """The study with so many steps, and so many seeds of its first parts."""
    base = resolved(study.base(data, steps))
    parts = study.parts(base, scale.name)
    kept = tuple(replace(part, seeds=count) for part, count in zip(parts, seeds, strict=False))
    return Plan(base, kept, left_out)


def seconds(plan: Plan, *, tokens_per_second: float, jobs: int) -> float:
    """How long a plan takes where the first arm learns from so many tokens a second, a start being as slow as steps."""
    runs = sum(part.seeds * (START_SECONDS + arm.cost * plan.tokens / tokens_per_second)
               for part in plan.parts for arm in part.arms)  # fmt: skip
    return runs / jobs + AFTER_SECONDS * sum(part.seeds for part in plan.parts)


def fitted(study: Study, scale: Scale, data: str, *, minutes: float, tokens_per_second: float, jobs: int) -> Plan:
    """The largest plan that these minutes hold: first seeds are left out, then the later parts, then tokens.

    Errors: ValueError where not even the least fits, which says how many minutes that takes.
    """
    full = whole(study, scale, data)
    most = max(part.seeds for part in full.parts)
    tried = [with_seeds(full.parts, count) for count in range(most, scale.least_seeds - 1, -1)]
    last = tried[-1] if tried else full.parts
    choices = [(parts, scale.steps) for parts in tried]
    choices += [(last[:count], scale.steps) for count in range(len(last) - 1, 0, -1)]
    choices += [(last[:1], round(scale.steps * share / 8)) for share in range(7, 0, -1)]
    shortest = 0.0
    for parts, steps in choices:
        if steps < scale.least_steps:
            break
        plan = planned(study, scale, data, steps, [part.seeds for part in parts], _left_out(full, parts, steps))
        shortest = seconds(plan, tokens_per_second=tokens_per_second, jobs=jobs)
        if shortest <= 60 * minutes:
            return plan
    raise ValueError(
        f"study {study.name} takes {-(-shortest // 60):.0f} minutes or more here (--{scale.name}, jobs={jobs}, "
        f"{tokens_per_second:,.0f} tokens a second), got --minutes {minutes:g}"
    )


def _left_out(full: Plan, parts: Sequence[Part], steps: int) -> str:
    """What a smaller plan leaves out, in one sentence; nothing where it is whole."""
    said = []
    if len(parts) < len(full.parts):
        said.append(f"all of {' and '.join(part.label for part in full.parts[len(parts) :])}")
    for part, before in zip(parts, full.parts, strict=False):
        if part.seeds < before.seeds:
            said.append(f"{before.seeds - part.seeds} of {before.seeds} seeds at {part.label}")
    if steps < full.base.steps:
        said.append(f"{100 - 100 * steps / full.base.steps:.0f} % of the tokens of every run")
    return f"For the minutes given it leaves out {', '.join(said)}." if said else ""


def probe(base: Run, threads: int) -> float:
    """Tokens a second of the baseline on this machine now, in a process of its own. Errors: TrainingFailed."""
    with tempfile.TemporaryDirectory(prefix="pennyweight-") as folder:
        run = replace(base, steps=PROBE_STEPS, checkpoint=replace(base.checkpoint, every=0))
        answer = in_fresh_process(run, Path(folder) / "probe", False, threads)
    if "result" not in answer:
        raise TrainingFailed(f"the first {PROBE_STEPS} steps of the baseline failed: {answer.get('error')}")
    return float(answer["result"]["tokens_per_second"])


def check_epochs(plan: Plan, corpus: Corpus) -> float:
    """How often a run reads its text. Errors: ValueError where that is more than MOST_EPOCHS times."""
    there = len(corpus.train)
    epochs = plan.tokens / there
    if epochs > MOST_EPOCHS:
        raise ValueError(
            f"a run of this study reads {plan.tokens:,} tokens and its text at most {MOST_EPOCHS:g} times, so it wants "
            f"{plan.tokens / MOST_EPOCHS:,.0f} tokens or more, but the training part of {plan.base.data.source!r} "
            f"holds {there:,}"
        )
    return epochs
