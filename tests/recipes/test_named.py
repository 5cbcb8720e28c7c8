"""Named recipes: the table of each, frozen as literal cells."""

from dataclasses import replace

import pytest

from pennyweight.recipes import Recipe, names, recipe

OWN = ["fp32", "bf16", "w8a8", "w8a8g8", "m8v8", "penny8", "penny8k8", "penny8-nomaster", "penny4", "w2a2-control"]
PAPER = [
    *("paper-w8", "paper-w8t", "paper-w4", "paper-w4t", "paper-a8", "paper-a8t", "paper-a4", "paper-a4c", "paper-a4t"),
    *("paper-g8", "paper-g8t", "paper-g4", "paper-w8a8", "paper-w8a8g8"),
    *("paper-m8", "paper-m8t", "paper-m4", "paper-v8"),
]


def cells(made: Recipe, *columns: str) -> list[tuple[str, ...]]:
    return [tuple(row[column] for column in columns) for row in made.table()]


def written(made: Recipe) -> list[tuple[str, ...]]:
    """Tensor, format, granularity up to its colon, rounding, rotation and way of the six operands and the saved X."""
    rows = [r for r in made.table() if r["product"] in ("output", "grad_input", "grad_weight", "saved")]
    keys = ("format", "granularity", "rounding", "rotation", "way")
    return [(r["tensor"].split(" of ")[0], *(r[k].split(":")[0] for k in keys)) for r in rows]


def stored(made: Recipe) -> dict[str, tuple[str, str, str]]:
    rows = [r for r in made.table() if r["product"] in ("stored", "else")]
    return {r["tensor"]: (r["format"], r["granularity"], r["rounding"]) for r in rows}


def test_names_are_all_there():
    assert sorted(names()) == sorted(OWN + PAPER)


@pytest.mark.parametrize("name", OWN + PAPER)
def test_named_recipe_is_a_value_that_replays(name):
    made = recipe(name)
    assert str(made) == name
    assert made == recipe(name)
    assert hash(made) == hash(recipe(name))
    assert Recipe.from_dict(made.to_dict()) == made


@pytest.mark.parametrize(("name", "precision"), [("fp32", "fp32"), ("bf16", "bf16")])
def test_ancestors_write_nothing(name, precision):
    assert cells(recipe(name), "product", "tensor", "format", "way") == [
        ("all", "X, W, G", precision, "plain"),
        ("stored", "stored W", "fp32", "stored"),
        ("stored", "m", "fp32", "stored"),
        ("stored", "v", "fp32", "stored"),
        ("else", "everything else", precision, "plain"),
    ]
    assert recipe(name).notes == []


def test_w8a8_writes_the_forward_and_reads_it_back():
    assert written(recipe("w8a8")) == [
        ("X", "int8", "row", "nearest", "-", "real"),
        ("W", "int8", "row", "nearest", "-", "real"),
        ("G", "bf16", "-", "-", "-", "emulated"),
        ("W^T", "int8", "row", "codes of the forward", "-", "emulated"),
        ("G^T", "bf16", "-", "-", "-", "emulated"),
        ("X^T", "int8", "row", "codes of the forward", "-", "emulated"),
        ("saved X", "int8", "row", "nearest", "-", "stored"),
    ]


FOLDED = [
    ("X", "int8", "row", "nearest", "-", "real"),
    ("W", "int8", "row", "nearest", "-", "real"),
    ("G", "int8", "row", "nearest", "-", "real"),
    ("W^T", "int8", "row", "codes of the forward", "-", "real"),
    ("G^T", "int8", "row", "nearest", "-", "real"),
    ("X^T", "int8", "row", "codes of the forward", "-", "real"),
    ("saved X", "int8", "row", "nearest", "-", "stored"),
]


def test_w8a8g8_folds_the_scales_of_the_forward_into_g():
    assert written(recipe("w8a8g8")) == FOLDED
    assert [g for (g,) in cells(recipe("w8a8g8"), "granularity")][:7] == [
        "row: one scale per token",
        "row: one scale per out channel",
        "row: one scale per token",
        "row: one scale per out channel, folded into G",
        "row: one scale per out channel",
        "row: one scale per token, folded into G",
        "row: one scale per token",
    ]
    assert stored(recipe("w8a8g8"))["m"] == ("fp32", "-", "-")


def test_penny8_is_w8a8g8_with_both_moments_in_8_bits():
    made = recipe("penny8")
    assert written(made) == FOLDED
    assert stored(made) == {
        "stored W": ("fp32", "-", "-"),
        "m": ("int8", "block128", "stochastic"),
        "v": ("log8", "block256", "stochastic"),
        "everything else": ("bf16", "-", "-"),
    }
    assert "The codes of X made in the forward pass are the saved input: no other copy of X is kept." in made.notes
    assert any("Master weights are fp32" in note for note in made.notes)
    assert made.linear == recipe("w8a8g8").linear


def test_penny8_nomaster_is_penny8_whose_linear_weights_are_codes_with_scales_that_stand_still():
    made = recipe("penny8-nomaster")
    assert [row[:2] for row in written(made)] == [row[:2] for row in FOLDED]
    assert all(row[5] in ("real", "stored") for row in written(made))
    granularity = "row: one scale per out channel, pow2 scales"
    assert stored(made) == {**stored(recipe("penny8")), "stored W": ("int8", granularity, "stochastic")}
    assert str(made.weights) == "int8/row/pow2"
    assert not any("Master" in note for note in made.notes)
    assert made.stores(made.linear)
    assert not recipe("penny8").stores(recipe("penny8").linear)
    assert replace(made, linear=None, weights=None, rules=()) == replace(recipe("penny8"), linear=None, name=made.name)


def test_m8v8_writes_the_moments_only():
    made = recipe("m8v8")
    assert made.linear is None
    assert stored(made)["m"] == ("int8", "block128", "stochastic")
    assert stored(made)["v"] == ("log8", "block256", "stochastic")


def test_penny4_is_four_bits_in_all_three_products():
    made = recipe("penny4")
    assert written(made) == [
        ("X", "int4", "blocks of 32 in channels", "nearest", "Hadamard 32", "emulated"),
        ("W", "int4", "blocks of 32 in channels", "nearest", "Hadamard 32", "emulated"),
        ("G", "int4", "blocks of 32 out channels", "stochastic", "Hadamard 32", "emulated"),
        ("W^T", "int4", "blocks of 32 out channels", "nearest", "Hadamard 32", "emulated"),
        ("G^T", "int4", "blocks of 32 tokens", "stochastic", "Hadamard 32", "emulated"),
        ("X^T", "int4", "blocks of 32 tokens", "nearest", "Hadamard 32", "emulated"),
        ("saved X", "bf16", "-", "-", "-", "stored"),
    ]
    assert stored(made)["m"] == ("dynamic_sym4", "block128", "stochastic")
    assert stored(made)["v"] == ("log4", "block128", "stochastic")
    assert made.linear is not None
    assert made.linear.backward == "requantized"
    assert replace(made.linear, way="real").way_of("grad_weight") == ("real", "one partial sum per block of 32")
    assert any("W is cast again" in note and "rotated" in note for note in made.notes)
    assert any("last 15% of the blocks" in note for note in made.notes)


@pytest.mark.parametrize(("blocks", "plain"), [(1, 0), (4, 0), (6, 0), (7, 1), (12, 1), (14, 2), (20, 3), (40, 6)])
def test_penny4_leaves_at_most_15_percent_of_the_blocks_plain(blocks, plain):
    made = recipe("penny4")
    assert made.plain_blocks(blocks) == plain
    left = [b for b in range(blocks) if made.choice(f"h.{b}.mlp", block=b, num_blocks=blocks)[0] is None]
    assert left == list(range(blocks - plain, blocks))


def test_control_has_two_bits_per_tensor():
    assert written(recipe("w2a2-control"))[:4] == [
        ("X", "int2", "tensor", "nearest", "-", "real"),
        ("W", "int2", "tensor", "nearest", "-", "real"),
        ("G", "bf16", "-", "-", "-", "emulated"),
        ("W^T", "int2", "tensor, as in the forward", "codes of the forward", "-", "emulated"),
    ]


# X and W of the output and G^T of the weight gradient; every other operand is unwritten. A row of G [T, O] is a column
# of G^T [O, T].
PUBLISHED = {
    "paper-w8": (None, ("int8", "row"), None),
    "paper-w8t": (None, ("int8", "tensor"), None),
    "paper-w4": (None, ("int4", "row"), None),
    "paper-w4t": (None, ("int4", "tensor"), None),
    "paper-a8": (("int8", "row"), None, None),
    "paper-a8t": (("int8", "tensor"), None, None),
    "paper-a4": (("int4", "row"), None, None),
    "paper-a4c": (("int4", "column"), None, None),
    "paper-a4t": (("int4", "tensor"), None, None),
    "paper-g8": (None, None, ("int8", "column")),
    "paper-g8t": (None, None, ("int8", "tensor")),
    "paper-g4": (None, None, ("int4", "column")),
    "paper-w8a8": (("int8", "row"), ("int8", "row"), None),
    "paper-w8a8g8": (("int8", "row"), ("int8", "row"), ("int8", "column")),
}


@pytest.mark.parametrize("name", list(PUBLISHED))
def test_published_recipe_writes_what_the_published_code_writes(name):
    made = recipe(name)
    casts = made.linear
    assert casts is not None
    assert (casts.backward, made.head, made.last, made.m, made.v) == ("original", True, 0.0, "fp32", "fp32")
    for found, meant, floor in zip(
        (casts.output.left, casts.output.right, casts.grad_weight.left),
        PUBLISHED[name],
        (1e-5, 1e-5, 1e-9),
        strict=True,
    ):
        if meant is None:
            assert found is None
            continue
        assert found is not None
        assert (found.format.name, found.scale.granularity) == meant
        assert (found.scale.floor, found.scale.arithmetic, found.rounding) == (floor, "given", "nearest")
    assert casts.grad_input.left is None
    assert casts.operands("grad_input")[1].cast is None
    assert casts.operands("grad_weight")[1].cast is None
    assert not [r for r in made.table() if r["way"] == "real"]


def test_published_w8a8g8_reads_as_the_card_has_it():
    assert written(recipe("paper-w8a8g8")) == [
        ("X", "int8", "row", "nearest", "-", "emulated"),
        ("W", "int8", "row", "nearest", "-", "emulated"),
        ("G", "bf16", "-", "-", "-", "plain"),
        ("W^T", "bf16", "-", "-", "-", "plain"),
        ("G^T", "int8", "column", "nearest", "-", "emulated"),
        ("X^T", "bf16", "-", "-", "-", "emulated"),
        ("saved X", "bf16", "-", "-", "-", "stored"),
    ]
    granularity = [r["granularity"] for r in recipe("paper-w8a8g8").table() if r["tensor"].startswith("G^T")]
    assert granularity == ["column: one scale per token"]


@pytest.mark.parametrize(
    ("name", "m", "v"),
    [
        ("paper-m8", "int8/row", "fp32"),
        ("paper-m8t", "int8/tensor", "fp32"),
        ("paper-m4", "int4/row", "fp32"),
        ("paper-v8", "fp32", "int8/row-with-zero"),
    ],
)
def test_published_states_are_linear_codes_of_linear_weights(name, m, v):
    made = recipe(name)
    assert (made.m, made.v, made.states, made.state_rounding) == (m, v, "linear", "nearest")
    assert made.linear is not None
    assert not made.linear.writes
    assert cells(made, "layers", "product", "tensor", "format", "rounding")[:3] == [
        ("linear layers and head", "all", "X, W, G", "bf16", "-"),
        ("whole model", "stored", "stored W", "fp32", "-"),
        (
            "converted linear weights" if m != "fp32" else "whole model",
            "stored",
            "m",
            *((m.partition("/")[0], "nearest") if m != "fp32" else ("fp32", "-")),
        ),
    ]
    assert any("linear weights" in note for note in made.notes)


@pytest.mark.parametrize(
    ("asked", "meant"),
    [
        ("wmxfp4", "we2m1mx"),
        ("wnvfp4anvfp4gnvfp4s", "we2m1nvae2m1nvge2m1nvs"),
        ("WFP8afp8", "we4m3ae4m3"),
        ("wint8aint8", "w8a8"),
    ],
)
def test_names_of_formats_from_elsewhere_lead_to_the_notation(asked: str, meant: str) -> None:
    with pytest.raises(ValueError, match=f"did you mean '{meant}'"):
        recipe(asked)
    assert str(recipe(meant)) == meant
