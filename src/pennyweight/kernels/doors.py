"""Doors: which operator of PyTorch computes a product of codes here, and what stands in when it is missing.

The only file that looks up what is private in torch (`_int_mm`, `_scaled_mm`, two of `_C`). Each is looked up when
it is needed, never at import, so a PyTorch that renames an operator still imports, trains and says so in `doctor()`.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from pennyweight.kernels.compiled import missing

INT32_TERMS = (
    131_071  # 131,071 * (-128) * (-128) = 2^31 - 16,384: one more product of two int8 codes could overflow int32
)
EXACT_FLOAT32_TERMS = 1_024  # 1,024 * 2^14 = 2^24: up to here float32 holds every partial sum of two int8 codes exactly
CUDA_ROWS, CUDA_COLUMNS = 17, 8  # cuBLAS asks for more than 16 rows, and for k and n in multiples of 8


class Door(NamedTuple):
    """One line of `doctor()`: an operation, the operator that computes it on this machine, and why that one."""

    operation: str
    door: str
    why: str


def int8_product(a: Tensor, b: Tensor) -> Tensor:
    """int8 (m, k), int8 (n, k) -> a @ b.T, exact for every k: int32, or int64 where int32 could overflow.

    Any strides, any size, empty ones too. More than 131,071 terms are summed in parts. On a CPU the second operand goes
    in as a transposed view: over the shapes of a GPT-2 layer that was never slower than a contiguous copy together with
    the copying (2048 x 256 x 768: 0.66 against 0.90 ms on two threads).
    """
    terms = a.shape[1]
    if terms <= INT32_TERMS:
        return _int32_product(a, b)
    total = torch.zeros(a.shape[0], b.shape[0], dtype=torch.int64, device=a.device)
    for start in range(0, terms, INT32_TERMS):
        total += _int32_product(a[:, start : start + INT32_TERMS], b[:, start : start + INT32_TERMS])
    return total


def float8_product(a: Tensor, b: Tensor) -> Tensor:
    """float8 (m, k), float8 of the same dtype (n, k) -> a @ b.T in float32, summed in float32."""
    operator = _operator("_scaled_mm")
    if operator is None or 0 in (*a.shape, *b.shape):
        return a.float() @ b.float().T
    one = torch.ones((), device=a.device)
    return operator(a.contiguous(), b.contiguous().T, scale_a=one, scale_b=one, out_dtype=torch.float32)


def float8_is_fast() -> bool:
    """Whether the float8 operator is worth taking: PyTorch's CPU version sums one number at a time.

    2048 x 256 x 1024 took 9.6 s on a CPU that multiplies the decoded values in bfloat16 in 2.7 ms.
    """
    return _operator("_scaled_mm") is not None and torch.cuda.is_available()


def is_differentiating() -> bool:
    """Whether autograd computes gradients on this thread now: a forward pass met here is a recomputation.

    PyTorch says so in no public way. Without its private one the answer is no, and a whole model that is recomputed
    (`torch.utils.checkpoint`) then counts as one more micro-batch.
    """
    task = getattr(torch._C, "_current_graph_task_id", None)
    return task is not None and task() != -1


def is_transformed() -> bool:
    """Whether a transform of torch.func (vmap, grad, jvp ...) runs on this thread now; no, where torch cannot tell."""
    active = getattr(torch._C, "_are_functorch_transforms_active", None)
    return active is not None and active()


def doctor() -> list[Door]:
    """Which door each operation on codes takes on this machine, and why; compiles the C++ kernels if need be."""
    lines = []
    if (why := missing()) is None:
        door = f"{torch.ops.pennyweight.door_name()}, compiled C++"
        lines.append(Door("int8 linear layer", door, "the best that this processor and its compiler have"))
    else:
        lines.append(Door("int8 linear layer", "the operators below", why))
    if _operator("_int_mm") is None:
        why = "this PyTorch has no torch._int_mm; chunks of 1,024 terms are exact in float32"
        lines.append(Door("int8 product", "float32 matmul in chunks", why))
    else:
        lines.append(Door("int8 product", "torch._int_mm", "exact in int32; sums of more than 131,071 terms are split"))
    if _operator("_scaled_mm") is None:
        why = "this PyTorch has no torch._scaled_mm; the decoded values are multiplied"
        lines.append(Door("float8 product", "emulated", why))
    elif float8_is_fast():
        lines.append(Door("float8 product", "torch._scaled_mm", "a GPU is here"))
    else:
        why = "torch._scaled_mm is exact on a CPU but sums one number at a time; taken only when a recipe says real"
        lines.append(Door("float8 product", "emulated", why))
    return lines


def _operator(name: str) -> Callable[..., Tensor] | None:
    return getattr(torch, name, None)


def _int32_product(a: Tensor, b: Tensor) -> Tensor:
    """At most 131,071 terms, so int32 holds the sums."""
    operator = _operator("_int_mm")
    if operator is None:
        return _public_int32_product(a, b)
    if a.is_cuda:
        return _padded_int32_product(operator, a, b)
    return operator(_clear(a), _clear(b.T))


def _clear(x: Tensor) -> Tensor:
    """x, copied where its strides leave open which dimension is the leading one.

    torch 2.13's `_int_mm` silently gives wrong sums on a CPU for such operands: strides (1, 1), which one row or one
    column may have, and strides of 0.
    """
    rows, columns = x.shape
    by_rows = x.stride(1) == 1 and x.stride(0) >= columns
    by_columns = x.stride(0) == 1 and x.stride(1) >= rows > 1
    return x if by_rows or by_columns else x.clone(memory_format=torch.contiguous_format)


def _padded_int32_product(operator: Callable[..., Tensor], a: Tensor, b: Tensor) -> Tensor:
    """A GPU's sizes are met with zero codes, which add nothing to a sum."""
    m, k = a.shape
    n = b.shape[0]
    rows, terms, columns = max(m, CUDA_ROWS), -(-max(k, 1) // CUDA_COLUMNS) * CUDA_COLUMNS, -(-n // CUDA_COLUMNS)
    columns = max(columns, 1) * CUDA_COLUMNS
    a = torch.nn.functional.pad(a, (0, terms - k, 0, rows - m)).contiguous()
    b = torch.nn.functional.pad(b, (0, terms - k, 0, columns - n)).contiguous()
    return operator(a, b.T)[:m, :n]


def _public_int32_product(a: Tensor, b: Tensor) -> Tensor:
    """The same sums through float32 products short enough to be exact."""
    total = torch.zeros(a.shape[0], b.shape[0], dtype=torch.int32, device=a.device)
    for start in range(0, a.shape[1], EXACT_FLOAT32_TERMS):
        stop = start + EXACT_FLOAT32_TERMS
        total += (a[:, start:stop].float() @ b[:, start:stop].float().T).to(torch.int32)
    return total
