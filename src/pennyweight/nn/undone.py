"""Undone: a converted model as it was before `quantize`, around the same parameters."""

from collections.abc import Mapping

from torch import nn

from pennyweight.nn.activation_functions import restore_activation_functions
from pennyweight.nn.attention import usual_attention
from pennyweight.nn.linear import PLAIN, WrittenConv1D, WrittenLinear
from pennyweight.nn.passes import MicroBatches
from pennyweight.nn.saved import Saved
from pennyweight.nn.shared import Shared
from pennyweight.numerics import Cast


def undo(model: nn.Module, *, kept: Mapping[str, Cast | None]) -> None:
    """Takes back what `quantize` did to a model: classes of layers, what lies between them, hooks of its passes.

    Weights that are their codes alone become master copies, except of the layers in `kept` whose cast it is.
    """
    for name, module in model.named_modules():
        if isinstance(module, WrittenLinear | WrittenConv1D):
            stored = module.layer.stored
            module.__class__ = PLAIN[type(module)]
            del module.layer
            if stored is not None and kept.get(name) != stored.cast:
                stored.release()
    restore_activation_functions(model)
    usual_attention(model)
    for hooks in (model._forward_pre_hooks, model._forward_hooks):
        for number, hook in list(hooks.items()):
            if isinstance(hook, MicroBatches) or isinstance(getattr(hook, "__self__", None), Shared | Saved):
                del hooks[number]
                model._forward_hooks_always_called.pop(number, None)
