"""Scales stretch a group as their number and mode say, from the group's largest magnitude."""

import math

import pytest
import torch
from torch import Tensor

from pennyweight.numerics import Cast, Scale, cast, format

A = [1, 1.5, 1.75, 1.9, 2, 3, 5.9, 6, 6.1, 7.9, 8]
E2M1_EXPONENTS = {  # number-formats, section 4: exponent of s for a group maximum of A
    "floor": [-2, -2, -2, -2, -1, -1, 0, 0, 0, 0, 1],
    "even": [-2, -2, -1, -1, -1, -1, 0, 0, 0, 1, 1],
    "ceil": [-2, -1, -1, -1, -1, 0, 1, 1, 1, 1, 1],
    "rceil": [-2, -2, -1, -1, -1, -1, 0, 0, 1, 1, 1],
}


def groups_of(maxima: Tensor, size: int = 32) -> Tensor:
    """One row a group: the maximum, its halves with either sign, zeros."""
    x = torch.zeros(len(maxima), size)
    x[:, 3], x[:, 5], x[:, 9] = maxima, -maxima / 2, maxima / 4
    return x


@pytest.mark.parametrize("mode", E2M1_EXPONENTS)
@pytest.mark.parametrize("factor", [-100, -7, 0, 1, 90])
def test_the_published_exponents(mode: str, factor: int) -> None:
    written = cast(f"e2m1/mx-{mode}").write(groups_of(torch.tensor(A) * 2.0**factor))
    assert written.scales.dtype == torch.uint8
    assert (written.scales.flatten().int() - 127).tolist() == [e + factor for e in E2M1_EXPONENTS[mode]]
    assert written.scale_values().flatten().tolist() == [2.0 ** (e + factor) for e in E2M1_EXPONENTS[mode]]


def test_the_neighbours_of_a_power_and_of_the_largest_value() -> None:
    def beside(value: float) -> list[float]:
        middle = torch.tensor(value)
        return [torch.nextafter(middle, torch.tensor(side)).item() for side in (0.0, math.inf)]

    maxima = torch.tensor([*beside(6.0), *beside(4.0), *beside(1.0)])
    expected = {
        "floor": [0, 0, -1, 0, -3, -2],
        "ceil": [1, 1, 0, 1, -2, -1],
        "rceil": [0, 1, 0, 0, -2, -2],
        "even": [0, 0, 0, 0, -2, -2],
    }
    for mode, exponents in expected.items():
        scales = cast(f"e2m1/mx-{mode}").write(groups_of(maxima)).scales.flatten().int() - 127
        assert scales.tolist() == exponents, mode


@pytest.mark.parametrize("mode", E2M1_EXPONENTS)
@pytest.mark.parametrize("name", ["e2m1", "e4m3", "e5m2", "e3m2", "e2m3", "mxint8"])
def test_e8m0_marks_zeros_and_what_is_not_finite(name: str, mode: str) -> None:
    chosen = cast(f"{name}/mx-{mode}")
    x = groups_of(torch.tensor([0.0, math.inf, math.nan, 1e-40, 1.0]))
    written, read = chosen.write(x), chosen.write(x).read()
    assert written.scales.flatten()[[0, 1, 2, 3]].tolist() == [0, 255, 255, 0]
    assert torch.equal(read[[0, 3]], torch.zeros(2, 32))  # subnormals flush
    assert bool(read[1:3].isnan().all())
    assert bool(read[4].isfinite().all())


def test_e8m0_exponents_clamp_and_their_elements_saturate() -> None:
    x = groups_of(torch.tensor([2e38, 2.0**-125, 2.0**-126]))
    for mode in E2M1_EXPONENTS:
        read = cast(f"e2m1/mx-{mode}")(x)
        assert bool(read.isfinite().all())
        assert (read[:, 3] / x[:, 3] - 1).abs().max() <= 0.34  # 4 for 6 under floor is the worst


def test_exponents_below_the_normal_numbers_are_still_the_least_that_hold() -> None:
    maxima = torch.tensor([1.2, 5.0, 6.0, 7.0]) * 2.0**-126  # a / 6 is subnormal for all but the last two
    scales = cast("e2m1/mx-rceil").write(groups_of(maxima)).scales.flatten()
    assert (scales.int() - 127).tolist() == [-127, -126, -126, -125]


def test_the_largest_value_is_never_passed_by_rceil_and_by_ceil() -> None:
    maxima = torch.logspace(-10, 10, 4001)
    for name in ("e2m1", "e4m3", "e3m2"):
        for mode in ("ceil", "rceil"):
            scales = cast(f"{name}/mx-{mode}").write(groups_of(maxima)).scale_values().flatten()
            assert bool((maxima / scales <= format(name).max).all())
            if mode == "rceil":
                assert bool((maxima / (scales / 2) > format(name).max).all())  # the smallest such power


@pytest.mark.parametrize("name", ["int8", "int4", "e4m3", "e2m1", "dynamic_sym4"])
def test_a_power_of_two_scale_is_the_least_that_does_not_saturate(name: str) -> None:
    maxima = torch.logspace(-20, 20, 2001)
    scales = cast(f"{name}/row/pow2").write(groups_of(maxima)).scale_values().flatten()
    assert torch.equal(scales.frexp().mantissa, torch.full_like(scales, 0.5))
    assert bool((maxima / scales <= format(name).max).all())
    assert bool((maxima / scales > format(name).max / 2).all())


class TestNV:
    """Blocks of 16 with scales in e4m3, under one float32 scale of the tensor (arXiv:2509.25149)."""

    @staticmethod
    def by_the_book(x: Tensor, *, up: bool) -> tuple[Tensor, Tensor, Tensor]:
        """s_t, s_b and x_hat, with torch's own e4m3 and a search over the values of e2m1."""
        s_t = x.abs().max() / (448 * 6)
        blocks = x.view(len(x), -1, 16)
        wanted = (blocks.abs().amax(-1) / 6 / s_t).clamp(2.0**-9, 448)
        table = torch.arange(1, 127).to(torch.uint8).view(torch.float8_e4m3fn).float()
        s_b = wanted.to(torch.float8_e4m3fn).float()
        if up:
            s_b = table[torch.bucketize(wanted, table)]
        s = (s_b * s_t)[..., None]
        values = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6])
        even = torch.tensor([1.0, 0, 1, 0, 1, 0, 1, 0])
        distance = ((blocks / s).clamp(-6, 6).abs()[..., None] - values).abs()
        place = torch.where(distance == distance.min(-1, keepdim=True).values, even + 1, 0.0).argmax(-1)
        return s_t, s_b, (values[place] * blocks.sign() * s).view_as(x)

    @pytest.mark.parametrize("up", [False, True])
    def test_it_is_the_published_formula(self, up: bool) -> None:
        x = torch.randn(64, 128, generator=torch.Generator().manual_seed(0)) * torch.logspace(-4, 2, 64)[:, None]
        s_t, s_b, x_hat = self.by_the_book(x, up=up)
        written = cast("e2m1/nv-up" if up else "e2m1/nv").write(x)
        assert written.extra is not None
        assert written.extra.tolist() == [s_t.item()]
        assert torch.equal(written.scales.view(torch.float8_e4m3fn).float(), s_b)
        assert torch.equal(written.read(), x_hat)

    def test_small_blocks_keep_information_down_to_the_least_e4m3(self) -> None:
        x = torch.zeros(2, 16)
        x[0, 0], x[1, 0] = 1.0, 4.4e-6
        assert cast("e2m1/nv")(x)[1, 0].item() == pytest.approx(4.4e-6, rel=0.01)

    def test_a_block_that_is_not_finite_leaves_the_others_alone(self) -> None:
        x = torch.randn(4, 64)
        x[1, 3], x[2, 40] = math.nan, math.inf
        read = cast("e2m1/nv")(x).view(4, 4, 16)
        bad = torch.zeros(4, 4, 16, dtype=torch.bool)
        bad[1, 0], bad[2, 2] = True, True
        assert torch.equal(read.isnan(), bad)

    @pytest.mark.parametrize("factor", [0.0, 1e-42])
    def test_a_tensor_of_zeros_or_of_subnormals_is_zeros(self, factor: float) -> None:
        x = torch.ones(2, 40) * factor
        assert torch.equal(cast("e2m1/nv")(x), torch.zeros(2, 40))
        assert torch.equal(cast("e2m1/nv/stochastic").write(x, 1).read(), torch.zeros(2, 40))


def test_stochastic_rounding_takes_scales_that_do_not_saturate() -> None:
    assert (cast("e2m1/mx").mode, cast("e2m1/mx/stochastic").mode) == ("even", "rceil")
    assert (cast("e2m1/nv").mode, cast("e2m1/nv/stochastic").mode) == ("nearest", "up")
    assert cast("e2m1/mx-ceil/stochastic").mode == "ceil"
    for text, better in (("mx-floor", "rceil"), ("mx-even", "rceil"), ("nv-nearest", "up")):
        with pytest.raises(ValueError, match=f"biased.*'{better}'"):
            cast(f"e2m1/{text}/stochastic")


@pytest.mark.parametrize("text", ["e2m1/mx/stochastic", "e2m1/nv/stochastic", "e4m3/mx/stochastic"])
def test_the_largest_element_of_a_block_is_unbiased(text: str) -> None:
    chosen = cast(text)
    block = chosen.scale.size
    x = torch.rand(4096, block, generator=torch.Generator().manual_seed(0)) * 0.5
    x[:, 0] = 1 + torch.arange(4096) / 4096
    read = chosen(x.view(64, -1), 7).view(4096, block)
    error = (read[:, 0] - x[:, 0]).double() / x[:, 0]
    assert abs(error.mean()) <= 4.5 * error.std() / 64


def test_a_saturating_scale_would_bias_it() -> None:
    """Why floor is refused: a block maximum between 6 and 8 scale steps is cut to 6."""
    u = torch.rand(20_000, generator=torch.Generator().manual_seed(1))
    a = torch.rand(20_000, generator=torch.Generator().manual_seed(0)).exp2()
    floor = format("e2m1").round(a * 4, u) / 4
    assert (floor / a - 1).mean().item() < -0.02


@pytest.mark.parametrize(
    ("keywords", "said"),
    [
        ({"granularity": "block"}, "wants a block of 1 or more elements, got None"),
        ({"granularity": "square", "block": 0}, "wants a block of 1 or more elements, got 0"),
        ({"granularity": "block", "block": -3}, "got -3"),
        ({"granularity": "row", "block": 32}, "has no block size, got block=32"),
        ({"mode": "floor"}, "fp32 has no mode 'floor'; known: none"),
        ({"number": "e8m0", "mode": "up"}, "known: floor, even, ceil, rceil"),
        ({"number": "e4m3", "mode": "rceil"}, "known: nearest, up"),
        ({"floor": -1.0}, "0 or more, and finite, got -1.0"),
        ({"floor": math.nan}, "0 or more, and finite, got nan"),
        ({"floor": math.inf}, "0 or more, and finite, got inf"),
        ({"granularity": "colum"}, "'column'"),
        ({"number": "fp16"}, "one of fp32, pow2, e8m0, e4m3, one, got 'fp16'"),
        ({"arithmetic": "bf16"}, "one of float32, given, got 'bf16'"),
    ],
)
def test_a_scale_that_means_nothing_is_refused(keywords: dict, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Scale(**keywords)


@pytest.mark.parametrize(
    ("name", "scale", "said"),
    [
        ("uint8", Scale(number="pow2"), "uint8 wants a scale written in fp32"),
        ("log8", Scale("block", 256, "e8m0"), "log8 wants a scale written in fp32"),
        ("bf16", Scale(), "bf16 is written without a scale"),
        ("e2m1", Scale("tensor", number="e4m3"), "rows, blocks and squares, got tensor"),
        ("e4m3", Scale(arithmetic="given"), "published arithmetic rounds whole numbers to nearest, .*, got e4m3"),
        ("mxint8", Scale(arithmetic="given"), "published arithmetic rounds whole numbers .*, got mxint8"),
        ("int8", Scale("block", 32, "e8m0", arithmetic="given"), "scales written in fp32, got int8, nearest, e8m0"),
        ("int8", Scale("tensor", number="one"), "int8 has no code for NaN"),
        ("e2m1", Scale("row", number="one"), "e2m1 has no code for NaN"),
    ],
)
def test_a_format_and_a_scale_that_do_not_fit_are_refused(name: str, scale: Scale, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Cast(format(name), scale)
