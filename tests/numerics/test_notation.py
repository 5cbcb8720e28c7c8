"""A cast is a short text, the text is a cast, and a wrong word gets the right one."""

from itertools import product
from typing import Any

import pytest

from pennyweight.numerics import Cast, Hadamard, Scale, cast, format
from pennyweight.numerics.formats import FORMATS


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("int8/row", Cast(format("int8"), Scale("row"))),
        ("int8/tensor", Cast(format("int8"), Scale("tensor"))),
        ("int8/column", Cast(format("int8"), Scale("column"))),
        ("int4/block32/stochastic/hadamard32", Cast(format("int4"), Scale("block", 32), "stochastic", Hadamard(32))),
        ("e2m1/nv", Cast(format("e2m1"), Scale("block", 16, "e4m3"))),
        ("e2m1/nv-up/stochastic", Cast(format("e2m1"), Scale("block", 16, "e4m3", "up"), "stochastic")),
        ("e2m1/mx", Cast(format("e2m1"), Scale("block", 32, "e8m0"))),
        ("e4m3/mx-rceil", Cast(format("e4m3"), Scale("block", 32, "e8m0", "rceil"))),
        ("int8/square32", Cast(format("int8"), Scale("square", 32))),
        ("log8/block256", Cast(format("log8"), Scale("block", 256))),
        ("dynamic8/block256", Cast(format("dynamic8"), Scale("block", 256))),
        ("uint8/row", Cast(format("uint8"), Scale("row"))),
        ("nf4/block64", Cast(format("nf4"), Scale("block", 64))),
        ("ternary/tensor", Cast(format("ternary"), Scale("tensor"))),
        ("int8/row/published", Cast(format("int8"), Scale("row", floor=1e-5, arithmetic="given"))),
        ("int8/row/published-1e-09", Cast(format("int8"), Scale("row", floor=1e-9, arithmetic="given"))),
        ("int6/row/pow2", Cast(format("int6"), Scale("row", number="pow2"))),
        ("e2m1/block64/e8m0-even", Cast(format("e2m1"), Scale("block", 64, "e8m0", "even"))),
        ("e2m1/square16/e4m3", Cast(format("e2m1"), Scale("square", 16, "e4m3"))),
        ("e4m3/tensor/unit", Cast(format("e4m3"), Scale("tensor", number="one"))),
        ("bf16", Cast(format("bf16"), Scale("tensor", number="one"))),
        ("bf16/row/unit", Cast(format("bf16"), Scale("row", number="one"))),
        ("mxint8/row/fp32", Cast(format("mxint8"), Scale("row"))),
        ("mxint8/row/e8m0", Cast(format("mxint8"), Scale("row", number="e8m0"))),
        ("int8/row/floor-1e-08", Cast(format("int8"), Scale("row", floor=1e-8))),
        ("int8/row/published-0.1234567", Cast(format("int8"), Scale("row", floor=0.1234567, arithmetic="given"))),
    ],
)
def test_a_text_names_a_cast_and_a_cast_says_its_text(text: str, expected: Cast) -> None:
    assert cast(text) == expected
    assert str(cast(text)) == text
    assert hash(cast(text)) == hash(expected)


def every_scale() -> list[Scale]:
    """Scales of every granularity, number, mode, floor and arithmetic that may be built."""
    places = [("tensor", None), ("row", None), ("column", None)]
    places += [(one, size) for one in ("block", "square") for size in (1, 16, 32, 48, 64, 256)]
    numbers = [("fp32", None), ("pow2", None), ("one", None), ("e4m3", None), ("e4m3", "up"), ("e4m3", "nearest")]
    numbers += [("e8m0", mode) for mode in (None, "floor", "even", "ceil", "rceil")]
    floors = (0.0, 1e-5, 1e-9, 1.2345678e-5, 0.5, 1)
    several: Any = product(places, numbers, floors, ("float32", "given"))
    return [Scale(*place, *number, floor, arithmetic) for place, number, floor, arithmetic in several]


@pytest.mark.parametrize("name", FORMATS)
def test_every_cast_that_can_be_built_reads_back_from_its_text(name: str) -> None:
    built = 0
    for scale in every_scale():
        for rounding, rotation in (("nearest", None), ("stochastic", Hadamard(16)), ("stochastic", None)):
            try:
                made = Cast(format(name), scale, rounding, rotation)  # type: ignore[arg-type]
            except ValueError:
                continue
            assert cast(str(made)) == made, str(made)
            built += 1
    assert built > 100


@pytest.mark.parametrize(
    ("short", "long"),
    [
        ("int8", "int8/row"),
        ("e4m3", "e4m3/row"),
        ("log8", "log8/block256"),
        ("log4", "log4/block128"),
        ("dynamic8", "dynamic8/block256"),
        ("udynamic4", "udynamic4/block128"),
        ("dynamic_sym4", "dynamic_sym4/block128"),
        ("expand_e4m3", "expand_e4m3/block128"),
        ("nf4", "nf4/block64"),
        ("ternary", "ternary/tensor"),
        ("mxint8", "mxint8/mx"),
        ("int8/stochastic/row", "int8/row/stochastic"),
        ("int8/row/nearest", "int8/row"),
        ("e2m1/block32/e8m0-ceil", "e2m1/mx-ceil"),
        ("int8/row/published-1e-5", "int8/row/published"),
    ],
)
def test_what_is_not_said_is_as_usual(short: str, long: str) -> None:
    assert str(cast(short)) == long


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("int8/colum", "no word 'colum'; did you mean 'column'"),
        ("int8/row/stocastic", "did you mean 'stochastic'"),
        ("int4/blok32", "did you mean 'block32'"),
        ("int4/block", "no word 'block'; did you mean 'block32'"),
        ("int9/row", "2 to 8 bits"),
        ("int1/row", "ternary"),
        ("in8/row", "did you mean 'int8'"),
        ("e4m3fnuz/row", "fnuz"),
        ("int4/block0", "block of 1 or more elements, got 0"),
        ("int4/row/hadamard48", "power of two as its size, got 48"),
        ("e2m1/mx-round", "has no mode 'round'; known: floor, even, ceil, rceil"),
        ("e2m1/nv-floor", "has no mode 'floor'; known: nearest, up"),
        ("int8/row/published-small", "wants a number after 'published-', got 'small'"),
        ("int8/row/floor", "wants a number after 'floor-', got ''"),
        ("e4m3/row/published", "published arithmetic rounds whole numbers"),
        ("", "no format is called ''"),
    ],
)
def test_a_wrong_word_gets_the_right_one(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        cast(text)
