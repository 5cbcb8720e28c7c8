"""Post-training: a trained model written by a recipe without another step, and where its weights are clipped before."""

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from pennyweight.nn.convert import Conversion, decided, quantize
from pennyweight.nn.survey import Line
from pennyweight.numerics import CLIPPINGS, clipped
from pennyweight.recipes import Recipe
from pennyweight.recipes import recipe as named
from pennyweight.spelling import choose

RULES = CLIPPINGS


@torch.no_grad()
def post_train(model: nn.Module, recipe: Recipe | str, rule: str = "absmax", *, seed: int = 0) -> Conversion:
    """Writes a trained model by a recipe, in place, and says what `quantize` did: post-training quantization.

    rule  where each group of a weight is cut before it is rounded to nearest (`numerics.clipped`): "absmax" (not at
          all), "mse" or "percentile".

    The model then computes its forward pass as the recipe says: weights written, activations written anew for every
    input where the recipe writes them. What else a recipe says belongs to training. A weight that another module reads
    too (a head tied to its embedding) is never cut.

    Raises ValueError for an unknown rule, several recipes in turn, and whatever `quantize` refuses.
    Ancestor: "absmax" is `quantize`, bit for bit.
    """
    recipe = named(recipe)
    choose("The rule of post_train", rule, RULES)
    if not recipe.then and rule != "absmax":
        modules = dict(model.named_modules())
        for line in decided(model, recipe):
            _clip(model, modules[line.name], line, rule)
    return quantize(model, recipe, seed=seed)


def _clip(model: nn.Module, module: nn.Module, line: Line, rule: str) -> None:
    cast = None if line.casts is None else line.casts.output.right
    weight = module.weight
    if cast is None or not isinstance(weight, nn.Parameter) or _readers(model, weight) > 1:
        return
    turned = isinstance(module, Conv1D)
    made = clipped(weight.T if turned else weight, cast, rule)
    weight.copy_(made.T if turned else made)


def _readers(model: nn.Module, weight: nn.Parameter) -> int:
    """How many modules read a weight."""
    return sum(any(p is weight for p in one.parameters(recurse=False)) for one in model.modules())


def stored_bytes(model: nn.Module, conversion: Conversion) -> tuple[int, int, int]:
    """(bytes, bytes of written weights, numbers in them): of the model's weights as a file of codes would hold them.

    Written weights count with their codes, scales and zero points, all others two bytes a number.
    """
    modules = dict(model.named_modules())
    written, numbers, own = 0, 0, set()
    for line in conversion.lines:
        if line.casts is not None and (cast := line.casts.output.right) is not None:
            written += cast.bytes((line.outputs, line.inputs))
            numbers += line.inputs * line.outputs
            own.add(id(modules[line.name].weight))
    others = sum(parameter.numel() for parameter in model.parameters() if id(parameter) not in own)
    return written + 2 * others, written, numbers
