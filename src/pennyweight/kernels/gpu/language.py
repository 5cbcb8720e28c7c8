"""Language: Triton, in the one file that imports it; TRITON_INTERPRET=1 runs the kernels on CPU tensors, for tests."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

# Any: inside a kernel these names are the compiler's, whose types a checker of Python cannot follow.
tl: Any = import_module("triton.language")
jit: Any = import_module("triton").jit
if TYPE_CHECKING:
    from typing import Any as constexpr
else:
    constexpr = tl.constexpr  # the annotation of what a kernel is compiled for


def blocks(size: int, of: int) -> int:
    """How many blocks cover a size."""
    return -(-size // of)


def power_of_two(size: int, *, largest: int) -> int:
    """The power of two that covers a size, or the largest one allowed."""
    return min(largest, 1 << max(0, size - 1).bit_length())
