"""Optimizers: one AdamW step on the same tensors."""

from collections.abc import Callable

import torch
from torch import nn

from pennyweight.experiments.bench import bitsandbytes_peer, torchao_peer
from pennyweight.experiments.bench.rounds import Built, Question, Side
from pennyweight.experiments.bench.sizes import Sizes
from pennyweight.optim import AdamW
from pennyweight.recipes import recipe


def optimizers(sizes: Sizes) -> list[Question]:
    """torch's fused AdamW on fp32 moments against moments of 8 bits."""
    m, v = recipe("m8v8").m, recipe("m8v8").v
    count = sizes.matrices * sizes.layers[0][0] * sizes.layers[0][1]

    def side(make: Callable[[list[nn.Parameter]], torch.optim.Optimizer]) -> Callable[[], Built]:
        return lambda: _step(make, sizes)

    sides = (
        Side("torch AdamW, fused, fp32 moments", side(lambda p: torch.optim.AdamW(p, fused=True))),
        Side("m8v8, nearest", side(lambda p: AdamW(p, m=m, v=v, rounding="nearest"))),
        Side("m8v8, stochastic", side(lambda p: AdamW(p, m=m, v=v, rounding="stochastic"))),
        Side("torchao AdamW8bit", side(torchao_peer.adamw), missing=torchao_peer.missing()),
        Side("bitsandbytes AdamW8bit", side(bitsandbytes_peer.adamw), missing=bitsandbytes_peer.missing()),
    )
    return [Question("optimizer", f"{count / 1e6:.1f} M parameters", sides, float(count), "parameters")]


def _step(make: Callable[[list[nn.Parameter]], torch.optim.Optimizer], sizes: Sizes) -> Built:
    parameters = [
        nn.Parameter(0.02 * torch.randn(*sizes.layers[0], device=sizes.device)) for _ in range(sizes.matrices)
    ]
    for parameter in parameters:
        parameter.grad = 1e-3 * torch.randn_like(parameter)
    return Built(make(parameters).step)
