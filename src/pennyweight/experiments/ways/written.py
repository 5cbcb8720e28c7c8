"""Written: a trained model written by a recipe without another step, and the loss that it then has."""

import json
import math
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from pennyweight.data import Corpus, Sampler, validation_batches
from pennyweight.experiments.evaluate import load_model
from pennyweight.experiments.results import Row, finite
from pennyweight.experiments.ways.baseline import PLAIN
from pennyweight.nn import activations_off, post_train
from pennyweight.nn.convert import decided
from pennyweight.nn.post_training import COMPENSATED, stored_bytes
from pennyweight.recipes import Recipe
from pennyweight.training import Run, build_model, validation_loss
from pennyweight.training.files import write_whole
from pennyweight.training.folder import MODEL
from pennyweight.training.machine import device, machine, versions
from pennyweight.training.validation import perplexity

CALIBRATION_BATCHES = 8  # of the training text, in the run's own size: what GPTQ looks at


def weight_size(run: Run, recipe: Recipe, vocab_size: int) -> dict[str, Any]:
    """What the forward pass sees of the weights: `bits` a weight of the written layers, `stored_bytes` of the model.

    Written weights count with codes, scales and zero points, all others with two bytes. Bits is 16 where no weight is
    written. Errors: ValueError for a recipe that does not fit the model, or writes nothing in the forward pass.
    """
    written = run.config.written if run.config else None
    model = build_model(
        run.model, vocab_size=vocab_size, context=run.data.context, seed=0, device="meta", written=written
    )
    outputs = [line.casts.output for line in decided(model, recipe) if line.casts is not None]
    if not any(one.left or one.right for one in outputs) and str(recipe) != PLAIN:
        raise ValueError(
            f"the three ways differ in what the forward pass sees, but recipe {recipe} writes neither weights nor "
            "activations there; name one such as w8, w4 or w4a8"
        )
    every, written, numbers = stored_bytes(model, recipe)
    return {"bits": 8 * written / numbers if numbers else 16.0, "stored_bytes": every}


def written_row(place: Path, baseline: Row, base: Path, corpus: Corpus, recipe: Recipe, rule: str) -> Row:
    """The row of the baseline's model written by a recipe and a rule; kept in `place`, which answers again.

    `base` is what the baseline's folder is relative to.
    """
    run = Run.from_dict(baseline["run"])
    asked = replace(run, recipe=recipe).to_dict()
    if (row := _kept(place)).get("run") == asked:
        return row
    model = load_model(base / baseline["folder"] / MODEL)
    began = time.perf_counter()
    looked = _calibration(run, corpus) if rule in COMPENSATED else ()
    conversion = post_train(model, recipe, rule, batches=looked, seed=run.seed)
    seconds = time.perf_counter() - began
    where = device()
    model.to(where)  # type: ignore[arg-type]  # transformers' wrapper hides that a text is fine

    def loss() -> float:
        batches = validation_batches(corpus.valid, run.data.context, run.batch, run.evaluation.tokens)
        return validation_loss(model, batches, objective=run.objective, precision=recipe.precision, device=where)

    own = plain = loss()
    if any(line.casts is not None and line.casts.output.left is not None for line in conversion.lines):
        with activations_off(model):
            plain = loss()
    row = {
        "recipe": str(recipe), "seed": run.seed, "status": "finished", "val_loss": own, "val_loss_plain": plain,
        "perplexity": perplexity(own), "bits_per_byte": own / math.log(2) / corpus.bytes_per_token, "tokens": 0,
        "seconds": seconds, "data_hash": corpus.hash, "machine": machine(), "versions": versions(), "run": asked,
    }  # fmt: skip
    if not math.isfinite(max(own, plain)):
        row |= {"status": "diverged", "error": "the loss of the written model is no number"}
    place.parent.mkdir(parents=True, exist_ok=True)
    write_whole(place, json.dumps(finite(row), indent=1) + "\n")
    return row


def _kept(place: Path) -> Row:
    """The row that stands in a file; an empty one where there is none, or no longer."""
    try:
        row = json.loads(place.read_text(encoding="utf8"))
    except (FileNotFoundError, ValueError):
        return {}
    return row if isinstance(row, dict) else {}


def _calibration(run: Run, corpus: Corpus) -> list[Any]:
    sampler = Sampler(corpus.train, context=run.data.context, batch=run.batch, seed=run.seed)
    return [sampler.next()[:, :-1] for _ in range(CALIBRATION_BATCHES)]
