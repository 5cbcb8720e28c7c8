"""Block sums: every instruction set sums scaled blocks within the stated bound of float64, and to the same bits."""

import pytest
import torch
from torch import Tensor, library

from pennyweight.kernels import Codes, block_sums, compiled, doors, multiply
from pennyweight.kernels.block_sums import int8_blocks, pays, takes
from pennyweight.kernels.products import sum_blocks

CASES = [  # rows, terms, columns, terms of a block
    (1, 1, 1, 32),
    (5, 70, 3, 32),
    (64, 128, 64, 64),
    (33, 257, 65, 128),
    (100, 300, 70, 48),
    (300, 130, 33, 16),
    (37, 1300, 40, 600),
    (20, 2048, 35, 256),
]

pytestmark = pytest.mark.skipif(compiled.missing() is not None, reason=str(compiled.missing()))


def case(rows: int, terms: int, columns: int, block: int) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Codes of all 8 bits, -128 too, and their scales; a bias."""
    generator = torch.Generator().manual_seed(terms)
    blocks = -(-terms // block)
    sides = []
    for size in (rows, columns):
        sides.append(torch.randint(-128, 128, (size, terms), generator=generator).to(torch.int8))
        sides.append(torch.rand(size, blocks, generator=generator) + 0.01)
    return *sides, torch.randn(columns, generator=generator) * 1000  # type: ignore[return-value]  # two and two


def exact(a: Tensor, left: Tensor, b: Tensor, right: Tensor, block: int) -> Tensor:
    """The scaled product of each block, [blocks, rows, columns], in float64."""
    parts = []
    for index in range(left.shape[1]):
        place = slice(index * block, (index + 1) * block)
        total = a[:, place].double() @ b[:, place].double().T
        parts.append(total * left[:, index, None].double() * right[:, index].double())
    return torch.stack(parts)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("sizes", CASES)
def test_sums_stay_within_their_bound(door: str, sizes: tuple[int, int, int, int], dtype: torch.dtype) -> None:
    a, left, b, right, bias = case(*sizes)
    y = int8_blocks(a, left, b, right, block=sizes[3], bias=bias, dtype=dtype)
    products = exact(a, left, b, right, sizes[3])
    wanted = products.sum(0) + bias.double()
    bound = (len(products) + 3) * 2.0**-24 * (products.abs().sum(0) + bias.abs())  # the docstring's
    if dtype == torch.bfloat16:
        bound += 2.0**-8 * (wanted.abs() + bound)
    assert y.dtype == dtype
    assert ((y.double() - wanted).abs() <= bound).all()


@pytest.mark.parametrize("sizes", CASES)
def test_every_door_gives_the_same_bits(doors: tuple[str, ...], sizes: tuple[int, int, int, int]) -> None:
    ops, results = torch.ops.pennyweight, []
    usual, (a, left, b, right, bias) = ops.door_name(), case(*sizes)
    for name in doors:
        if ops.take_door(name):
            results.append(int8_blocks(a, left, b, right, block=sizes[3], bias=bias, dtype=torch.float32))
    ops.take_door(usual)
    assert len(results) > 1
    assert all(torch.equal(result, results[0]) for result in results)


def test_the_number_of_threads_changes_no_bit(door: str) -> None:
    a, left, b, right, bias = case(700, 260, 130, 64)
    before, results = torch.get_num_threads(), []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        results.append(int8_blocks(a, left, b, right, block=64, bias=bias, dtype=torch.bfloat16))
    torch.set_num_threads(before)
    assert all(torch.equal(result, results[0]) for result in results)


def test_one_block_is_the_product_with_one_scale_a_row(door: str) -> None:
    a, left, b, right, _ = case(40, 700, 50, 700)
    y = int8_blocks(a, left, b, right, block=700, bias=None, dtype=torch.float32)
    ancestor = torch.ops.pennyweight.int8_linear(a, left.view(-1), b, False, None, torch.float32, right.view(-1))
    assert torch.equal(y, ancestor)


@pytest.mark.parametrize("kind", ["blocks", "a row", "the tensor", "squares", "shorter blocks"])
def test_the_operator_meets_the_loop_over_blocks_whatever_the_other_scales(kind: str) -> None:
    a, left, b, _, bias = case(50, 400, 70, 64)
    shapes = {"blocks": (70, 7), "a row": (70, 1), "the tensor": (1, 1), "squares": (2, 7), "shorter blocks": (70, 13)}
    scales = torch.rand(shapes[kind]) + 0.01
    block = {"a row": None, "the tensor": None, "shorter blocks": 32}.get(kind, 64)
    one, other = Codes(a, left, 64), Codes(b, scales, block, kind == "squares")
    step = block or 64
    assert takes(one.numbers, other.numbers, step, torch.float32)
    wanted = sum_blocks(one, other, step, bias=bias, dtype=torch.float64)
    y = multiply(one, other, bias=bias)
    parts = exact(a, one.block_scales(step), b, other.block_scales(step), step)
    bound = (len(parts) + 3) * 2.0**-24 * (parts.abs().sum(0) + bias.abs())  # the docstring's
    assert ((y.double() - wanted).abs() <= bound).all()


def test_what_is_no_number_stays_in_its_row_and_column(door: str) -> None:
    a, left, b, right, _ = case(40, 300, 50, 128)
    left[3, 1], right[7, 2] = float("nan"), float("inf")
    y = int8_blocks(a, left, b, right, block=128, bias=None, dtype=torch.float32)
    finite = y.isfinite()
    finite[3], finite[:, 7] = True, True
    assert y[3].isnan().all()
    assert not y[:, 7].isfinite().any()
    assert finite.all()


def test_other_numbers_short_blocks_and_empty_matrices_take_the_loop() -> None:
    a = torch.ones(4, 64, dtype=torch.int8)
    assert takes(a, a, 32, torch.float32)
    assert not takes(a, a, 8, torch.float32)
    assert not takes(a, a, 32, torch.float64)
    assert not takes(a[:0], a, 32, torch.float32)
    assert not takes(a.to(torch.float8_e4m3fn), a.to(torch.float8_e4m3fn), 32, torch.float32)


def test_blocks_pay_where_they_are_long_and_no_gpu_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert [pays(block) for block in (16, 32, 64, 128)] == [False, False, True, True]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert not pays(128)


def test_without_the_operators_no_block_pays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(block_sums.operators, "fused", lambda device: None)
    a = torch.ones(4, 64, dtype=torch.int8)
    assert not pays(128)
    assert not takes(a, a, 64, torch.float32)


def test_the_operator_passes_torchs_own_checks() -> None:
    a, left, b, right, bias = case(9, 100, 7, 32)
    for extra in (bias, None):
        library.opcheck(torch.ops.pennyweight.int8_blocks.default, (a, left, b, right, 32, extra, torch.bfloat16))


def test_sums_of_the_largest_codes_are_exact(door: str) -> None:
    terms = doors.INT32_TERMS
    a = torch.full((2, terms), -128, dtype=torch.int8)
    a[1] = 127
    one = torch.ones(2, 1)
    y = int8_blocks(a, one, a, one, block=terms, bias=None, dtype=torch.float32)
    assert torch.equal(y, (torch.tensor([[16384, -16256], [-16256, 16129]]) * terms).float())
