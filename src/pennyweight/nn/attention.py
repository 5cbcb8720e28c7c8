"""Attention of transformers models: one compiled call each way where there is one, transformers' SDPA for all else.

Importing this room makes "pennyweight" an attention implementation of transformers, beside "sdpa" and "eager":
`model.set_attn_implementation("pennyweight")`. Its masks are SDPA's, so plain causal training has none.
"""

import inspect
import sys
from contextlib import nullcontext
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedConfig, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from pennyweight.kernels import (
    attends,
    attention,
    attention_backward,
    has_attention,
    has_tangent,
    is_transformed,
    refuse_tangent,
)
from pennyweight.nn.autocast import autocast_dtype

NAME = "pennyweight"
# Arguments that change what is computed, or ask for more than the result: transformers answers those itself.
OTHERS = ("position_bias", "cache", "softcap", "sliding_window", "output_attentions", "s_aux")


class ProcessName(str):
    """The name as a model keeps it that `faster_attention` switched: pickled, it is "sdpa", which every process has."""

    def __reduce__(self) -> tuple[type[str], tuple[str]]:
        return str, ("sdpa",)

    def __copy__(self) -> "ProcessName":
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> "ProcessName":
        return self


def faster_attention(model: nn.Module) -> int:
    """Switches the attention of a transformers model from SDPA to ours, in place; how many attention modules that is.

    The model gets a config of its own: others that were built from the same one stay as they are.

    0 where this machine has no compiled attention, and for models that do not ask transformers' interface for it or
    read the name "sdpa" in code of their own. What is saved or pickled does not name ours: loaded, it runs "sdpa".
    """
    if not has_attention():
        return 0
    switched: list[PreTrainedConfig] = []
    for module in model.modules():
        if isinstance(module, PreTrainedModel) and _is_open(module):
            config = deepcopy(module.config)  # another model may be built from the same one
            config._attn_implementation = {"": ProcessName(NAME)}  # type: ignore[assignment]  # this model's, not of those within
            _replace(model, module.config, config)
            switched.append(config)
    return sum(
        "Attention" in type(module).__name__ and any(getattr(module, "config", None) is config for config in switched)
        for module in model.modules()
    )


def usual_attention(model: nn.Module) -> None:
    """Takes back what `faster_attention` did to a model: its modules ask for SDPA again."""
    for module in model.modules():
        config = vars(module).get("config")
        if isinstance(config, PreTrainedConfig) and isinstance(config._attn_implementation, ProcessName):
            config._attn_implementation = {"": "sdpa"}  # type: ignore[assignment]  # this model's, not of those within


def _replace(model: nn.Module, old: PreTrainedConfig, new: PreTrainedConfig) -> None:
    for module in model.modules():
        if vars(module).get("config") is old:
            module.config = new  # type: ignore[assignment]  # a plain attribute of transformers' modules


def attention_forward(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    is_causal: bool | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """query [B, H, T, D], key, value [B, G, S, D] -> [B, T, H, D]: the function of transformers' attention interface.

    Masks, dropout, other dtypes and devices, what is traced or transformed, and sizes that the tiles do not take go to
    transformers' `sdpa_attention_forward`; what has tangents, to its plain formula. The gradients' gradients are those
    of that formula.
    """
    plain = attention_mask is None and not dropout and all(_is_absent(kwargs.get(name)) for name in OTHERS)
    if plain and not _is_traced() and (torch.compiler.is_compiling() or not is_transformed()):
        causal = getattr(module, "is_causal", True) if is_causal is None else is_causal
        scale = query.shape[-1] ** -0.5 if scaling is None else scaling
        q, k, v = _cast(query, key, value)
        if scale > 0 and attends(q, k, v):
            if torch.compiler.is_compiling():  # the operator's own gradient, which has none
                return attention(q, k, v, causal=bool(causal) and q.shape[2] > 1, scale=float(scale))[0], None
            out: Tensor = _Attention.apply(q, k, v, bool(causal) and q.shape[2] > 1, float(scale))  # type: ignore[assignment]  # apply is untyped
            return out, None
    # Of SDPA's ways only the plain formula has a forward derivative.
    with sdpa_kernel(SDPBackend.MATH) if has_tangent(query, key, value) else nullcontext():
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, is_causal=is_causal, **kwargs
        )


AttentionInterface.register(NAME, attention_forward)
AttentionMaskInterface.register(NAME, sdpa_mask)


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, causal: bool, scale: float) -> Tensor:
        out, norms = attention(q, k, v, causal=causal, scale=scale)
        ctx.save_for_backward(q, k, v, out, norms)
        ctx.causal, ctx.scale = causal, scale
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        refuse_tangent(grad)
        q, k, v, out, norms = ctx.saved_tensors
        # With gradients on, somebody will differentiate this too.
        grads = (
            _differentiable_backward(grad, (q, k, v), ctx.needs_input_grad, causal=ctx.causal, scale=ctx.scale)
            if torch.is_grad_enabled()
            else attention_backward(grad, q, k, v, out, norms, causal=ctx.causal, scale=ctx.scale)
        )
        return *grads, None, None


def _differentiable_backward(
    grad: Tensor, operands: tuple[Tensor, ...], needed: tuple[bool, ...], *, causal: bool, scale: float
) -> list[Tensor | None]:
    q, k, v = operands
    with sdpa_kernel(SDPBackend.MATH):
        out = scaled_dot_product_attention(q, k, v, is_causal=causal, scale=scale, enable_gqa=True)
    wanted = [x for x, need in zip(operands, needed, strict=False) if need]
    grads = iter(torch.autograd.grad(out.transpose(1, 2), wanted, grad, create_graph=True))
    return [next(grads) if need else None for _, need in zip(operands, needed, strict=False)]


def _is_absent(argument: Any) -> bool:
    return argument is None or argument is False


def _is_traced() -> bool:
    """Whether torch.export or torch.jit follow these lines now; torch.compile may."""
    return torch.compiler.is_exporting() or torch.jit.is_tracing()  # type: ignore[reportPrivateImportUsage]  # transformers asks it too


def _cast(*operands: Tensor) -> tuple[Tensor, ...]:
    """What autocast makes of the operands of SDPA."""
    dtype = autocast_dtype(*operands)
    return operands if dtype is None else tuple(operand.to(dtype) for operand in operands)


def _is_open(model: PreTrainedModel) -> bool:
    """Whether this model's attention is SDPA by its configuration, and nothing in its own file asks for that name."""
    if model.config._attn_implementation != "sdpa" or not model._can_set_attn_implementation():
        return False
    return '"sdpa"' not in inspect.getsource(sys.modules[type(model).__module__])
