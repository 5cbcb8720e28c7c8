"""Afterwards: what rounding makes of a model that was trained in bf16, and which channels of its inputs stand out."""

from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pennyweight.analysis.tensors import outliers, writing
from pennyweight.data import prepare, validation_batches
from pennyweight.experiments.evaluate import load_model
from pennyweight.nn import quantize
from pennyweight.numerics import cast
from pennyweight.recipes import recipe
from pennyweight.training import load_run, validation_loss
from pennyweight.training.folder import MODEL

ROUNDED = ("paper-w8", "paper-w8t", "paper-w4", "paper-w4t")  # the recipes that the trained model is written by
FOUR_BITS = {granularity: cast(f"int4/{granularity}") for granularity in ("row", "column", "tensor")}


def afterwards(folder: Path) -> dict[str, Any]:
    """What is measured of a finished run's saved model, on the run's own validation set.

    rounded:   recipe -> validation loss of the model written by it (round to nearest, no training)
    channels:  layer -> kurtosis of its input's channels, `top` (rms of the largest over that of all), and the decibels
               that 4 bits keep with one scale a row (token), a column (channel) and a tensor
    Costs: a pass over the validation set for each recipe, one over its first batch.
    """
    run = load_run(folder)
    corpus = prepare(run.data.source, tokenizer=run.data.tokenizer, validation=run.data.validation)
    batches = partial(validation_batches, corpus.valid, run.data.context, run.batch)
    rounded = {}
    for name in ROUNDED:
        model = load_model(folder / MODEL)
        quantize(model, name)
        rounded[name] = validation_loss(
            model, batches(run.evaluation.tokens), objective=run.objective, precision=recipe(name).precision
        )
    first = next(iter(batches(run.evaluation.tokens)))
    return {"rounded": rounded, "channels": channels(load_model(folder / MODEL), first[:, :-1])}


@torch.no_grad()
def channels(model: nn.Module, tokens: Tensor) -> dict[str, dict[str, float]]:
    """Of the input of every linear layer inside a block: how its channels differ, and what 4 bits keep of it."""
    found: dict[str, dict[str, float]] = {}

    def look(name: str, module: nn.Module, args: tuple[Tensor, ...]) -> None:
        x = args[0].detach().reshape(-1, args[0].shape[-1]).float()
        kurtosis, top = outliers(x)
        kept = {granularity: writing(x, how).get("db", 0.0) for granularity, how in FOUR_BITS.items()}
        found[name] = {"kurtosis": kurtosis, "top": top[0][1] if top else 1.0, **kept}

    kinds = ("Linear", "Conv1D")
    layers = [(name, m) for name, m in model.named_modules() if type(m).__name__ in kinds and "." in name]
    hooks = [module.register_forward_pre_hook(partial(look, name)) for name, module in layers]
    try:
        model(input_ids=tokens, use_cache=False)
    finally:
        for hook in hooks:
            hook.remove()
    return found
