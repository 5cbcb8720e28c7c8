"""Arena: where PyTorch's large blocks of CPU memory lie, so that a step peaks little above what it has in use."""

from functools import cache

import torch

from pennyweight.kernels import compiled


@cache
def use_arena() -> bool:
    """From now on this process's CPU tensors of 64 KiB and more come from one arena; False where it cannot be had.

    Freed blocks are kept, and the lowest hole that is wide enough is taken: no pages are mapped and faulted in anew in
    every step, as the system's allocator does with large blocks, and none lie idle between long-lived small ones, as
    where it is told to keep them. Tensors that are there already stay where they are. Not where the C++ kernels are not
    compiled, or address space is limited (`ulimit -v`).
    """
    return compiled.are_loaded() and torch.ops.pennyweight.use_arena()


def trim_arena() -> None:
    """Hands what the arena keeps and nobody uses back to the system; nothing if this process uses none."""
    if use_arena.cache_info().currsize and use_arena():
        torch.ops.pennyweight.trim_arena()
