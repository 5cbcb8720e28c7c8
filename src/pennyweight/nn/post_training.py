"""Post-training: a trained model written by a recipe without another step, its weights cut or compensated before."""

from collections.abc import Iterable
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from pennyweight.nn.convert import Conversion, decided, quantize
from pennyweight.nn.linear import WrittenConv1D, WrittenLinear
from pennyweight.nn.survey import Line
from pennyweight.numerics import CLIPPINGS, Cast, clipped, compensated
from pennyweight.recipes import Recipe
from pennyweight.recipes import recipe as named
from pennyweight.spelling import choose

COMPENSATED = {"gptq": "absmax", "gptq-mse": "mse"}  # the rules that look at inputs, and how they cut
RULES = (*CLIPPINGS, *COMPENSATED)


@torch.no_grad()
def post_train(
    model: nn.Module, recipe: Recipe | str, rule: str = "absmax", *, batches: Iterable[Tensor] = (), seed: int = 0
) -> Conversion:
    """Writes a trained model by a recipe, in place, and says what `quantize` did: post-training quantization.

    rule     absmax | mse | percentile: each group of a weight is cut there (`numerics.clipped`), absmax not at all,
             then rounded to nearest; gptq | gptq-mse: rounded so that the outputs of each layer on `batches` change
             little (`numerics.compensated`), with scales by absmax or mse
    batches  token numbers [b, t], which the rules of gptq want: the model reads them once, as it was trained, before
             any layer is written

    The model then computes its forward pass as the recipe says: weights written, activations written anew for every
    input where the recipe writes them. What else a recipe says belongs to training. A weight that another module reads
    too (a head tied to its embedding) is rounded to nearest under every rule. Under gptq layers hold decoded weights,
    so products with written activations are emulated, whatever the recipe asks for.

    Raises ValueError for an unknown rule, several recipes in turn, gptq without batches or of a format that
    `compensated` refuses, and whatever `quantize` refuses.
    Ancestor: "absmax" is `quantize`, bit for bit.
    """
    recipe = named(recipe)
    choose("The rule of post_train", rule, RULES)
    if rule == "absmax" or recipe.then:
        return quantize(model, recipe, seed=seed)
    own = _own_weights(model, recipe)
    if rule in CLIPPINGS:
        for module, cast in own.values():
            _put(module, clipped(_matrix(module), cast, rule))
        return quantize(model, recipe, seed=seed)
    moments = _moments(model, own, batches) if own else {}
    for name, (module, cast) in own.items():
        _put(module, compensated(_matrix(module), moments[name], cast, COMPENSATED[rule]))
    conversion = quantize(
        model, replace(recipe, weights=None, m="fp32", v="fp32", state_rounding="stochastic"), seed=seed
    )
    for module, _ in own.values():
        _keep_weight(module)
    return conversion


def _own_weights(model: nn.Module, recipe: Recipe) -> dict[str, tuple[nn.Module, Cast]]:
    """The layers whose weights the recipe writes and no other module reads, by name, with the cast of each."""
    modules = dict(model.named_modules())
    found = {}
    for line, cast in _casts(model, recipe):
        if sum(_reads(one, modules[line.name].weight) for one in modules.values()) == 1:
            found[line.name] = (modules[line.name], cast)
    return found


def _reads(module: nn.Module, weight: object) -> bool:
    return any(parameter is weight for parameter in module.parameters(recurse=False))


def _matrix(module: nn.Module) -> Tensor:
    """The weight [O, I]."""
    weight = module.weight
    assert isinstance(weight, Tensor)
    return weight.T if isinstance(module, Conv1D) else weight


def _put(module: nn.Module, made: Tensor) -> None:
    _matrix(module).copy_(made)


def _moments(model: nn.Module, own: dict[str, tuple[nn.Module, Cast]], batches: Iterable[Tensor]) -> dict[str, Tensor]:
    """The second moment [I, I] of the inputs of each layer, summed over all positions of the batches."""
    moments: dict[str, Tensor] = {}

    def seen(name: str, _: nn.Module, args: tuple[Tensor, ...]) -> None:
        rows = args[0].reshape(-1, args[0].shape[-1]).float()
        moments[name] = moments.get(name, 0) + (rows.T @ rows).double()

    hooks = [module.register_forward_pre_hook(partial(seen, name)) for name, (module, _) in own.items()]
    training = model.training
    model.eval()
    try:
        for batch in batches:
            model(batch)
    finally:
        model.train(training)
        for hook in hooks:
            hook.remove()
    if missing := [name for name in own if name not in moments]:
        raise ValueError(
            f"gptq looks at the inputs of every layer, but {missing[0]} saw none; give it batches of tokens"
        )
    return moments


def _keep_weight(module: nn.Module) -> None:
    """From now on the layer multiplies its weight as it stands, and writes all else as before."""
    assert isinstance(module, WrittenLinear | WrittenConv1D)
    casts = module.layer.casts
    module.layer = replace(module.layer, casts=replace(casts, output=replace(casts.output, right=None), way="auto"))


def stored_bytes(model: nn.Module, recipe: Recipe | str) -> tuple[int, int, int]:
    """(bytes, bytes of written weights, numbers in them): a plain model's weights, as a file of codes would hold them.

    Weights that the recipe writes in the forward pass count with codes, scales and zero points, all others two bytes.
    """
    own = _casts(model, recipe)
    written = sum(cast.bytes((line.outputs, line.inputs)) for line, cast in own)
    numbers = sum(line.inputs * line.outputs for line, _ in own)
    modules = dict(model.named_modules())
    counted = {id(modules[line.name].weight) for line, _ in own}
    others = sum(parameter.numel() for parameter in model.parameters() if id(parameter) not in counted)
    return written + 2 * others, written, numbers


def _casts(model: nn.Module, recipe: Recipe | str) -> list[tuple[Line, Cast]]:
    """The layers whose weights the recipe writes in the forward pass, and the cast of each."""
    found = [(line, line.casts.output.right) for line in decided(model, named(recipe)) if line.casts is not None]
    return [(line, cast) for line, cast in found if cast is not None]
