"""States: the words of m and v mean one cast, in the blocks that are usual for its code."""

import pytest

from pennyweight.recipes import state_cast


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("int8", "int8/block128"),
        ("int4", "int4/block128"),
        ("uint8", "uint8/block128"),
        ("dynamic8", "dynamic8/block256"),
        ("dynamic_sym4", "dynamic_sym4/block128"),
        ("e4m3", "e4m3/block256"),
        ("e2m1", "e2m1/block128"),
        ("expand_e4m3", "expand_e4m3/block128"),
        ("int8/block64/nearest", "int8/block64"),
        ("bf16", "bf16"),
    ],
)
def test_a_code_without_a_block_takes_the_usual_one(text: str, name: str) -> None:
    found, written = state_cast(text, "m")
    assert found == name
    assert written is not None
    assert written.rounding == ("nearest" if "nearest" in text else "stochastic")


def test_codes_of_v_that_have_no_zero_take_their_usual_blocks() -> None:
    assert [state_cast(text, "v")[0] for text in ("log8", "log4", "linear_nz4")] == [
        "log8/block256",
        "log4/block128",
        "linear_nz4/block128",
    ]


def test_fp32_needs_no_cast() -> None:
    assert state_cast("fp32") == ("fp32", None)
