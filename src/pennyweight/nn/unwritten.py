"""Unwritten: a converted model computing as if it had never been converted, for as long as somebody compares."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from pennyweight.nn.activation_functions import OnePass
from pennyweight.nn.linear import PLAIN, WrittenConv1D, WrittenLinear


@contextmanager
def unwritten(model: nn.Module) -> Iterator[dict[str, nn.Parameter]]:
    """Inside: layers multiply unwritten inputs by master weights, activation functions and what is saved are torch's.

    Gives the parameters by name as the model holds them inside. They are its own; a weight that is its codes alone is
    lent its values as a parameter of its own, which takes the gradient and is gone afterwards. Compiled blocks run as
    they were written. The model counts its forward passes as ever: who compares puts its counter back.

    Ancestor: the model before `quantize`, bit for bit, with the attention it has in float32.
    Costs:    a float32 copy of the weights that are codes alone, no copy of any other.
    """
    conversion = getattr(model, "pennyweight_conversion", None)
    with ExitStack() as stack:
        for module in model.modules():
            if isinstance(module, WrittenLinear | WrittenConv1D):
                stack.enter_context(_stock_layer(module))
            elif isinstance(module, OnePass):
                stack.enter_context(_stock_function(module))
        if conversion is not None and conversion.saved is not None:
            stack.enter_context(_saved_as_it_is(model))
        stack.enter_context(torch.compiler.set_stance("force_eager"))
        yield dict(model.named_parameters())


@contextmanager
def _stock_layer(module: WrittenLinear | WrittenConv1D) -> Iterator[None]:
    """The layer as the class that it was."""
    written, weight, stored = type(module), module.weight, module.layer.stored
    module.__class__ = PLAIN[written]  # type: ignore[assignment]  # as `quantize` does
    if stored is not None:
        module._parameters["weight"] = nn.Parameter(stored.values())
    try:
        yield
    finally:
        module._parameters["weight"] = weight  # type: ignore[assignment]  # the parameter that was there
        module.__class__ = written  # type: ignore[assignment]


@contextmanager
def _stock_function(module: OnePass) -> Iterator[None]:
    module.forward = module.stock.forward  # type: ignore[method-assign]  # hides the method of the class
    try:
        yield
    finally:
        del module.forward


@contextmanager
def _saved_as_it_is(model: nn.Module) -> Iterator[None]:
    """Inside the model's own hooks, which write what is saved, hooks that keep it as it is."""
    open_hooks: list[saved_tensors_hooks] = []

    def begin(module: nn.Module, args: Any) -> None:  # Any: a model may take and give anything
        open_hooks.append(saved_tensors_hooks(_same, _same))
        open_hooks[-1].__enter__()

    def end(module: nn.Module, args: Any, result: Any) -> None:
        open_hooks.pop().__exit__()

    hooks = [model.register_forward_pre_hook(begin)]
    hooks.append(model.register_forward_hook(end, prepend=True, always_call=True))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _same(tensor: Tensor) -> Tensor:
    return tensor
