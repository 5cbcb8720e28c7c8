"""The instruction sets that the compiled kernels are tested on."""

from collections.abc import Iterator

import pytest
import torch

from pennyweight.kernels import compiled

DOORS = ("AMX", "AVX-512 VNNI", "AVX-VNNI", "AVX2", "plain C++")


@pytest.fixture
def doors() -> tuple[str, ...]:
    """The names of all doors, those that this processor lacks too."""
    return DOORS


@pytest.fixture(params=DOORS)
def door(request: pytest.FixtureRequest) -> Iterator[str]:
    """A door of this machine, taken for one test."""
    if (why := compiled.missing()) is not None:
        pytest.skip(why)
    ops = torch.ops.pennyweight
    usual = ops.door_name()
    if not ops.take_door(request.param):
        pytest.skip(f"this processor has no {request.param}")
    yield request.param
    ops.take_door(usual)
