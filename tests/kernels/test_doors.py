"""Doors: sums of codes are exact whatever operator computes them, and private operators may vanish."""

from collections.abc import Callable
from itertools import product
from pathlib import Path

import pytest
import torch
from torch import Tensor

from pennyweight.kernels import Codes, doctor, doors, float8_product, int8_product, is_differentiating, multiply

HOUSE = Path(__file__).parents[2] / "src" / "pennyweight"
SIZES = [(1, 1, 1), (1, 7, 3), (17, 13, 11), (64, 32, 16), (5, 1024, 2), (3, 1025, 4), (0, 5, 3), (3, 0, 4), (3, 5, 0)]


def codes(rows: int, columns: int, seed: int) -> Tensor:
    return torch.randint(-128, 128, (rows, columns), generator=torch.Generator().manual_seed(seed)).to(torch.int8)


@pytest.fixture(params=["private operators", "public operators"])
def operators(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "public operators":
        monkeypatch.delattr(torch, "_int_mm", raising=False)
        monkeypatch.delattr(torch, "_scaled_mm", raising=False)


@pytest.mark.usefixtures("operators")
@pytest.mark.parametrize(("m", "k", "n"), SIZES)
def test_int8_products_are_exact(m: int, k: int, n: int) -> None:
    a, b = codes(m, k, 1), codes(n, k, 2)
    assert torch.equal(int8_product(a, b).long(), a.long() @ b.long().T)


LAYOUTS: dict[str, Callable[[int, int], Tensor]] = {
    "rows": lambda rows, columns: codes(rows, columns, 1),
    "columns": lambda rows, columns: codes(columns, rows, 1).T,
    "every other": lambda rows, columns: codes(rows, 2 * columns, 1)[:, ::2],
    "a part": lambda rows, columns: codes(rows, columns + 3, 1)[:, :columns],
    "a part of columns": lambda rows, columns: codes(columns, rows + 3, 1)[:, :rows].T,
    "one row": lambda rows, columns: codes(1, columns, 1).expand(rows, columns),
    "one column": lambda rows, columns: codes(rows, 1, 1).expand(rows, columns),
}


@pytest.mark.usefixtures("operators")
@pytest.mark.parametrize("left", LAYOUTS)
@pytest.mark.parametrize("right", LAYOUTS)
def test_operands_may_lie_in_any_order(left: str, right: str) -> None:
    # One row or one column may have strides (1, 1): torch 2.13's own operator then sums the wrong numbers on a CPU.
    for m, k, n in product((1, 2, 5, 18), repeat=3):
        a, b = LAYOUTS[left](m, k), LAYOUTS[right](n, k)
        assert torch.equal(int8_product(a, b).long(), a.long() @ b.long().T), (m, k, n)


@pytest.mark.usefixtures("operators")
@pytest.mark.parametrize("terms", [131_071, 131_072, 140_000, 262_143])
def test_sums_too_long_for_int32_do_not_overflow(terms: int) -> None:
    a = torch.full((2, terms), -128, dtype=torch.int8)
    a[1] = 127
    expected = torch.tensor([[16384, -16256], [-16256, 16129]]) * terms
    assert torch.equal(int8_product(a, a).long(), expected)


@pytest.mark.usefixtures("operators")
@pytest.mark.parametrize("kind", [torch.float8_e4m3fn, torch.float8_e5m2])
@pytest.mark.parametrize(("m", "k", "n"), [(4, 8, 3), (1, 5, 1), (0, 5, 3), (3, 0, 2)])
def test_float8_products_sum_in_float32(kind: torch.dtype, m: int, k: int, n: int) -> None:
    generator = torch.Generator().manual_seed(3)
    a, b = (torch.randn(rows, k, generator=generator).to(kind) for rows in (m, n))
    expected = a.double() @ b.double().T
    bound = 1e-6 * (a.double().abs() @ b.double().abs().T)  # 1e-6: a few float32 roundings of the partial sums
    assert ((float8_product(a, b).double() - expected).abs() <= bound).all()


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("scaled", ["rows", "tensor", "no"])
def test_a_float8_product_with_scales_is_rounded_once(bias: bool, scaled: str, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(3)
    a, b = (torch.randn(rows, 64, generator=generator).to(torch.float8_e4m3fn) for rows in (32, 48))
    row, add = torch.rand(32, 1) + 0.1, torch.randn(48).bfloat16().float()
    column = {"rows": torch.rand(48, 1) + 0.1, "tensor": torch.tensor([[0.3]]), "no": None}[scaled]
    taken: list[bool] = []
    monkeypatch.setattr(doors, "float8_is_linear", lambda *operands: taken.append(True) or True)
    y = multiply(Codes(a, row), Codes(b, column), bias=add if bias else None, dtype=torch.bfloat16)
    expected = (a.double() * row) @ (b.double() * (1 if column is None else column)).T + (add if bias else 0)
    assert taken == [True]
    torch.testing.assert_close(y.double(), expected, rtol=2.0**-7, atol=1e-4)  # 2^-7: to bfloat16, twice with a bias


def test_a_cpu_multiplies_no_float8_with_row_scales() -> None:
    a = torch.ones(16, 16).to(torch.float8_e4m3fn)
    assert not doors.float8_is_linear(a, a)


@pytest.mark.parametrize("shape", [(1, 5), (16, 16), (17, 33)])
def test_float8_codes_are_filled_up_with_zeros(shape: tuple[int, int]) -> None:
    codes = torch.randn(shape).to(torch.float8_e5m2)
    filled = doors._padded(codes, 16, 16)
    assert [size % 16 for size in filled.shape] == [0, 0]
    assert torch.equal(filled.float()[: shape[0], : shape[1]], codes.float())
    assert float(filled.float().abs().sum()) == float(codes.float().abs().sum())


def test_the_doctor_names_the_door_of_each_operation() -> None:
    lines = {line.operation: line for line in doctor()}
    assert lines["int8 product"].door == "torch._int_mm"
    assert lines["float8 product"].door == ("torch._scaled_mm" if doors.float8_is_fast() else "emulated")


def test_the_doctor_says_what_stands_in_for_a_missing_operator(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch, "_int_mm")
    monkeypatch.delattr(torch, "_scaled_mm")
    lines = {line.operation: line for line in doctor()}
    assert "float32" in lines["int8 product"].door
    assert "no torch._scaled_mm" in lines["float8 product"].why


def test_private_operators_are_looked_up_in_one_file() -> None:
    naming = [p.name for p in HOUSE.rglob("*.py") if any(word in p.read_text() for word in ("_int_mm", "_scaled_mm"))]
    assert naming == ["doors.py"]


def test_a_gradient_that_is_being_computed_is_noticed_and_nothing_breaks_without_torchs_word(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[bool] = []
    x = torch.ones(2, requires_grad=True)
    x.register_hook(lambda grad: seen.append(is_differentiating()))
    (x * 2).sum().backward()
    assert seen == [True]
    assert not is_differentiating()
    monkeypatch.delattr(torch._C, "_current_graph_task_id")
    assert not is_differentiating()
