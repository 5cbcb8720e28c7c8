"""Formats hold the values their papers and specifications say, and round to them."""

import math

import pytest
import torch
from torch import Tensor

from pennyweight.numerics import format
from pennyweight.numerics.codebooks import Codebook
from pennyweight.numerics.formats import FORMATS

SMALL = [name for name, element in FORMATS.items() if element.bits <= 8]
TABLED = [name for name in SMALL if name not in ("log8", "log4", "expand_e4m3")]
E2M1 = [0, 0.5, 1, 1.5, 2, 3, 4, 6]
E2M3 = [0, .125, .25, .375, .5, .625, .75, .875, 1, 1.125, 1.25, 1.375, 1.5, 1.625, 1.75, 1.875, 2, 2.25, 2.5, 2.75, 3,
        3.25, 3.5, 3.75, 4, 4.5, 5, 5.5, 6, 6.5, 7, 7.5]  # fmt: skip
E3M2 = [0, .0625, .125, .1875, .25, .3125, .375, .4375, .5, .625, .75, .875, 1, 1.25, 1.5, 1.75, 2, 2.5, 3, 3.5, 4, 5,
        6, 7, 8, 10, 12, 14, 16, 20, 24, 28]  # fmt: skip
DYNAMIC4 = [-.8875, -.6625, -.4375, -.2125, -.0775, -.0325, -.0055, 0, .0055, .0325, .0775, .2125, .4375, .6625, .8875,
            1]  # fmt: skip
UDYNAMIC4 = [0, .00325, .00775, .02125, .04375, .06625, .08875, .15625, .26875, .38125, .49375, .60625, .71875, .83125,
             .94375, 1]  # fmt: skip
NF4 = [-1, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
       -0.09105003625154495, 0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
       0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1]  # fmt: skip


def both_signs(magnitudes: list[float]) -> list[float]:
    return [-value for value in reversed(magnitudes[1:])] + magnitudes


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("int2", [-1, 0, 1]),
        ("ternary", [-1, 0, 1]),
        ("int3", [-3, -2, -1, 0, 1, 2, 3]),
        ("int4", [-7, -6, -5, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5, 6, 7]),
        ("int5", list(range(-15, 16))),
        ("int6", list(range(-31, 32))),
        ("int7", list(range(-63, 64))),
        ("int8", list(range(-127, 128))),
        ("uint2", [0, 1, 2, 3]),
        ("uint4", list(range(16))),
        ("uint8", list(range(256))),
        ("mxint8", [code / 64 for code in range(-127, 128)]),
        ("e2m1", both_signs(E2M1)),
        ("e2m3", both_signs(E2M3)),
        ("e3m2", both_signs(E3M2)),
        ("linear_nz4", [k / 16 for k in range(1, 17)]),
        ("sqrt_nz4", [(k / 16) ** 2 for k in range(1, 17)]),
        ("sqrt_nz8", [(k / 256) ** 2 for k in range(1, 257)]),
    ],
)
def test_a_format_holds_exactly_these_values(name: str, values: list[float]) -> None:
    assert list(format(name).values) == values


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("nf4", NF4),
        ("dynamic4", DYNAMIC4),
        ("udynamic4", UDYNAMIC4),
        ("dynamic_sym4", both_signs([0, 0.0055, 0.0325, 0.0775, 0.2125, 0.4375, 0.6625, 1])),
        ("log4", [2 ** (-20 * (1 - k / 15)) for k in range(16)]),
    ],
)
def test_a_codebook_holds_these_values_in_float32(name: str, values: list[float]) -> None:
    assert list(format(name).values) == pytest.approx(values, rel=1e-7)  # float32 has 24 bits


def test_the_dynamic_codes_of_8_bits_have_the_published_ends() -> None:
    signed, unsigned = format("dynamic8").values, format("udynamic8").values
    assert (len(signed), len(unsigned), len(format("dynamic_sym8").values)) == (256, 256, 255)
    assert min(value for value in signed if value > 0) == pytest.approx(5.5e-7, rel=1e-6)
    assert (round(signed[0], 4), signed[-1]) == (-0.9930, 1.0)
    assert list(unsigned[:4]) == pytest.approx([0, 3.25e-7, 7.75e-7, 2.125e-6], rel=1e-6)
    assert (round(unsigned[-2], 4), unsigned[-1]) == (0.9965, 1.0)


@pytest.mark.parametrize(("name", "dtype"), [("e4m3", torch.float8_e4m3fn), ("e5m2", torch.float8_e5m2)])
class TestTorchFloat8:
    """e4m3 and e5m2 are torch's own float8."""

    def test_every_code_stands_for_torchs_number(self, name: str, dtype: torch.dtype) -> None:
        codes = torch.arange(256).to(torch.uint8)
        torch.testing.assert_close(
            format(name).decode(codes), codes.view(dtype).float(), rtol=0, atol=0, equal_nan=True
        )

    def test_rounding_is_torchs_cast(self, name: str, dtype: torch.dtype) -> None:
        element, generator = format(name), torch.Generator().manual_seed(0)
        spread = torch.empty(100_000).uniform_(-20, 9, generator=generator).exp2()
        x = spread * torch.randn(100_000, generator=generator)
        values = torch.tensor(element.values)
        x = torch.cat([x, values, (values[1:] + values[:-1]) / 2]).clamp(-element.max, element.max)
        assert torch.equal(element.round(x), x.to(dtype).float())
        assert torch.equal(element.encode(element.round(x)).view(dtype).float(), x.to(dtype).float())

    def test_what_is_too_large_saturates(self, name: str, dtype: torch.dtype) -> None:
        element = format(name)
        x = torch.tensor([element.max * 1.3, -1e30, math.inf, -math.inf])
        assert element.round(x).tolist() == [element.max, -element.max, element.max, -element.max]


@pytest.mark.parametrize("name", ["bf16", "fp16", "fp32"])
def test_the_reference_rungs_are_torchs_dtypes(name: str) -> None:
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}[name]
    x = torch.randn(10_000, generator=torch.Generator().manual_seed(0)) * torch.logspace(-6, 6, 10_000)
    assert torch.equal(format(name).round(x), x.to(dtype).float())
    assert format(name).max == torch.finfo(dtype).max
    assert format(name).encode(x).dtype == dtype


def probes(values: Tensor) -> Tensor:
    """The values, their midpoints, the float32 neighbours of both, and random numbers within and beyond."""
    middles = ((values[1:].double() + values[:-1].double()) / 2).float()
    exact = torch.cat([values, middles])
    near = [exact, torch.nextafter(exact, torch.tensor(math.inf)), torch.nextafter(exact, torch.tensor(-math.inf))]
    random = torch.empty(4000).uniform_(-1.3, 1.3, generator=torch.Generator().manual_seed(0)) * values.abs().max()
    small = random * torch.logspace(-8, 0, 4000)
    return torch.cat([*near, random, small])


def argmin_with_ties_to_even(x: Tensor, values: Tensor, even: Tensor) -> Tensor:
    distance = (x.double()[:, None] - values.double()).abs()
    tied = distance == distance.min(1, keepdim=True).values
    return torch.where(tied, even.double() + 1, 0.0).argmax(1)


@pytest.mark.parametrize("name", TABLED)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_nearest_is_the_argmin_over_the_table_with_ties_to_even(name: str, dtype: torch.dtype) -> None:
    element = format(name)
    values = torch.tensor(element.values)
    place = torch.arange(len(values))
    if not isinstance(element, Codebook):  # sign handled apart: even in the table of non-negative values
        place = place - element.values.index(0.0)
    x = probes(values)
    expected = values[argmin_with_ties_to_even(x, values, place % 2 == 0)]
    assert torch.equal(element.round(x.to(dtype)), expected.to(dtype))


@pytest.mark.parametrize("name", SMALL)
def test_every_value_is_a_fixed_point_of_both_roundings(name: str) -> None:
    element = format(name)
    values = torch.tensor(element.values)
    tolerance = 1e-5 if name in ("log8", "log4", "expand_e4m3") else 0  # powers in float32 over 40 octaves
    for u in (None, torch.zeros_like(values), torch.full_like(values, 1 - 2.0**-24), torch.rand(len(values))):
        torch.testing.assert_close(element.round(values, u), values, rtol=tolerance, atol=0)


@pytest.mark.parametrize("name", SMALL)
def test_every_code_survives_decoding_and_encoding(name: str) -> None:
    element = format(name)
    signed = name.startswith(("int", "ternary", "mxint"))
    count = len(element.values)
    if signed:
        codes = torch.arange(-(count // 2), count // 2 + 1).to(torch.int8)
    else:
        codes = torch.arange(2**element.bits).to(torch.uint8)[: count if name.startswith("dynamic_sym") else None]
    values = element.decode(codes)
    kept = values.isfinite() & ~((values == 0) & (values.signbit()))  # NaN, Inf and -0 have more codes than one
    assert torch.equal(element.encode(values[kept]), codes[kept])
    loose = 4e-6 if name.startswith("log") else 0  # powers of two over 40 octaves, in float32
    assert sorted(set(values[kept].tolist())) == pytest.approx(torch.tensor(element.values).tolist(), rel=loose, abs=0)
    assert len(element.values) == len(set(element.values))


@pytest.mark.parametrize("name", SMALL)
def test_stochastic_rounding_takes_a_neighbour_with_the_chance_of_its_nearness(name: str) -> None:
    element = format(name)
    values = torch.tensor(element.values)
    share = torch.tensor([0.0625, 0.3, 0.5, 0.9])
    lower, upper = values[:-1, None], values[1:, None]
    x = (lower + (upper - lower) * share).flatten()
    lower, upper = lower.expand(-1, 4).flatten(), upper.expand(-1, 4).flatten()
    draws = torch.rand((4000, len(x)), generator=torch.Generator().manual_seed(1))
    rounded = element.round(x.expand(4000, -1).clone(), draws)
    loose = 1e-5 if name in ("log8", "log4", "expand_e4m3") else 0  # powers in float32
    is_lower = (rounded - lower).abs() <= loose * lower.abs()
    is_upper = (rounded - upper).abs() <= loose * upper.abs()
    assert bool((is_lower | is_upper).all())
    p = share.repeat(len(values) - 1)
    # 5.2 standard errors: about a thousand gaps are looked at; 1e-3: the snap of the companding formats
    band = 5.2 * (p * (1 - p) / 4000).sqrt() + (1e-3 if loose else 0)
    assert bool(((is_upper.float().mean(0) - p).abs() <= band).all())


def test_stochastic_rounding_of_integers_is_exact_at_the_largest_noise() -> None:
    x = torch.arange(-127.0, 128)
    assert torch.equal(format("int8").round(x, torch.full_like(x, 1 - 2.0**-24)), x)


@pytest.mark.parametrize("name", SMALL)
def test_nan_stays_nan_and_rounding_changes_no_input(name: str) -> None:
    x = torch.tensor([math.nan, 0.3, -0.2])
    for u in (None, torch.tensor([0.1, 0.5, 0.9])):
        before = x.clone()
        rounded = format(name).round(x, u)
        assert bool(rounded[0].isnan())
        assert bool(rounded[1:].isfinite().all())
        torch.testing.assert_close(x, before, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("name", [n for n in SMALL if FORMATS[n].signed and n not in ("nf4", "dynamic8", "dynamic4")])
def test_rounding_is_odd_and_monotone(name: str) -> None:
    x = torch.linspace(-1.2, 1.2, 5001) * format(name).max
    rounded = format(name).round(x)
    assert torch.equal(format(name).round(-x), -rounded)
    assert bool((rounded.diff() >= 0).all())


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("int9", "2 to 8 bits"),
        ("int0", "2 to 8 bits"),
        ("uint16", "2 to 8 bits"),
        ("int1", "ternary"),
        ("uint1", "ternary"),
        ("e4m3fnuz", "fnuz"),
        ("float8_e5m2fnuz", "fnuz"),
        ("e4m4", "'e4m3'"),
        ("nf5", "'nf4'"),
        ("dinamic8", "'dynamic8'"),
    ],
)
def test_a_wrong_name_gets_the_right_one(name: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        format(name)


@pytest.mark.parametrize(
    "values",
    [(0.0, 0.0, 1.0), (0.5, 0.1, 1.0), (0.0, 0.5), (0.0, math.nan, 1.0), (1.0,), tuple(k / 4 for k in range(5))],
)
def test_a_bad_codebook_is_refused(values: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="codebook"):
        Codebook("mine", values, 2)


def test_a_codebook_too_dense_for_the_tables_is_searched_instead() -> None:
    values = tuple(torch.tensor([0.5 + k * 2.0**-20 for k in range(200)] + [1.0]).tolist())
    element = Codebook("dense", values, 8)
    x = torch.rand(2000) * 2.0**-12 + 0.5
    expected = torch.tensor(values)[argmin_with_ties_to_even(x, torch.tensor(values), torch.arange(201) % 2 == 0)]
    assert torch.equal(element.round(x), expected)
    assert torch.equal(element.round(torch.tensor(values), torch.rand(201)), torch.tensor(values))


def test_formats_know_their_bits_and_whether_small_numbers_become_zero() -> None:
    assert {name: format(name).bits for name in ("int5", "e4m3", "e2m1", "e3m2", "nf4", "ternary", "log4", "bf16")} == {
        "int5": 5, "e4m3": 8, "e2m1": 4, "e3m2": 6, "nf4": 4, "ternary": 2, "log4": 4, "bf16": 16,
    }  # fmt: skip
    zero_free = {name for name in SMALL if not format(name).has_zero}
    assert zero_free == {"log8", "log4", "linear_nz8", "linear_nz4", "sqrt_nz8", "sqrt_nz4", "expand_e4m3"}
