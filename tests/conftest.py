"""What every test shares: one thread, so that tests side by side do not fight for cores, and an own cache."""

import logging
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from pennyweight.cache import cache_folder

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# Where no GPU is, Triton's interpreter runs the GPU's kernels. It looks when Triton is imported, which torch may do.
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")
# A job in the background ignores Ctrl-C, and so would what its tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Tests have caches of their own; compiled kernels are kept where every test and its processes find them.
os.environ.setdefault("PENNYWEIGHT_KERNELS", str(cache_folder() / "kernels"))


def pytest_sessionstart() -> None:
    """Compiles the kernels before the first test, which would otherwise read on stderr that they are compiled."""
    from pennyweight.kernels import compiled

    compiled.missing()


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real datasets beside the checkout; tests that need it skip where it is absent."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("the datasets beside the checkout (../shared/data) are not here")
    return folder


@pytest.fixture(autouse=True)
def quiet_command() -> Iterator[None]:
    """What the command told the package's logger ends with its test: the stream it told it on is closed by then."""
    logger = logging.getLogger("pennyweight")
    before = logger.handlers[:], logger.level, logger.propagate
    yield
    logger.handlers[:], logger.level, logger.propagate = before
