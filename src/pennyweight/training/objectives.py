"""Objectives: what a training makes small, in nats a token."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

ROWS_BYTES = 1 << 21  # float32 logits of one chunk: what a core's second-level cache holds


class _CrossEntropy(torch.autograd.Function):
    """Cross entropy of float32 logits that never exist all at once.

    Keeps the logits as the head wrote them (bf16 under autocast) and one number a row; the gradient comes in the
    logits' own dtype, as the gradient of `logits.float()` does.
    """

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, logits: Tensor, targets: Tensor) -> Tensor:
        """(n, v) any floating dtype, (n,) int64 -> (), the mean over n in float32."""
        lse = torch.empty(logits.shape[0], dtype=torch.float32, device=logits.device)
        chosen = torch.empty_like(lse)
        for rows in _chunks(logits):
            part = logits[rows].float()
            torch.logsumexp(part, 1, out=lse[rows])
            chosen[rows] = part.gather(1, targets[rows, None])[:, 0]
        ctx.save_for_backward(logits, targets, lse)
        return (lse - chosen).mean()

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, *gradients: Tensor) -> tuple[Tensor, None]:
        """softmax(logits) - one_hot(targets), over n."""
        logits, targets, lse = ctx.saved_tensors  # type: ignore[attr-defined]  # torch's stub leaves it out
        scale = gradients[0].float() / logits.shape[0]
        written = torch.empty_like(logits)
        for rows in _chunks(logits):
            part = logits[rows].to(torch.float32, copy=True).sub_(lse[rows, None]).exp_()
            part.scatter_add_(1, targets[rows, None], part.new_full((part.shape[0], 1), -1.0))
            written[rows] = part.mul_(scale)
        return written, None


def _chunks(logits: Tensor) -> list[slice]:
    step = max(1, ROWS_BYTES // (4 * logits.shape[1])) if logits.device.type == "cpu" else logits.shape[0]
    return [slice(start, min(start + step, logits.shape[0])) for start in range(0, logits.shape[0], step)]


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """The mean of -log softmax(logits)[target] in nats, computed in float32: (n, v), (n,) -> ().

    Ancestor: torch.nn.functional.cross_entropy(logits.float(), targets), to float32 rounding.
    Costs:    one copy of the logits in their own dtype for backward, none in float32.
    """
    return _CrossEntropy.apply(logits, targets)  # type: ignore[return-value]  # apply is untyped in torch


@dataclass(frozen=True)
class NextToken:
    """Predict each next token: the mean cross entropy in nats a token.

    Where the model's logits are the product of its head and nothing else, they are never held all at once; a head that
    a recipe writes, or whose logits the model goes on with (a cap, a scale), gives them as one tensor.
    """

    def __call__(self, model: nn.Module, tokens: Tensor) -> Tensor:
        """tokens (batch, context + 1) int64 -> the loss of predicting tokens[:, 1:], a float32 scalar."""
        # Here, not at the top: it imports transformers, which a run as a value does without.
        from pennyweight.nn import before_head, head_cross_entropy, plain_head

        inputs, targets = tokens[:, :-1], tokens[:, 1:].flatten()
        head = plain_head(model, inputs)
        if head is None:
            logits = model(input_ids=inputs, use_cache=False).logits
            return cross_entropy(logits.flatten(0, 1), targets)
        hidden = before_head(model, head, inputs)
        return head_cross_entropy(hidden.flatten(0, 1), head.weight, targets, bias=head.bias)

    def early(self, model: nn.Module, tokens: Tensor) -> Tensor | None:
        """The tied weight whose gradient the loss of `tokens` makes in the forward pass and the embedding adds to last.

        None: there is none.
        """
        from pennyweight.nn import plain_head  # here for the reason above

        head = plain_head(model, tokens[:, :-1])
        if head is None:
            return None
        tied = any(one.weight is head.weight for one in model.modules() if isinstance(one, nn.Embedding))
        return head.weight if tied else None
