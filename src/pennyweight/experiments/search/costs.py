"""Costs: what a recipe costs, in bytes, bits or seconds. Bytes and bits follow from the shapes; nothing is trained."""

import statistics
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from pennyweight.data import Corpus
from pennyweight.experiments.bench.rounds import Built, Side, begun, in_turn
from pennyweight.experiments.search.steps import Stepping
from pennyweight.nn import Conversion, quantize
from pennyweight.recipes import Recipe, recipe
from pennyweight.recipes.precision import precise
from pennyweight.training import Run, build_model
from pennyweight.training.memory import Categories, SavedActivations
from pennyweight.training.prediction import predict

TARGETS = ("memory", "time", "bits")
ROUNDS = 12  # in which bf16 and a candidate take one step each, in turn


@dataclass
class Costs:
    """What recipes of one run cost: of memory bytes, of bits a number, of time the share of bf16's step.

    time: bf16 and the recipe step in turn in this process, the median of `ROUNDS` ratios; so nothing else should run.
    """

    target: str
    base: Run
    corpus: Corpus

    def __call__(self, chosen: Recipe) -> float:
        """The cost of a recipe. Errors: ValueError for one that this model cannot have."""
        run = replace(self.base, recipe=chosen)
        if self.target == "time":
            return step_share(self.base, run, self.corpus)
        held = predict(run, vocab_size=self.corpus.vocab_size)
        if self.target == "memory":
            return float(memory(held))
        conversion, parameters = _converted(run, self.corpus.vocab_size)
        return mean_bits(
            weight_bits=weight_bits(conversion, parameters), held=held, parameters=parameters, saved=self._saved
        )

    @cached_property
    def _saved(self) -> int:
        """The numbers that bf16 keeps for its backward pass."""
        return numbers_saved(replace(self.base, recipe=recipe("bf16")), self.corpus.vocab_size)


def memory(held: Categories) -> int:
    """Bytes that one step holds: weights, gradients, states and saved activations."""
    return sum(held.values())


def mean_bits(*, weight_bits: int, held: Categories, parameters: int, saved: int) -> float:
    """The mean bits a number over the weights, both moments and what bf16 keeps for the backward pass.

    weight_bits: of all weights (see there); held: what `predict` says; parameters, saved: how many numbers are weights,
    and how many bf16 keeps. The scales of moments and of kept tensors count as bits of their numbers.
    """
    return (weight_bits + 8 * held["states"] + 8 * held["saved activations"]) / (3 * parameters + saved)


def weight_bits(conversion: Conversion, parameters: int) -> int:
    """Bits of all weights as the products read them: the format's where one is written, else the 32 of a master."""
    written = [(line.inputs * line.outputs, line.casts.output.right) for line in conversion.lines if line.casts]
    return 32 * parameters - sum(count * (32 - one.format.bits) for count, one in written if one is not None)


def _converted(run: Run, vocab_size: int) -> tuple[Conversion, int]:
    """What a recipe makes of the model, and how many parameters it has; of tensors without contents."""
    written = run.config.written if run.config else None
    with FakeTensorMode():
        model = build_model(run.model, vocab_size=vocab_size, context=run.data.context, seed=run.seed, written=written)
        parameters = sum(one.numel() for one in model.parameters())
        return quantize(model, run.recipe, seed=run.seed), parameters


def numbers_saved(run: Run, vocab_size: int) -> int:
    """How many numbers a step of the run keeps for its backward pass, as `predict` counts their bytes."""
    written, counts = run.config.written if run.config else None, []
    with FakeTensorMode():
        model = build_model(run.model, vocab_size=vocab_size, context=run.data.context, seed=run.seed, written=written)
        quantize(model, run.recipe, seed=run.seed)
        for batch in (1, 2)[: run.batch]:
            saved = SavedActivations(model)
            with saved(), precise(run.recipe.precision, "cpu"):
                run.objective(model.train(), torch.zeros(batch, run.data.context + 1, dtype=torch.int64))
            counts.append(saved.numbers)
    return counts[0] + (counts[-1] - counts[0]) * (run.batch - 1)


def step_share(base: Run, run: Run, corpus: Corpus) -> float:
    """How long a step of `run` takes in those of `base`: the median of the ratios of `ROUNDS` rounds, taken in turn.

    Errors: ValueError for a recipe that this model cannot have; RuntimeError where a step of it fails.
    """

    def built(one: Run) -> Built:
        stepping = Stepping.begin(one, corpus)
        stepping()
        return Built(stepping)

    found = begun([Side("bf16", lambda: built(base)), Side(str(run.recipe), lambda: built(run))])
    in_turn(found, ROUNDS, tell=lambda said: None)
    theirs, ours = found
    if not ours.seconds:
        raise ValueError(f"a step of {run.recipe} cannot be timed: {ours.note}")
    return statistics.median(own / other for own, other in zip(ours.seconds, theirs.seconds, strict=True))
