"""Operators: what `cpu/operators.cpp` gives a CPU, for a GPU: the same names and arguments, registered with PyTorch.

Imported when the first CUDA tensor wants one of them (door.py).
"""

import torch
from torch import Tensor, library

from pennyweight.kernels.gpu import adamw, rows
from pennyweight.kernels.gpu.columns import turn, write_columns
from pennyweight.kernels.gpu.product import product

SPACE = "pennyweight_gpu"


@library.custom_op(f"{SPACE}::write_rows", mutates_args=())
def write_rows(x: Tensor, fold: Tensor | None, kind: torch.dtype = torch.int8) -> tuple[Tensor, Tensor]:
    """x [R, C], times fold [C] where given -> codes [R, C] in int8 or a float8 dtype, scales [R]."""
    with torch.cuda.device_of(x):
        return rows.write_rows(x, fold, kind)


@write_rows.register_fake
def _write_rows(x: Tensor, fold: Tensor | None, kind: torch.dtype = torch.int8) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape, dtype=kind), x.new_empty(x.shape[:1], dtype=torch.float32)


@library.custom_op(f"{SPACE}::write_turned", mutates_args=())
def write_turned(x: Tensor, fold: Tensor | None) -> tuple[Tensor, Tensor]:
    """x [R, C], times fold [R] where given -> int8 codes [C, R] with one scale for each of their rows, [C]."""
    with torch.cuda.device_of(x):
        codes, scales, _ = write_columns(x, fold, turned=True)
        return codes, scales


@write_turned.register_fake
def _write_turned(x: Tensor, fold: Tensor | None) -> tuple[Tensor, Tensor]:
    return x.new_empty((x.shape[1], x.shape[0]), dtype=torch.int8), x.new_empty(x.shape[1:], dtype=torch.float32)


@library.custom_op(f"{SPACE}::int8_linear", mutates_args=())
def int8_linear(
    codes: Tensor, scales: Tensor, weight: Tensor, turned: bool, bias: Tensor | None, dtype: torch.dtype
) -> Tensor:
    """Codes [T, I], scales [T], weight [O, I] ([I, O] if `turned`), written on the way -> Y [T, O] of `dtype`."""
    with torch.cuda.device_of(codes):
        right, column = write_columns(weight, None, turned=True)[:2] if turned else rows.write_rows(weight, None)
        return product(codes, right, scales, column, bias, dtype)


@int8_linear.register_fake
def _int8_linear(
    codes: Tensor, scales: Tensor, weight: Tensor, turned: bool, bias: Tensor | None, dtype: torch.dtype
) -> Tensor:
    return codes.new_empty((codes.shape[0], weight.shape[1 if turned else 0]), dtype=dtype)


@library.custom_op(f"{SPACE}::int8_linear_backward", mutates_args=())
def int8_linear_backward(
    grad: Tensor, codes: Tensor, scales: Tensor, weight: Tensor, turned: bool, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    """G [T, O] and what the forward pass kept -> dX [T, I] of `dtype`, dW like the weight, the sum of G over T [O]."""
    with torch.cuda.device_of(grad):
        if turned:
            w_IO, w_scales, _ = write_columns(weight, None, turned=False)
        else:
            w_OI, w_scales = rows.write_rows(weight, None)
            w_IO = turn(w_OI)
        g_TO, row = rows.write_rows(grad, w_scales)
        grad_x = product(g_TO, w_IO, row, None, None, dtype)
        g_OT, column, total = write_columns(grad, scales, turned=True)
        x_IT = turn(codes)
        if turned:
            grad_weight = product(x_IT, g_OT, None, column, None, weight.dtype)
        else:
            grad_weight = product(g_OT, x_IT, column, None, None, weight.dtype)
        return grad_x, grad_weight, total


@int8_linear_backward.register_fake
def _int8_linear_backward(
    grad: Tensor, codes: Tensor, scales: Tensor, weight: Tensor, turned: bool, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    grad_x = codes.new_empty(codes.shape, dtype=dtype)
    return grad_x, weight.new_empty(weight.shape), scales.new_empty(grad.shape[1:])


@library.custom_op(
    f"{SPACE}::adamw_step", mutates_args=("weights", "m_codes", "m_scales", "v_codes", "v_scales", "v_spans")
)
def adamw_step(
    weights: Tensor, gradient: Tensor, m_codes: Tensor, m_scales: Tensor, m_block: int,
    v_codes: Tensor, v_scales: Tensor, v_spans: Tensor, v_block: int,
    step: list[float], m_key: int | None, v_key: int | None, start: int,
) -> None:  # fmt: skip
    """One step of AdamW in place on a slice of a parameter and of its written moments."""
    with torch.cuda.device_of(weights):
        adamw.step(
            weights,
            gradient,
            m_codes,
            m_scales,
            m_block,
            v_codes,
            v_scales,
            v_spans,
            v_block,
            step,
            m_key,
            v_key,
            start,
        )


@adamw_step.register_fake
def _adamw_step(
    weights: Tensor, gradient: Tensor, m_codes: Tensor, m_scales: Tensor, m_block: int,
    v_codes: Tensor, v_scales: Tensor, v_spans: Tensor, v_block: int,
    step: list[float], m_key: int | None, v_key: int | None, start: int,
) -> None:  # fmt: skip
    return None


def has_adamw() -> bool:
    """As on a CPU, where not every processor has one."""
    return True
