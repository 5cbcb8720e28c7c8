"""Analyze: what the model of a run folder is like now, finished or not: its tensors, its gradients, its minimum."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pennyweight.analysis import Look
from pennyweight.analysis.passes import look
from pennyweight.analysis.sharpness import sharpness
from pennyweight.data import prepare, validation_batches
from pennyweight.experiments import heat
from pennyweight.experiments.report import page
from pennyweight.training import load_run, resolved
from pennyweight.training.checkpoint import load, newest
from pennyweight.training.files import write_whole
from pennyweight.training.folder import CHECKPOINTS, check_writable
from pennyweight.training.machine import device

PAGE = "analysis.html"
SEQUENCES = 4  # of the validation set
LANCZOS = 16
ALPHAS = tuple(x / 8 for x in range(-8, 9))
ALPHAS_2D = tuple(x / 4 for x in range(-4, 5))
COLUMNS = ("x.db", "w.db", "g.db", "gt.db", "output.db", "grad_input.db", "grad_weight.db", "x.zero", "w.zero",
           "x.kurtosis", "gradient.cosine", "gradient.norm_ratio")  # fmt: skip


@dataclass(frozen=True)
class Analysis:
    """What was seen of the model that stands in a run folder, and of its training before."""

    folder: str
    recipe: str
    checkpoint: str
    now: Look
    before: tuple[Look, ...]

    def to_dict(self) -> dict[str, Any]:
        """The look of now as plain JSON."""
        where = {"folder": self.folder, "recipe": self.recipe, "checkpoint": self.checkpoint}
        return {"step": self.now.step, **self.now.to_line(), **where}

    @property
    def layers(self) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
        """A line for each layer, the weakest weight gradient or product first, with its channels that stand out."""
        every = self.now.measures
        columns = [name for name in COLUMNS if any(name in found for found in every.values())]
        ordered = sorted(every, key=lambda layer: every[layer].get("gradient.cosine") or 0.0)
        return ("layer", *columns, "channels that stand out"), [
            (layer, *(heat.number(every[layer].get(name), name) for name in columns), self._top(layer))
            for layer in ordered
        ]

    @property
    def findings(self) -> list[str]:
        """What matters most of it, a sentence each."""
        rho, rise, eigenvalue = (heat.number(self.now.sharpness[name]) for name in ("rho", "m_sharpness", "eigenvalue"))
        said = [
            f"{rho} away from where it stands the loss of one sequence is {rise} higher; the largest eigenvalue of the "
            f"Hessian is {eigenvalue}."
        ]
        cosines = [
            (value, layer)
            for layer, found in self.now.measures.items()
            if (value := found.get("gradient.cosine")) is not None
        ]
        if cosines:
            value, layer = min(cosines)
            told = heat.number(value, "gradient.cosine")
            said.append(f"The weight gradient least like that of full precision is that of {layer}: cosine {told}.")
        return said

    def _top(self, layer: str) -> str:
        return ", ".join(f"{channel} ({ratio:.1f} times)" for channel, ratio in self.now.top.get(layer, []))


def analyze(folder: Path | str, *, tell: Callable[[str], None] = lambda told: None) -> Analysis:
    """Looks at the newest checkpoint of a run folder on its validation text, and writes the page `analysis.html` there.

    Errors: FileNotFoundError for a folder that holds no run; ValueError for one without a checkpoint.
    """
    from pennyweight.training.state import Training  # here, not at the top: it imports transformers

    folder = Path(folder)
    run = resolved(load_run(folder))
    check_writable(folder)
    path, sentences = newest(folder / CHECKPOINTS)
    if path is None:
        raise ValueError(f"analyze looks at a checkpoint, but {folder} holds none yet")
    for sentence in sentences:
        tell(sentence)
    corpus = prepare(run.data.source, tokenizer=run.data.tokenizer, validation=run.data.validation, progress=tell)
    training = Training.begin(run, corpus, device())
    training.restore(load(path))
    tokens = next(iter(validation_batches(corpus.valid, run.data.context, SEQUENCES, run.evaluation.tokens)))
    tokens = tokens.to(device())
    began = time.perf_counter()
    tell("looking at every layer")
    found = look(training.lens(), tokens, gradients=True)
    looked = time.perf_counter()
    tell("measuring sharpness")
    sharp = sharpness(
        training.model, run.objective, tokens, lanczos=LANCZOS, alphas=ALPHAS, alphas_2d=ALPHAS_2D, seed=run.seed
    )
    seconds = looked - began, time.perf_counter() - looked
    now = Look(training.progress.step, found.measures, found.top, sharp.to_dict(), *seconds)
    made = Analysis(str(folder), str(run.recipe), path.name, now, tuple(heat.looks_of(folder)))
    seen = {"now": heat.seen("", [now], {}), "before": heat.seen("", made.before, {}) if made.before else None}
    write_whole(folder / PAGE, page("analysis.html", made, **seen))
    return made
