"""Memory of a training by category, predicted before it and measured in it, and the peak of the process."""

import ctypes
import gc
import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pennyweight.kernels import trim_arena, use_arena
from pennyweight.numerics import held_bytes

Categories = dict[str, int]  # "weights", "gradients", "states", "saved activations" -> bytes

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # glibc's malloc.h
LARGEST_THRESHOLD = 32 << 20  # glibc refuses more: HEAP_MAX / 2 on 64 bits
SMALL_THRESHOLD = 1 << 20


def keep_freed_memory(predicted: Categories) -> None:
    """Lets freed blocks be used again, and not be given back, where that is worth more than it costs.

    In the arena of the compiled kernels, where it can be had. Else glibc is asked: every temporary above 128 KiB is
    otherwise mapped anew and its pages faulted in one by one, and keeping the blocks makes a small model's step 1.6
    times faster. Where the weights outweigh the activations (large model, small batch), blocks above 1 MiB go back at
    once: a step of 12 layers of 768 peaks 8 % lower and takes as long. Elsewhere: nothing.
    """
    mallopt = _libc("mallopt")
    if not use_arena() and mallopt is not None:
        large = predicted["weights"] > predicted["saved activations"]
        mallopt(M_MMAP_THRESHOLD, SMALL_THRESHOLD if large else LARGEST_THRESHOLD)
        mallopt(M_TRIM_THRESHOLD, SMALL_THRESHOLD if large else 2**31 - 1)


def give_freed_memory_back() -> None:
    """Hands unused memory back to the system, so that what comes next is measured alone."""
    gc.collect()
    trim_arena()
    trim = _libc("malloc_trim")
    if trim is not None:
        trim(0)


def _libc(name: str) -> Any:  # Any: a foreign function
    return getattr(ctypes.CDLL(None), name, None) if sys.platform == "linux" else None


class Peak:
    """The most memory that the process held since this was made, less what it held then."""

    def __init__(self, device: str) -> None:
        self.device = device
        give_freed_memory_back()
        if device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        self._reset = _reset_peak()
        self._before = resident_bytes() if self._reset else 0
        if not self._reset:
            self._before = _status("VmRSS") or _maximum()

    def bytes(self) -> int:
        """Bytes above the beginning: of the process, or of the GPU's allocator where the model lives there."""
        if self.device == "cuda":
            return torch.cuda.max_memory_allocated()
        return max(0, (_status("VmHWM") or _maximum()) - self._before)


def resident_bytes() -> int:
    """What the process holds now."""
    return _status("VmRSS") or _maximum()


def _reset_peak() -> bool:
    try:
        Path("/proc/self/clear_refs").write_text("5")  # proc(5): resets VmHWM to the current resident set
    except OSError:
        return False
    return True


def _status(field: str) -> int | None:
    path = Path("/proc/self/status")
    if not path.is_file():
        return None
    for line in path.read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    return None


def _maximum() -> int:
    unit = 1 if sys.platform == "darwin" else 1024  # getrusage(2): bytes on macOS, KiB elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


class SavedActivations:
    """Bytes that a forward pass keeps for its backward pass: each storage once, parameters and buffers not counted."""

    def __init__(self, model: nn.Module) -> None:
        self.bytes = 0
        self.numbers = 0
        self._written: Any = getattr(getattr(model, "pennyweight_conversion", None), "saved", None)  # an nn.Saved
        self._own = {_storage(t) for t in [*model.parameters(), *model.buffers()]}

    @contextmanager
    def __call__(self) -> Iterator[None]:
        """Counts what is saved inside; of several passes the largest stays in `bytes` and `numbers`."""
        kept: dict[int, Tensor] = {}  # holds the tensors, so that no storage's number is given twice

        def pack(tensor: Tensor) -> Tensor:
            if _storage(tensor) not in self._own:
                kept.setdefault(_storage(tensor), tensor)
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            if self._written is None:
                yield
            else:  # its own hooks hide these ones
                with self._written.watched(pack):
                    yield
        sizes = [(tensor.untyped_storage().nbytes(), tensor.element_size()) for tensor in kept.values()]
        self.bytes = max(self.bytes, sum(size for size, _ in sizes))
        self.numbers = max(self.numbers, sum(size // each for size, each in sizes))


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


def parameter_bytes(model: nn.Module) -> int:
    """Bytes of the parameters, tied ones once; codes and scales where there is no master copy."""
    return sum(map(held_bytes, model.parameters()))
