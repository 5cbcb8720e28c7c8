"""Linear casts: what each backward operand is, and which combinations are refused in one sentence."""

import pytest

from pennyweight.kernels import block_sums
from pennyweight.numerics import cast
from pennyweight.recipes import LinearCasts, Operand, Product

ROW = cast("int8/row")
BOTH = Product(ROW, ROW)
G = Product(ROW)
WAYS = ("requantise", "fold", "square blocks", "leave that product in high precision")


def test_no_casts_is_plain_everywhere():
    assert [LinearCasts().way_of(p)[0] for p in ("output", "grad_input", "grad_weight")] == ["plain"] * 3


def test_original_backward_reads_nothing_written():
    casts = LinearCasts(BOTH, grad_weight=G, backward="original")
    assert casts.operands("grad_input") == (Operand("G", None), Operand("W^T", None))
    assert casts.operands("grad_weight") == (Operand("G^T", ROW), Operand("X^T", None))


def test_forward_backward_reads_the_forward_tensors_across():
    casts = LinearCasts(BOTH, backward="forward")
    assert casts.operands("grad_input") == (Operand("G", None), Operand("W^T", ROW, "transposed"))
    assert casts.operands("grad_weight") == (Operand("G^T", None), Operand("X^T", ROW, "transposed"))


def test_requantized_backward_reads_its_own_casts():
    four = cast("int4/block32")
    casts = LinearCasts(BOTH, Product(ROW, four), Product(ROW, None), backward="requantized")
    assert casts.operands("grad_input") == (Operand("G", ROW), Operand("W^T", four))
    assert casts.operands("grad_weight") == (Operand("G^T", ROW), Operand("X^T", None))


def test_folded_backward_reads_the_codes_of_the_forward():
    casts = LinearCasts(BOTH, G, G)
    assert casts.operands("grad_input") == (Operand("G", ROW), Operand("W^T", ROW, "folded"))
    assert casts.operands("grad_weight") == (Operand("G^T", ROW), Operand("X^T", ROW, "folded"))
    assert [casts.way_of(p)[0] for p in ("output", "grad_input", "grad_weight")] == ["real"] * 3


def test_folded_with_one_operand_written_reads_the_other_raw():
    casts = LinearCasts(Product(None, ROW), G, G)
    assert casts.operands("grad_weight")[1] == Operand("X^T", None)
    assert casts.way_of("output") == ("emulated", "X is unwritten, so the product runs in high precision")


def test_way_emulated_is_obeyed():
    assert LinearCasts(BOTH, G, G, way="emulated").way_of("output") == ("emulated", "the recipe asks for it")


def test_blocks_are_real_where_asked_for_and_emulated_where_that_is_faster():
    block = Product(cast("int4/block32"), cast("int4/block32"))
    real = LinearCasts(block, backward="forward", way="real").way_of("output")
    assert real == ("real", "one partial sum per block of 32")
    way, why = LinearCasts(block, backward="forward").way_of("output")
    assert way == "emulated"
    assert why.startswith("possible, but one partial sum a block costs more")


@pytest.mark.parametrize("there", [True, False])
def test_long_blocks_are_real_where_one_operator_sums_them(there: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(block_sums, "pays", lambda block: there and block >= 64)
    wide = Product(cast("int8/block128"), cast("int8/block64"))
    way = LinearCasts(wide, backward="forward").way_of("output")
    assert way[0] == ("real" if there else "emulated")
    assert way[1].startswith("one partial sum per block of 64" if there else "possible, but one partial sum a block")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"backward": "folde"}, ["LinearCasts.backward", "'folde'", "did you mean 'folded'?"]),
        ({"way": "reall"}, ["LinearCasts.way", "did you mean 'real'?"]),
        ({"output": BOTH}, ["grad_input.left is unwritten", "backward='forward'"]),
        ({"output": BOTH, "grad_input": G}, ["grad_weight.left is unwritten", "backward='forward'"]),
        (
            {"output": BOTH, "grad_input": BOTH, "grad_weight": G},
            ["grad_input.right", "only with backward='requantized'"],
        ),
        (
            {"output": Product(ROW, cast("int8/block32")), "grad_input": G, "grad_weight": G},
            ["moves the scales of W", "block scales do not", "backward='requantized'"],
        ),
        (
            {"output": Product(cast("int8/column"), ROW), "grad_input": G, "grad_weight": G},
            ["moves the scales of X", "column scales do not"],
        ),
        (
            {"output": Product(ROW, cast("int8/row/hadamard32")), "grad_input": G, "grad_weight": G},
            ["moves the scales of W", "rotated"],
        ),
        (
            {"output": Product(cast("uint8/row"), ROW), "grad_input": G, "grad_weight": G},
            ["moves the scales of X", "zero points"],
        ),
        ({"output": BOTH, "backward": "forward", "saved": ROW}, ["LinearCasts.saved", "backward='forward'"]),
    ],
)
def test_combination_without_meaning_is_refused(settings, words):
    with pytest.raises(ValueError, match="LinearCasts|backward") as refusal:
        LinearCasts(**settings)
    assert all(word in str(refusal.value) for word in words), str(refusal.value)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("settings", "operand", "why"),
    [
        (
            {"output": Product(cast("int8/column"), ROW)},
            "output.left (X cast int8/column)",
            "inside the sum over in channels",
        ),
        ({"output": Product(ROW, cast("int8/column"))}, "output.right (W cast int8/column)", "inside the sum"),
        (
            {"output": BOTH, "grad_input": G, "grad_weight": G},
            "grad_input.right (W^T cast int8/row)",
            "one scale per out channel of W^T stands inside the sum over out channels",
        ),
        (
            {"output": Product(ROW, cast("int8/tensor")), "grad_input": G, "grad_weight": G},
            "grad_weight.right (X^T cast int8/row)",
            "one scale per token of X^T stands inside the sum over tokens",
        ),
        (
            {
                "output": Product(cast("int8/tensor"), cast("int8/tensor")),
                "grad_weight": Product(cast("int8/column")),
            },
            "grad_weight.left (G^T cast int8/column)",
            "one scale per token of G^T stands inside the sum over tokens",
        ),
    ],
)
def test_real_with_a_scale_inside_the_sum_names_the_operand_and_four_ways_out(settings, operand, why):
    with pytest.raises(ValueError, match="way='real'") as refusal:
        LinearCasts(**settings, backward="forward", way="real")
    assert operand in str(refusal.value)
    assert why in str(refusal.value)
    assert all(way in str(refusal.value) for way in WAYS)


def test_real_with_one_operand_unwritten_is_refused():
    with pytest.raises(ValueError, match="X of the output is unwritten"):
        LinearCasts(Product(None, ROW), backward="forward", way="real")


def test_real_leaves_a_gradient_product_without_written_g_in_high_precision():
    casts = LinearCasts(BOTH, backward="forward", way="real")
    assert casts.way_of("output")[0] == "real"
    assert casts.way_of("grad_input") == ("emulated", "G is unwritten, so the product runs in high precision")


@pytest.mark.parametrize("granularity", ["tensor", "square32"])
def test_real_backward_on_the_forward_codes_is_legal_for_scales_without_direction(granularity):
    written = cast(f"int8/{granularity}")
    casts = LinearCasts(Product(written, written), Product(written), Product(written), backward="forward", way="real")
    assert [casts.way_of(p)[0] for p in ("output", "grad_input", "grad_weight")] == ["real"] * 3


def test_casts_replay_from_their_dictionary():
    casts = LinearCasts(BOTH, Product(ROW, ROW), Product(ROW, None), "requantized", cast("int8/row"), "emulated")
    assert casts.to_dict() == {
        "output": {"left": "int8/row", "right": "int8/row"},
        "grad_input": {"left": "int8/row", "right": "int8/row"},
        "grad_weight": {"left": "int8/row", "right": None},
        "backward": "requantized",
        "saved": "int8/row",
        "way": "emulated",
    }
    assert LinearCasts.from_dict(casts.to_dict()) == casts


def test_unknown_field_offers_the_nearest():
    with pytest.raises(ValueError, match="LinearCasts has no field 'grad_inputs'; did you mean 'grad_input'"):
        LinearCasts.from_dict({"grad_inputs": {}})
    with pytest.raises(ValueError, match="Product has no field 'lef'; did you mean 'left'"):
        LinearCasts.from_dict({"output": {"lef": None}})
