"""Plain: a written model as tensors that any PyTorch reads: codes times scales, under the names it always had."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pennyweight.nn.linear import WrittenConv1D, WrittenLinear
from pennyweight.nn.shared import Shared


@torch.no_grad()
def plain_weights(model: nn.Module) -> dict[str, Tensor]:
    """The model's state dict with every converted weight as its forward pass reads it; the rest is the model's own.

    Names, shapes and dtypes are the plain model's. Weights that are tied stay one tensor, except a tied head that the
    recipe writes while the embedding stays unwritten: those two have become different numbers.
    """
    return _written(model, model.state_dict())


def save_plain(model: Any, save_directory: str | Path, **options: Any) -> Any:
    """transformers' `save_pretrained` for a converted model: what is saved loads without Pennyweight.

    A `state_dict` given is written like the model's own. Where the head is written and its tied embedding is not, the
    saved configuration unties them.
    """
    state = options.pop("state_dict", None)
    state = plain_weights(model) if state is None else _written(model, state)
    with _untied(model) if _head_differs(model) else _as_it_is():
        return type(model).save_pretrained(model, save_directory, state_dict=state, **options)


@contextmanager
def activations_off(model: nn.Module) -> Iterator[None]:
    """Inside: layers multiply inputs as they come by weights as they are written, as the saved model does."""
    every: list[Shared] = []
    for _, module in _layers(model):
        if not any(module.layer.shared is shared for shared in every):
            every.append(module.layer.shared)
    for shared in every:
        shared.activations = False
    try:
        yield
    finally:
        for shared in every:
            shared.activations = True


def _layers(model: nn.Module) -> Iterator[tuple[str, WrittenLinear | WrittenConv1D]]:
    for name, module in model.named_modules(remove_duplicate=False):
        if isinstance(module, WrittenLinear | WrittenConv1D):
            yield name, module


def _written(model: nn.Module, state: dict[str, Tensor]) -> dict[str, Tensor]:
    state = dict(state)
    done: dict[tuple[Any, ...], Tensor] = {}
    for name, module in _layers(model):
        entry = f"{name}.weight" if name else "weight"
        if module.layer.stored is not None:
            state[entry] = module.layer.stored.plain(state, entry.removesuffix("weight"))
            continue
        if entry not in state or module.layer.casts.output.right is None:
            continue
        turned = isinstance(module, WrittenConv1D)
        kept = state[entry].detach()
        same = (kept.data_ptr(), kept.shape, turned, module.layer.casts.output.right, module.layer.name)
        if same not in done:
            weight = module.layer.weight(kept.T if turned else kept)
            done[same] = (weight.T if turned else weight).contiguous()
        state[entry] = done[same]
    return state


def _head_differs(model: Any) -> bool:
    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    if not isinstance(head, WrittenLinear) or head.layer.casts.output.right is None:
        return False
    return embedding is not None and head.weight is embedding.weight


@contextmanager
def _untied(model: Any) -> Iterator[None]:
    tied = model.config.tie_word_embeddings
    model.config.tie_word_embeddings = False
    try:
        yield
    finally:
        model.config.tie_word_embeddings = tied


@contextmanager
def _as_it_is() -> Iterator[None]:
    yield
