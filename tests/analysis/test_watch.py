"""When a training is looked at."""

import torch

from pennyweight.analysis.passes import Lens
from pennyweight.analysis.watch import Watch
from pennyweight.optim import AdamW


def due(**every: int) -> list[int]:
    model = torch.nn.Linear(4, 4)
    watch = Watch(Lens(model, lambda model, x: model(x).sum(), "fp32"), AdamW(model.parameters()), **every)
    return [step for step in range(1, 131) if watch.due(step)]


def test_looks_come_early_once_and_then_at_the_interval() -> None:
    assert due(every=50) == [10, 50, 100]
    assert due(every=50, fidelity_every=40) == [10, 40, 50, 80, 100, 120]
    assert due(every=0, sharpness_every=60) == [60, 120]
    assert due(every=0) == []
