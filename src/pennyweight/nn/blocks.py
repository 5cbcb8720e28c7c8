"""Blocks: let torch.compile fuse what lies between the layers, block by block of a model."""

import os
import shutil

from torch import nn

from pennyweight.nn.survey import blocks_of


def compile_blocks(model: nn.Module) -> int:
    """Has torch.compile compile every block of a model in place, each shape for itself; returns how many blocks.

    Blocks of one kind are compiled once. The model around them stays as it is: its hooks, its head, its names.
    Ancestor: the model before, to the rounding of what is fused; layers that compiled operators know compute the same.

    Raises ValueError for a model without a list of blocks, and on a CPU where torch.compile would find no compiler.
    """
    blocks = [model.get_submodule(prefix[:-1]) for prefix in blocks_of(model) if prefix.endswith(".")]
    if not blocks:
        raise ValueError(
            f"compile=true compiles the blocks of a model; {type(model).__name__} has no list of them (nn.ModuleList)"
        )
    compiler = os.environ.get("CXX", "g++")
    if next(model.parameters()).device.type == "cpu" and shutil.which(compiler) is None:
        raise ValueError(
            f"compile=true needs a C++ compiler, and there is no {compiler!r} here; set CXX, or compile=false"
        )
    for block in blocks:
        # A shape that varies would otherwise be compiled anew for all shapes: what a resumed run has seen would count.
        block.compile(dynamic=False)
    return len(blocks)
