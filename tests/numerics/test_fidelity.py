"""Fidelity is measured as it is defined, and every format keeps what the ladder of the card says."""

import math

import pytest
import torch
from torch import Tensor

from pennyweight.numerics import cast, fidelity
from pennyweight.numerics.fidelity import distinct

KINDS = ("gaussian", "laplace", "t3", "outlier")
# number-formats, section 10: dB of 512 x 768 numbers by kind. Figures that hang on one maximum move by several dB.
LADDER = {
    "bf16": (55.6, 55.6, 55.7, 55.6),
    "fp16": (73.7, 73.7, 73.9, 73.6),
    "int8/tensor": (39.3, 33.6, None, 20.4),
    "int8/row": (42.3, 38.6, None, 27.8),
    "int8/block128": (43.8, 41.0, None, 33.8),
    "int8/block32": (45.5, 43.4, None, 39.3),
    "int8/block16": (46.6, 45.0, None, 42.2),
    "int6/row": (30.1, 26.3, None, 15.6),
    "int6/block32": (33.2, 31.2, None, 27.1),
    "int5/row": (23.8, 20.1, None, 9.7),
    "int5/block32": (26.9, 24.9, None, 21.1),
    "int4/tensor": (14.1, 8.9, None, 4.7),
    "int4/row": (17.2, 13.6, None, 6.0),
    "int4/block128": (18.6, 15.9, None, 11.0),
    "int4/block32": (20.3, 18.4, None, 16.3),
    "int4/block16": (21.4, 19.9, None, 19.1),
    "uint4/row": (18.3, 15.0, None, 7.4),
    "uint4/block32": (21.9, 20.5, None, 19.8),
    "int3/row": (9.8, 6.9, None, 4.8),
    "int3/block32": (12.9, 11.3, None, 13.0),
    "int2/row": (1.4, 1.1, None, 3.7),
    "int2/block32": (3.6, 3.7, None, 7.8),
    "ternary/tensor": (5.8, 4.1, None, 1.5),
    "e4m3/tensor": (31.6, 31.5, 31.6, 31.6),
    "e4m3/row": (31.6, 31.7, 32.5, 33.9),
    "e4m3/block32": (32.4, 33.0, 34.4, 37.2),
    "e5m2/row": (25.6, 25.7, 26.6, 28.0),
    "e3m2/row": (25.6, 25.7, 26.5, 28.0),
    "e2m3/row": (31.1, 29.9, None, 21.2),
    "e2m3/block32": (32.3, 32.4, 32.4, 31.9),
    "e2m1/tensor": (17.6, 13.1, None, 4.8),
    "e2m1/row": (18.9, 16.9, None, 8.2),
    "e2m1/block32": (19.9, 19.8, 19.7, 18.7),
    "e2m1/block16": (20.5, 20.8, 21.3, 21.1),
    "e4m3/mx-floor": (30.7, 30.0, 29.7, 28.9),
    "e4m3/mx-even": (31.2, 30.9, 30.6, 30.2),
    "e4m3/mx-rceil": (31.5, 31.5, 31.5, 31.5),
    "e5m2/mx-rceil": (25.6, 25.6, 25.3, 25.3),
    "e3m2/mx-rceil": (25.6, 25.6, 25.3, 25.3),
    "e2m3/mx-floor": (30.9, 30.3, 29.2, 27.7),
    "e2m3/mx-ceil": (28.8, 27.3, 25.6, 23.4),
    "e2m3/mx-rceil": (31.0, 30.2, 29.1, 27.6),
    "e2m1/mx-floor": (18.8, 17.9, 17.1, 15.8),
    "e2m1/mx-even": (19.0, 18.1, 17.3, 16.1),
    "e2m1/mx-ceil": (16.8, 15.4, 14.4, 14.2),
    "e2m1/mx-rceil": (18.7, 17.6, 16.6, 15.6),
    "e2m1/nv": (20.4, 20.7, 21.0, 20.8),
    "e2m1/nv-up": (20.0, 20.0, 20.2, 19.7),
    "nf4/block64": (20.7, 19.7, None, 16.2),
    "nf4/block128": (20.4, 18.9, None, 13.7),
}
QUICK = (
    *(
        "bf16",
        "int8/row",
        "int4/block32",
        "int4/row",
        "uint4/row",
        "e4m3/row",
        "e2m1/mx-even",
        "e2m1/nv",
        "nf4/block64",
    ),
    *("ternary/tensor", "e2m3/mx-rceil"),
)


def draw(kind: str, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(512, 768, generator=generator, dtype=torch.float64)
    if kind == "laplace":
        u = torch.rand(512, 768, generator=generator, dtype=torch.float64) - 0.5
        x = -u.sign() * torch.log1p(-2 * u.abs())
    if kind == "t3":
        x = x / (torch.randn(3, 512, 768, generator=generator, dtype=torch.float64).square().mean(0)).sqrt()
    if kind == "outlier":
        x[:, [5, 200, 411, 700]] *= 20
    return x.float()


def decibels(x: Tensor, rounded: Tensor) -> float:
    """10 log10(sum x^2 / sum (x - x_hat)^2), without the room's own measure."""
    x, rounded = x.double(), rounded.double()
    return 10 * math.log10(x.square().sum() / (x - rounded).square().sum())


@pytest.mark.parametrize("text", QUICK)
def test_the_ladder_on_gaussian_numbers(text: str) -> None:
    x = draw("gaussian", 0)
    measured = decibels(x, cast(text)(x))
    assert measured == pytest.approx(LADDER[text][0], abs=1.0 if "tensor" in text else 0.3)
    assert fidelity(x, cast(text)).db == pytest.approx(measured, abs=1e-6)


@pytest.mark.long
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("text", LADDER)
def test_the_whole_ladder(text: str, seed: int) -> None:
    for kind, expected in zip(KINDS, LADDER[text], strict=True):
        if expected is None:
            continue
        x = draw(kind, seed)
        # The card: +-0.3 dB, per tensor +-1. Few maxima decide about heavier tails, by row and by where they fall.
        small_blocks = any(word in text for word in ("16", "32", "mx", "nv"))
        coarse = "tensor" in text or kind in ("t3", "outlier") or (kind == "laplace" and not small_blocks)
        band = 0.35 if not coarse else 1.5 if "tensor" in text else 1.0
        assert decibels(x, cast(text)(x)) == pytest.approx(expected, abs=band), kind


def test_more_bits_keep_more() -> None:
    x = draw("gaussian", 0)
    db = [fidelity(x, cast(f"int{bits}/row")).db for bits in (8, 7, 6, 5, 4, 3, 2)]
    assert db == sorted(db, reverse=True)


def test_stochastic_rounding_costs_three_decibels() -> None:
    x = draw("gaussian", 0)
    for name in ("int4", "int8"):
        lost = fidelity(x, cast(f"{name}/row")).db - fidelity(x, cast(f"{name}/row/stochastic"), key=5).db
        assert lost == pytest.approx(3.0, abs=0.15)


def test_a_rotation_pays_for_outliers_under_integers() -> None:
    """number-formats, section 7: four channels x20."""
    x = draw("outlier", 0)
    for text, without, rotated in (("int4/block32", 16.3, 23.0), ("int4/row", 6.0, 15.0), ("e2m1/block32", 18.8, 19.1)):
        assert fidelity(x, cast(text)).db == pytest.approx(without, abs=1.0)
        assert fidelity(x, cast(f"{text}/hadamard32")).db == pytest.approx(rotated, abs=1.0)


def test_a_hand_computation() -> None:
    x = torch.tensor([[7.0, 3.4, -0.4, 0.0]])
    seen = fidelity(x, cast("int4/row"))  # reads 7, 3, 0, 0
    assert seen.db == pytest.approx(10 * math.log10((49 + 11.56 + 0.16) / (0.16 + 0.16)), abs=1e-5)  # float32 input
    assert seen.cosine == pytest.approx((49 + 10.2) / math.sqrt(60.72 * 58), abs=1e-6)
    assert seen.bias == pytest.approx((-0.4 + 0.4) / 10.8, abs=1e-6)
    assert (seen.codes_used, seen.zero_share, seen.saturated_share, seen.nonfinite) == (3, 0.25, 0.0, 0)


def test_saturation_is_counted_and_float_rounding_is_not() -> None:
    x = draw("gaussian", 0)
    assert fidelity(x, cast("int8/row")).saturated_share == 0
    assert fidelity(x, cast("e2m1/mx-floor")).saturated_share == pytest.approx(0.023, abs=0.004)  # the card: 2.3 %
    assert fidelity(x, cast("e4m3/mx-floor")).saturated_share == pytest.approx(0.008, abs=0.003)
    assert fidelity(x, cast("e2m1/nv")).saturated_share == pytest.approx(0.034, abs=0.004)
    assert fidelity(x, cast("e2m1/mx-rceil")).saturated_share == 0
    assert fidelity(x, cast("e2m1/nv-up")).saturated_share == 0
    assert fidelity(x, cast("int4/square32/hadamard16")).saturated_share == 0
    assert fidelity(torch.tensor([500.0, 1.0]), cast("e4m3/tensor/unit")).saturated_share == 0.5


def test_nothing_lost_and_nothing_there() -> None:
    for x in (torch.zeros(3, 4), torch.zeros(0, 4), torch.tensor([[127.0, -3.0]])):
        seen = fidelity(x, cast("int8/row"))
        assert (seen.db, seen.cosine, seen.bias) == (math.inf, pytest.approx(1.0), 0.0)
    assert fidelity(torch.ones(2, 2), torch.zeros(2, 2)).db == 0.0
    assert fidelity(torch.zeros(2, 2), torch.ones(2, 2)).db == -math.inf


def test_what_is_not_finite_is_counted_and_left_out() -> None:
    x = draw("gaussian", 0)
    clean = fidelity(x[1:], cast("int8/row")).db
    x[0, 3], x[0, 5] = math.nan, math.inf
    seen = fidelity(x, cast("int8/row"))
    assert seen.nonfinite == 2
    assert seen.db == pytest.approx(clean, abs=1e-9)


def test_another_shape_is_refused() -> None:
    with pytest.raises(ValueError, match=r"one shape, got \(2, 2\) and \(4,\)"):
        fidelity(torch.ones(2, 2), torch.ones(4))


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8])
def test_distinct_codes_are_counted_without_sorting(dtype: torch.dtype) -> None:
    codes = torch.tensor([[0, 5, 5], [127, 5, 0]], dtype=dtype)
    assert distinct(codes) == 3
    assert distinct(torch.arange(256).to(torch.uint8).view(dtype)) == 256
    assert distinct(torch.tensor([-1, -1, -128], dtype=torch.int8)) == 2
    assert distinct(torch.empty(0, dtype=dtype)) == 0
