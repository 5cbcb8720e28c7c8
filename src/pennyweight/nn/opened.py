"""Opened: what a causal language model hands to its head, where the head's product is all that makes its logits."""

from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from pennyweight.nn.survey import head_of

_found: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()  # model -> whether its logits are its head's output


def plain_head(model: nn.Module, input_ids: Tensor) -> nn.Linear | None:
    """The head of a model that reads (b, s) int64, where its logits are `head(hidden)` and nothing else.

    None: models that scale, cap, cut or mask what the head gives, or call it twice; heads that are no exact
    torch.nn.Linear, so also one that a recipe writes; heads that a hook listens to.
    Costs: once a model, a forward pass of one token: what it returns must be the very tensor that its head gave.
    """
    head = head_of(model)
    if head is None or type(head) is not nn.Linear or "forward" in vars(head) or _is_heard(head):
        return None
    if model not in _found:
        _found[model] = _is_last(model, head, input_ids[:1, :1])
    return head if _found[model] else None


def before_head(model: nn.Module, head: nn.Linear, input_ids: Tensor) -> Tensor:
    """What the model's own forward pass, its hooks included, hands to `plain_head`: (b, s) int64 -> (b, s, D).

    While it runs, the head passes on what it gets; so no other thread may call the model.
    """
    given: list[Tensor] = []

    def pass_on(hidden: Tensor) -> Tensor:
        given.append(hidden)
        return hidden

    head.forward = pass_on  # type: ignore[method-assign]  # hides the method of the class
    try:
        model(input_ids=input_ids, use_cache=False)
    finally:
        del head.forward
    (hidden,) = given
    return hidden


def _is_heard(head: nn.Linear) -> bool:
    return any((head._forward_hooks, head._forward_pre_hooks, head._backward_hooks, head._backward_pre_hooks))


@torch.inference_mode(False)
@torch.no_grad()
def _is_last(model: nn.Module, head: nn.Linear, token: Tensor) -> bool:
    """Whether the logits of a token are the tensor that the head gave, once and never written to since."""
    seen: list[tuple[Tensor, int]] = []

    def look(module: nn.Module, inputs: Any, output: Any) -> None:  # Any: a layer may take and give anything
        seen.append((output, output._version))

    device = head.weight.device
    random = [device] if device.type == "cuda" else []
    # Not compiled: what is looked at are objects of Python's. Without autocast: it would keep weights cast here, which
    # have no gradient, for the pass that is trained on.
    hook = head.register_forward_hook(look)
    try:
        with (
            torch.compiler.set_stance("force_eager"),
            torch.random.fork_rng(devices=random),
            torch.autocast(device.type, enabled=False),
        ):
            logits = model(input_ids=token, use_cache=False).logits
    finally:
        hook.remove()
    return [(id(output), version) for output, version in seen] == [(id(logits), logits._version)]
