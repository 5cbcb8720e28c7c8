"""What the kernels are tested on: the instruction sets, and a linear layer with its three products in float64."""

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

from pennyweight.kernels import compiled
from pennyweight.numerics import cast

DOORS = ("AMX", "AVX-512 VNNI", "AVX-VNNI", "AVX2", "plain C++")


@pytest.fixture
def doors() -> tuple[str, ...]:
    """The names of all doors, those that this processor lacks too."""
    return DOORS


@pytest.fixture(params=DOORS)
def door(request: pytest.FixtureRequest) -> Iterator[str]:
    """A door of this machine, taken for one test."""
    if (why := compiled.missing()) is not None:
        pytest.skip(why)
    ops = torch.ops.pennyweight
    usual = ops.door_name()
    if not ops.take_door(request.param):
        pytest.skip(f"this processor has no {request.param}")
    yield request.param
    ops.take_door(usual)


@pytest.fixture
def case() -> Callable[[tuple[int, int, int], torch.dtype], tuple[Tensor, Tensor, Tensor, Tensor]]:
    """Of a shape (T, I, O): x [T, I], w [O, I], b [O], g [T, O], each matrix with a row or column of zeros."""

    def made(shape: tuple[int, int, int], dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        rows, inputs, outputs = shape
        sizes = ((rows, inputs), (outputs, inputs), (outputs,), (rows, outputs))
        generator = torch.Generator().manual_seed(rows)
        x, w, b, g = (torch.randn(*size, generator=generator) for size in sizes)
        x[rows // 2], w[outputs // 3], g[:, outputs // 2] = 0, 0, 0
        return x.to(dtype), w, b, g.to(dtype)

    return made


@pytest.fixture
def three_products() -> Callable[[Tensor, Tensor, Tensor, Tensor], list[Tensor]]:
    """Y, dX and dW of the codes that the reference writes of x, w and g, in float64."""

    def decoded(x: Tensor) -> tuple[Tensor, Tensor]:
        written = cast("int8/row").write(x)
        return written.codes.double(), written.scales.double()

    def products(x: Tensor, w: Tensor, b: Tensor, g: Tensor) -> list[Tensor]:
        (x_codes, x_scales), (w_codes, w_scales) = decoded(x), decoded(w)
        rows, row_scales = decoded(g.float() * w_scales.T.float())
        columns, column_scales = decoded((g.float() * x_scales.float()).T)
        y = (x_codes * x_scales) @ (w_codes * w_scales).T + b
        return [y, (rows @ w_codes) * row_scales, (columns @ x_codes) * column_scales]

    return products
