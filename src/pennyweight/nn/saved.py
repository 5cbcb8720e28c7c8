"""Saved: what a forward pass keeps for its backward pass, written in few bits while it is kept."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import local
from typing import Any
from weakref import ref

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from pennyweight.kernels import is_forward_only, is_transformed, read_rows
from pennyweight.nn.autocast import without_autocast
from pennyweight.nn.operands import Raw
from pennyweight.numerics import Cast, Quantized

FEWEST = 4096  # numbers of a tensor that is worth the work
SHORTEST = 16  # numbers of a row that pays for its scale
# What autograd calls the steps from a parameter to what a product reads of it: the same numbers in another place.
CARRIERS = ("ToCopyBackward0", "TBackward0", "TransposeBackward0", "PermuteBackward0", "ViewBackward0")


@dataclass(frozen=True)
class _Packed:
    written: Quantized
    shape: torch.Size
    dtype: torch.dtype


class _Here(local):
    """Of one thread: the hooks of the passes that are under way, and the tensor written last."""

    def __init__(self) -> None:
        self.open: list[saved_tensors_hooks | None] = []
        self.last: tuple[ref, int, _Packed] | None = None


@dataclass
class Saved:
    """Writes what the functions of one model's forward pass save, by a cast along the last dimension.

    Left as they are: parameters, views and copies of them, what needs no gradient (codes, statistics, indices), and
    tensors too small to be worth it.

    Source:   activations kept in 8 bits, Chen et al. 2021 (ActNN), arXiv:2104.14129; per row as in Xi et al. 2024,
              arXiv:2403.12422.
    Ancestor: torch.autograd.graph.saved_tensors_hooks with hooks that return what they get.
    """

    cast: Cast
    _watch: Callable[[Tensor], object] | None = field(default=None, init=False, repr=False, compare=False)
    _here: _Here = field(default_factory=_Here, init=False, repr=False, compare=False)

    @torch.compiler.disable
    def begin(self, module: nn.Module, args: Any) -> None:
        """A forward pass of the whole model begins."""
        if torch.is_grad_enabled() and is_transformed() and not is_forward_only():
            self._here.open.append(None)  # for `end`
            raise ValueError(
                f"this model writes what autograd saves ({self.cast}), which of torch.func only jvp can go through; "
                "use backward(), or the model before quantize"
            )
        hooks = saved_tensors_hooks(self.pack, self.unpack) if torch.is_grad_enabled() else None
        if hooks is not None:
            hooks.__enter__()
        self._here.open.append(hooks)

    @torch.compiler.disable
    def end(self, module: nn.Module, args: Any, result: Any) -> None:
        """The pass is over, or has failed."""
        hooks = self._here.open.pop()
        if hooks is not None:
            hooks.__exit__()
        self._here.last = None

    @contextmanager
    def watched(self, watch: Callable[[Tensor], object]) -> Iterator[None]:
        """Inside: `watch` sees every tensor that is kept, as it is kept."""
        self._watch = watch
        try:
            yield
        finally:
            self._watch = None

    def pack(self, tensor: Tensor) -> Tensor | _Packed:
        """What is kept of a tensor."""
        if not _is_written(tensor):
            self._tell(tensor)
            return tensor
        last = self._here.last
        if last is not None and last[0]() is tensor and last[1] == tensor._version:
            return last[2]  # two functions read it, one after the other
        matrix = tensor.detach().reshape(-1, tensor.shape[-1])
        with torch.no_grad(), without_autocast(tensor.device):
            packed = _Packed(Raw(matrix, self.cast).write(), tensor.shape, tensor.dtype)
        self._here.last = (ref(tensor), tensor._version, packed)
        for part in packed.written.tensors().values():
            self._tell(part)
        return packed

    def unpack(self, kept: Tensor | _Packed) -> Tensor:
        """The tensor again, as its codes tell it."""
        if isinstance(kept, Tensor):
            return kept
        with torch.no_grad(), without_autocast(kept.written.codes.device):
            return read_rows(kept.written, kept.dtype).view(kept.shape)

    def _tell(self, kept: Tensor) -> None:
        if self._watch is not None:
            self._watch(kept)

    def __reduce__(self) -> tuple[Any, ...]:
        return Saved, (self.cast,)


def _is_written(tensor: Tensor) -> bool:
    return (
        tensor.requires_grad
        and tensor.dtype in (torch.float32, torch.bfloat16, torch.float16)
        and tensor.numel() >= FEWEST
        and tensor.shape[-1] >= SHORTEST
        and not _is_weight(tensor)
    )


def _is_weight(tensor: Tensor) -> bool:
    """Whether it is a leaf of the graph, a view of one, or a copy in another dtype or order."""
    node = tensor.grad_fn
    while node is not None and node.name() in CARRIERS:
        node = node.next_functions[0][0]
    return node is None or node.name() == "torch::autograd::AccumulateGrad"
