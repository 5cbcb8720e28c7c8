"""Where the kernels of the GPU are tested: on a GPU where one is, else on CPU tensors in Triton's interpreter."""

from types import ModuleType

import pytest
import torch

from pennyweight.kernels.gpu import door


@pytest.fixture(scope="session")
def device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


@pytest.fixture(scope="session")
def ops() -> ModuleType:
    """The operators; the test is skipped where they cannot be had."""
    if (why := door.obstacle()) is not None:
        pytest.skip(why)
    there = door.operators()
    assert there is not None
    return there
