"""Described: what PyTorch must know of the compiled operators beside their results: shapes, and gradients.

Shapes are for meta tensors and `torch.compile`; gradients make the operators part of autograd's graph.
"""

from typing import Any

import torch
from torch import Tensor, library

from pennyweight.kernels.tangents import refuse_tangent


def describe() -> None:
    """Registers both for the operators of the library that has just been loaded."""
    _linear()
    _activation_functions()
    _attention()
    library.register_fake("pennyweight::adamw_step", lambda *arguments: None)
    library.register_fake("pennyweight::adamw_steps", lambda *arguments: None)
    library.register_fake("pennyweight::adamw_step_on_codes", _counts)


def _counts(codes: Tensor, *rest: object) -> Tensor:
    return codes.new_empty(2, dtype=torch.int64)


def refuse(ctx: Any, *gradients: Tensor) -> tuple[Tensor, ...]:
    """What stands where autograd asks for the derivative of a gradient."""
    raise RuntimeError(
        "the gradients of what Pennyweight's kernels compute have no derivative, so there is no create_graph=True; "
        "take the model before quantize"
    )


def _linear() -> None:
    register_fake = library.register_fake

    @register_fake("pennyweight::write_rows")
    def write_rows(x: Tensor, fold: Tensor | None) -> tuple[Tensor, Tensor]:
        return x.new_empty(x.shape, dtype=torch.int8), x.new_empty(x.shape[:1], dtype=torch.float32)

    @register_fake("pennyweight::read_rows")
    def read_rows(codes: Tensor, scales: Tensor, dtype: torch.dtype) -> Tensor:
        return codes.new_empty(codes.shape, dtype=dtype)

    @register_fake("pennyweight::int8_linear")
    def int8_linear(
        codes: Tensor, scales: Tensor, weight: Tensor, turned: bool, bias: Tensor | None, dtype: torch.dtype,
        weight_scales: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        return codes.new_empty((codes.shape[0], weight.shape[1 if turned else 0]), dtype=dtype)

    @register_fake("pennyweight::int8_linear_backward")
    def int8_linear_backward(
        grad: Tensor, codes: Tensor, scales: Tensor, weight: Tensor, turned: bool, dtype: torch.dtype,
        weight_scales: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
        grad_x = codes.new_empty(codes.shape, dtype=dtype)
        like = weight if weight_scales is None else weight_scales
        return grad_x, like.new_empty(weight.shape), scales.new_empty(grad.shape[1:])

    @register_fake("pennyweight::int8_blocks")
    def int8_blocks(
        codes: Tensor, scales: Tensor, right: Tensor, right_scales: Tensor, block: int, bias: Tensor | None,
        dtype: torch.dtype,
    ) -> Tensor:  # fmt: skip
        return codes.new_empty((codes.shape[0], right.shape[0]), dtype=dtype)

    library.register_autograd("pennyweight::int8_linear_backward", refuse)


def _activation_functions() -> None:
    register_fake, ops = library.register_fake, torch.ops.pennyweight

    @register_fake("pennyweight::activation")
    def activation(x: Tensor, kind: int) -> Tensor:
        return torch.empty_like(x)

    @register_fake("pennyweight::activation_saving")
    def activation_saving(x: Tensor, kind: int) -> tuple[Tensor, Tensor]:
        return torch.empty_like(x), torch.empty_like(x, dtype=torch.uint8)

    @register_fake("pennyweight::activation_backward")
    def activation_backward(grad: Tensor, x: Tensor, kind: int) -> Tensor:
        return torch.empty_like(x)

    @register_fake("pennyweight::times_slopes")
    def times_slopes(grad: Tensor, slopes: Tensor) -> Tensor:
        return torch.empty_like(grad)

    def keep_input(ctx: Any, inputs: tuple[Tensor, int], output: Tensor) -> None:
        ctx.save_for_backward(inputs[0])
        ctx.kind = inputs[1]

    def from_input(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        refuse_tangent(grad)
        return ops.activation_backward(grad.contiguous(), ctx.saved_tensors[0], ctx.kind), None

    def keep_slopes(ctx: Any, inputs: tuple[Tensor, int], output: tuple[Tensor, Tensor]) -> None:
        ctx.save_for_backward(output[1])
        ctx.mark_non_differentiable(output[1])

    def from_slopes(ctx: Any, grad: Tensor, no_grad: Tensor | None) -> tuple[Tensor, None]:
        if torch.is_grad_enabled() and not torch.compiler.is_compiling():
            refuse(ctx, grad)
        refuse_tangent(grad)
        return ops.times_slopes(grad.contiguous(), ctx.saved_tensors[0]), None

    library.register_autograd("pennyweight::activation_backward", refuse)
    library.register_autograd("pennyweight::times_slopes", refuse)
    library.register_autograd("pennyweight::activation", from_input, setup_context=keep_input)
    library.register_autograd("pennyweight::activation_saving", from_slopes, setup_context=keep_slopes)


def _attention() -> None:
    register_fake = library.register_fake

    @register_fake("pennyweight::attention")
    def attention(q: Tensor, k: Tensor, v: Tensor, causal: bool, scale: float) -> tuple[Tensor, Tensor]:
        return _by_rows(q), q.new_empty((2, *q.shape[:3]), dtype=torch.float32)

    @register_fake("pennyweight::attention_backward")
    def attention_backward(
        grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, norms: Tensor, causal: bool, scale: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        return _by_rows(q), _by_rows(k), _by_rows(v)

    def keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        q, k, v, ctx.causal, ctx.scale = inputs
        ctx.save_for_backward(q, k, v, *output)
        ctx.mark_non_differentiable(output[1])

    def gradients(ctx: Any, grad: Tensor, no_grad: Tensor | None) -> tuple[Tensor | None, ...]:
        refuse_tangent(grad)
        q, k, v, out, norms = ctx.saved_tensors
        operator = torch.ops.pennyweight.attention_backward
        grads = operator(grad.contiguous(), q, k, v, out, norms, ctx.causal, ctx.scale)
        return *(x.transpose(1, 2) for x in grads), None, None

    library.register_autograd("pennyweight::attention_backward", refuse)
    library.register_autograd("pennyweight::attention", gradients, setup_context=keep)


def _by_rows(x: Tensor) -> Tensor:
    """Of heads [B, H, T, D]: new numbers [B, T, H, D]."""
    return x.new_empty((x.shape[0], x.shape[2], x.shape[1], x.shape[3]))
