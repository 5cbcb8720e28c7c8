"""Head: the cross entropy of a language model's head in chunks of tokens, so that no one ever holds all logits.

T tokens, D hidden channels, V words of the vocabulary.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from pennyweight.kernels import has_tangent, is_transformed
from pennyweight.nn.autocast import autocast_dtype, without_autocast

CACHE_BYTES = 1 << 21  # of one piece of work on a CPU: what a core's second-level cache holds
CHUNK_TOKENS = 512  # with 256 adding up the weight's gradient makes it a fifth slower; with 2,048 nothing is faster


def head_cross_entropy(
    hidden: Tensor, weight: Tensor, labels: Tensor, *, bias: Tensor | None = None, ignore_index: int = -100,
    chunk: int = CHUNK_TOKENS,
) -> Tensor:  # fmt: skip
    """The mean of -log softmax(hidden weight^T + bias)[label] in nats: [T, D], [V, D], int64 [T], [V] -> ().

    Gradients come in the same pass, chunk by chunk, where grad mode and an operand want them; backward only scales them
    by the incoming gradient and hands them over, once. Under autocast the three products run in its dtype, the
    softmax in float32 (float64 for float64). NaN where every label is `ignore_index`, as in torch. Transforms of
    torch.func and tangents (forward-mode differentiation) get the ancestor, with all logits.

    chunk:    tokens at a time.
    Ancestor: F.cross_entropy(F.linear(hidden, weight, bias).float(), labels). In float32 and float64 to the rounding of
              sums in another order. In a dtype of relative rounding u (bf16: 2^-9), with P = softmax - one_hot over T:
              the loss within 2u max |logit|, the gradients within 4u (1 + max |logit|) times |P| |weight| and
              |P|^T |hidden| (logits, P and each chunk's product are rounded once; chunks add up in float32).
    Costs:    between forward and backward the two gradients, [T, D] in the products' dtype and [V, D] in float32 (the
              one that the weight keeps); within the pass one chunk of logits and the weight in the products' dtype.

    Errors: ValueError for shapes that do not fit; TypeError for labels that are not int64 and, outside autocast, two
    dtypes; RuntimeError for a second backward pass or a derivative of the gradient.
    """
    return _eager(hidden, weight, labels, bias, ignore_index, chunk)


@dataclass(frozen=True)
class _Head:
    """How a pass goes: the dtype of its products, the label that does not count, tokens a chunk, gradients or none."""

    dtype: torch.dtype
    ignore_index: int
    tokens: int
    grad: bool

    @property
    def wide(self) -> torch.dtype:
        """Of the softmax and of sums over chunks."""
        return torch.float64 if self.dtype == torch.float64 else torch.float32


@dataclass
class _Sums:
    """The gradients of the sum over tokens that are wanted: hidden [T, D], weight [V, D], bias [V]."""

    hidden: Tensor | None
    weight: Tensor | None
    bias: Tensor | None
    _part: list[Tensor] = field(default_factory=list)  # [rows, D] in the products' dtype, and in float32

    def add(self, rows: slice, probabilities: Tensor, hidden: Tensor, weight: Tensor) -> None:
        """Adds a chunk: softmax - one_hot [t, V], hidden [t, D], weight [V, D]."""
        if self.hidden is not None:
            torch.mm(probabilities, weight, out=self.hidden[rows])
        if self.bias is not None:
            self.bias += probabilities.sum(0, dtype=self.bias.dtype)
        if self.weight is None:
            return
        if self.weight.dtype == hidden.dtype:
            self.weight.addmm_(probabilities.T, hidden)
            return
        for words in _pieces(self.weight):
            total = self.weight[words]
            self._part = self._part or [torch.empty_like(total, dtype=hidden.dtype), torch.empty_like(total)]
            product, wide = (buffer[: len(total)] for buffer in self._part)
            torch.mm(probabilities[:, words].T, hidden, out=product)
            total += wide.copy_(product)


class _HeadCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, labels: Tensor, head: _Head) -> Tensor:
        wants = [head.grad and wanted for wanted in ctx.needs_input_grad[:3]]
        with without_autocast(hidden.device):
            sums = _Sums(
                torch.empty(hidden.shape, dtype=head.dtype, device=hidden.device) if wants[0] else None,
                torch.zeros(weight.shape, dtype=head.wide, device=weight.device) if wants[1] else None,
                torch.zeros(weight.shape[0], dtype=head.wide, device=weight.device) if wants[2] else None,
            )
            counts = labels != head.ignore_index
            count = counts.sum()
            loss = _pass(hidden, weight, bias, labels, counts, head, sums if any(wants) else None) / count
        # What becomes the weight's .grad is no activation, so it is kept here and not among the saved tensors.
        ctx.sums, ctx.count = (sums.weight, sums.bias), count.clamp(min=1)  # 1: no label counts, the gradients are 0
        ctx.dtypes = (hidden.dtype, weight.dtype, None if bias is None else bias.dtype)
        ctx.save_for_backward(sums.hidden)
        return loss

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            raise RuntimeError(
                "the loss of a head in chunks keeps its gradients and not the logits, so they have no derivative; "
                "take F.cross_entropy of the model's logits for create_graph=True"
            )
        if ctx.sums is None:
            raise RuntimeError(
                "the loss of a head in chunks hands its gradients over once, so it has no second backward pass; "
                "compute the loss again, or take F.cross_entropy of the model's logits for retain_graph=True"
            )
        (kept,) = ctx.saved_tensors
        sums, ctx.sums = [kept, *ctx.sums], None
        scale = gradients[0] / ctx.count
        scaled = [None if s is None else s.to(dtype).mul_(scale) for s, dtype in zip(sums, ctx.dtypes, strict=True)]
        return *scaled, None, None


def _whole(
    hidden: Tensor, weight: Tensor, labels: Tensor, bias: Tensor | None, ignore_index: int, chunk: int
) -> Tensor:
    _check(hidden, weight, labels, bias)
    if chunk < 1:
        raise ValueError(f"a head's loss takes chunks of at least one token, got {chunk}")
    if is_transformed() or has_tangent(hidden, weight, bias):  # what a chunk forgets they ask for again
        logits = functional.linear(hidden, weight, bias)
        wide = logits.double() if logits.dtype == torch.float64 else logits.float()
        return functional.cross_entropy(wide, labels, ignore_index=ignore_index)
    grad = torch.is_grad_enabled()  # inside of a function it is always off
    head = _Head(_product_dtype(hidden, weight), ignore_index, chunk, grad)
    return _HeadCrossEntropy.apply(hidden, weight, bias, labels, head)  # type: ignore[return-value]  # untyped in torch


_eager: Callable[..., Tensor] = torch.compiler.disable(_whole)  # type: ignore[assignment]  # a compiled caller breaks its graph here


def _pass(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, labels: Tensor, counts: Tensor, head: _Head,
    sums: _Sums | None,
) -> Tensor:  # fmt: skip
    """The sum of the losses of the labels that count; adds up the gradients of that sum in `sums`."""
    size = min(head.tokens, len(hidden))
    weight = weight.to(head.dtype)
    bias = None if bias is None else bias.to(head.dtype)
    targets = labels.where(counts, 0)
    buffer = torch.empty(size, weight.shape[0], dtype=head.dtype, device=hidden.device)
    rows_wide = torch.empty_like(buffer[_pieces(buffer, head.wide)[0]], dtype=head.wide) if size else buffer
    losses = torch.empty(len(hidden), dtype=head.wide, device=hidden.device)
    for start in range(0, len(hidden), size or 1):
        rows = slice(start, start + size)
        part = hidden[rows].to(head.dtype)
        logits = buffer[: len(part)]
        if bias is None:
            torch.mm(part, weight.T, out=logits)
        else:
            torch.addmm(bias, part, weight.T, out=logits)
        for few in _pieces(logits, head.wide):
            here = slice(start + few.start, start + min(few.stop, len(part)))
            losses[here] = _rows(
                logits[few], targets[here, None], counts[here, None], rows_wide, derive=sums is not None
            )
        if sums is not None:
            sums.add(rows, logits, part, weight)
    return losses.sum()


def _rows(logits: Tensor, targets: Tensor, counts: Tensor, buffer: Tensor, *, derive: bool) -> Tensor:
    """The losses of logits [r, V] of targets [r, 1] that count; puts softmax - one_hot in the logits' place."""
    wide = buffer[: len(logits)].copy_(logits)
    chosen = wide.gather(1, targets)
    top = wide.amax(1, keepdim=True)
    total = wide.sub_(top).exp_().sum(1, keepdim=True)
    losses = (top + total.log() - chosen).where(counts, 0.0)
    if derive:
        weights = counts.to(wide.dtype)
        logits.copy_(wide.mul_(weights / total).scatter_add_(1, targets, -weights))
    return losses[:, 0]


def _pieces(matrix: Tensor, dtype: torch.dtype | None = None) -> list[slice]:
    """The rows in pieces that fit in a CPU's cache; elsewhere in one piece."""
    rows, columns = matrix.shape
    step = max(1, CACHE_BYTES // max(1, columns * (dtype or matrix.dtype).itemsize))
    step = step if matrix.device.type == "cpu" else max(1, rows)
    return [slice(start, start + step) for start in range(0, rows, step)]


def _product_dtype(hidden: Tensor, weight: Tensor) -> torch.dtype:
    """Autocast's, where it is on and neither is float64; else the one of both."""
    if (dtype := autocast_dtype(hidden, weight)) is not None:
        return dtype
    if hidden.dtype != weight.dtype:
        raise TypeError(
            f"a head's hidden states and weight have one dtype outside autocast, got {hidden.dtype} and {weight.dtype}"
        )
    return hidden.dtype


def _check(hidden: Tensor, weight: Tensor, labels: Tensor, bias: Tensor | None) -> None:
    shapes = [tuple(tensor.shape) for tensor in (hidden, weight, labels)]
    fits = hidden.dim() == weight.dim() == 2 and hidden.shape[1] == weight.shape[1] and labels.shape == hidden.shape[:1]
    if not fits:
        raise ValueError(
            "a head's loss takes hidden states [T, D], a weight [V, D] and labels [T], got {}, {} and {}".format(
                *shapes
            )
        )
    if bias is not None and bias.shape != weight.shape[:1]:
        raise ValueError(f"a head's bias is [V], here [{len(weight)}], got {tuple(bias.shape)}")
    if labels.dtype != torch.int64:
        raise TypeError(f"labels are int64, got {labels.dtype}")
