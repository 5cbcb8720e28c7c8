"""What a training will hold in memory, by category, from the shapes alone."""

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from pennyweight.nn import Conversion, quantize
from pennyweight.optim import predicted_state_bytes
from pennyweight.recipes import Recipe
from pennyweight.recipes.precision import precise
from pennyweight.training.freed import freed_bytes
from pennyweight.training.memory import Categories, SavedActivations, parameter_bytes
from pennyweight.training.models import build_model
from pennyweight.training.run import Run


def predict(run: Run, *, vocab_size: int) -> Categories:
    """Bytes of weights, gradients, states and saved activations that one step of `run` will hold, at its largest.

    Of recipes that follow each other, the one that holds most counts.
    Weights, gradients and states follow from the shapes; what is saved for backward is counted in forward passes on
    tensors without contents, of one and of two sequences: every further sequence keeps as much as the second.
    Costs: no memory, about a second for twelve layers and each recipe.
    """
    each = (_predict(run, recipe, vocab_size=vocab_size) for recipe in dict.fromkeys(run.recipe.phases))
    return max(each, key=lambda held: sum(held.values()))


def _predict(run: Run, recipe: Recipe, *, vocab_size: int) -> Categories:
    written = run.config.written if run.config else None
    with FakeTensorMode():
        model = build_model(run.model, vocab_size=vocab_size, context=run.data.context, seed=run.seed, written=written)
        conversion = quantize(model, recipe, seed=run.seed)
        saved = [_saved_bytes(run, model, recipe, batch) for batch in (1, 2)[: run.batch]]
        weights, gradients = parameter_bytes(model), sum(p.nbytes for p in model.parameters())
        if run.gradients == "freed":
            gradients = freed_bytes(model, run.objective.early(model, torch.zeros(1, 2, dtype=torch.int64)))
    states = sum(
        predicted_state_bytes({n: tuple(p.shape) for n, p in part.items()}, m, v)
        for part, m, v in state_groups(model, conversion)
    )
    activations = saved[0] + (saved[-1] - saved[0]) * (run.batch - 1)
    return {"weights": weights, "gradients": gradients, "states": states, "saved activations": activations}


def _saved_bytes(run: Run, model: nn.Module, recipe: Recipe, batch: int) -> int:
    saved = SavedActivations(model)
    tokens = torch.zeros(batch, run.data.context + 1, dtype=torch.int64)
    with saved(), precise(recipe.precision, "cpu"):
        run.objective(model.train(), tokens)
    return saved.bytes


def state_groups(model: nn.Module, conversion: Conversion) -> list[tuple[dict[str, nn.Parameter], str, str]]:
    """The parameters by what their m and v are written in: [(parameters by name, m, v)]."""
    every, recipe = dict(model.named_parameters()), conversion.recipe
    if recipe.states == "all":
        return [(every, recipe.m, recipe.v)]
    written = converted_weights(model, conversion)
    chosen = {name: p for name, p in every.items() if id(p) in written}
    rest = {name: p for name, p in every.items() if id(p) not in written}
    return [(chosen, recipe.m, recipe.v), (rest, "fp32", "fp32")]


def converted_weights(model: nn.Module, conversion: Conversion) -> set[int]:
    """The identities of the converted layers' weights; a tied head's has another name among the parameters."""
    return {id(model.get_submodule(name).weight) for name in conversion.converted}
