"""Small parameters of every shape, seeded gradients, and the walk of an optimizer, for the tests of this room."""

from collections.abc import Callable

import pytest
import torch
from torch import nn

from pennyweight.kernels import compiled


@pytest.fixture
def parameters() -> Callable[..., list[nn.Parameter]]:
    def make(seed: int = 0, dtype: torch.dtype = torch.float32) -> list[nn.Parameter]:
        generator = torch.Generator().manual_seed(seed)
        shapes = [(64, 80), (5000,), (), (1,), (0, 5), (3, 5, 2), (130, 67)]
        return [nn.Parameter(torch.randn(shape, generator=generator).to(dtype)) for shape in shapes]

    return make


@pytest.fixture
def give_gradients() -> Callable[[list[nn.Parameter], int], None]:
    def give(params: list[nn.Parameter], step: int) -> None:
        generator = torch.Generator().manual_seed(1000 + step)
        for parameter in params:
            spread = torch.randn(parameter.shape, generator=generator).exp()
            parameter.grad = (spread * torch.randn(parameter.shape, generator=generator)).to(parameter.dtype)

    return give


@pytest.fixture
def walk(give_gradients: Callable) -> Callable[[torch.optim.Optimizer, list[nn.Parameter], range], None]:
    def steps(optimizer: torch.optim.Optimizer, params: list[nn.Parameter], which: range) -> None:
        for step in which:
            give_gradients(params, step)
            optimizer.step()

    return steps


@pytest.fixture
def same() -> Callable[[list[nn.Parameter], list[nn.Parameter]], bool]:
    return lambda a, b: all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.fixture
def readable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the readable step, whose arithmetic is torch's: the compiled one is as near as its roots and logarithms."""
    monkeypatch.setattr(compiled, "missing", lambda: "hidden by a test")
