"""The validation loss: what a model makes of text it has not learned from, in nats a token."""

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from pennyweight.recipes.precision import precise
from pennyweight.training.gradient import Objective


def validation_loss(
    model: nn.Module, batches: Iterable[Tensor], *, objective: Objective, precision: str, device: str = "cpu"
) -> float:
    """The mean loss over all tokens of `batches` ([b, context + 1] each), with the model in evaluation mode.

    The forward pass is the model's own, casts included. Leaves the model in the mode it was in.
    """
    training = model.training
    model.eval()
    total = torch.zeros((), dtype=torch.float64)
    tokens = 0
    with torch.no_grad(), precise(precision, device):
        for batch in batches:
            count = batch.shape[0] * (batch.shape[1] - 1)
            total += objective(model, batch.to(device)).double().cpu() * count
            tokens += count
    model.train(training)
    return (total / tokens).item()


def perplexity(loss: float) -> float:
    """exp(loss): among how many equally likely tokens a model of this loss (nats a token) still chooses."""
    return math.exp(min(loss, 700.0))  # 700: exp stays a finite float64
