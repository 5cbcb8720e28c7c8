"""Notation: what each word means, literally, and what cannot be read."""

import pytest

from pennyweight.recipes import Recipe, recipe

# word -> X, W, G of grad_input, G of grad_weight, right operands of the gradient products, backward, m, v
MEANING = {
    "w8": (None, "int8/row", None, None, None, None, "forward", "fp32", "fp32"),
    "a4": ("int4/row", None, None, None, None, None, "forward", "fp32", "fp32"),
    "g8": (None, None, "int8/row", "int8/row", None, None, "folded", "fp32", "fp32"),
    "w8a8": ("int8/row", "int8/row", None, None, None, None, "forward", "fp32", "fp32"),
    "w8a8g8": ("int8/row", "int8/row", "int8/row", "int8/row", None, None, "folded", "fp32", "fp32"),
    "w8g8": (None, "int8/row", "int8/row", "int8/row", None, None, "folded", "fp32", "fp32"),
    "w2ta2tg3t": ("int2/tensor", "int2/tensor", "int3/tensor", "int3/tensor", None, None, "folded", "fp32", "fp32"),
    "w4b128a4b64g4b32": (
        *("int4/block64", "int4/block128", "int4/block32", "int4/block32", "int4/block128", "int4/block64"),
        *("requantized", "fp32", "fp32"),
    ),
    "w4ca8tg8m8v8": (
        *("int8/tensor", "int4/column", "int8/row", "int8/row", "int4/row", "int8/tensor", "requantized"),
        *("int8/block128", "log8/block256"),
    ),
    "w8q32a8q32g8q32": (
        *("int8/square32", "int8/square32", "int8/square32", "int8/square32", None, None, "forward", "fp32", "fp32"),
    ),
    "we4m3ae4m3ge5m2": ("e4m3/row", "e4m3/row", "e5m2/row", "e5m2/row", None, None, "folded", "fp32", "fp32"),
    "wnf4": (None, "nf4/row", None, None, None, None, "forward", "fp32", "fp32"),
    "wternaryta8": ("int8/row", "ternary/tensor", None, None, None, None, "forward", "fp32", "fp32"),
    "w8a8g8s": (
        "int8/row",
        "int8/row",
        "int8/row/stochastic",
        "int8/row/stochastic",
        None,
        None,
        "folded",
        *2 * ("fp32",),
    ),
    "w8a8g8h": (
        *("int8/row", "int8/row", "int8/row/hadamard32", "int8/row/hadamard32"),
        *("int8/row/hadamard32", "int8/row/hadamard32", "requantized", "fp32", "fp32"),
    ),
    "w4ha4hg4": (
        *("int4/row/hadamard32", "int4/row/hadamard32", "int4/row", "int4/row", "int4/row", "int4/row"),
        *("requantized", "fp32", "fp32"),
    ),
    "we2m1nvae2m1nvge2m1nvs": (
        *("e2m1/nv", "e2m1/nv", "e2m1/nv/stochastic", "e2m1/nv/stochastic", "e2m1/nv", "e2m1/nv"),
        *("requantized", "fp32", "fp32"),
    ),
    "we4m3mxae4m3mxge4m3mxs": (
        *("e4m3/mx", "e4m3/mx", "e4m3/mx/stochastic", "e4m3/mx/stochastic", "e4m3/mx", "e4m3/mx"),
        *("requantized", "fp32", "fp32"),
    ),
}


@pytest.mark.parametrize("word", list(MEANING))
def test_word_means_its_casts(word):
    made = recipe(word)
    casts = made.linear
    assert casts is not None
    meant = (
        casts.output.left,
        casts.output.right,
        casts.grad_input.left,
        casts.grad_weight.left,
        casts.grad_input.right,
        casts.grad_weight.right,
    )
    found = (*(None if c is None else str(c) for c in meant), casts.backward, made.m, made.v)
    assert found == MEANING[word]


@pytest.mark.parametrize(
    ("word", "m", "v"),
    [
        ("m8v8", "int8/block128", "log8/block256"),
        ("m4v4", "dynamic_sym4/block128", "log4/block128"),
        ("m8t", "int8/tensor", "fp32"),
        ("m8b64v4b32", "int8/block64", "log4/block32"),
        ("mdynamic8vlog8", "dynamic8", "log8"),
        ("mdynamic_sym4b64", "dynamic_sym4/block64", "fp32"),
    ],
)
def test_moments_alone_leave_the_layers_plain(word, m, v):
    made = recipe(word)
    assert (made.linear, made.m, made.v) == (None, m, v)


@pytest.mark.parametrize("word", [*MEANING, "m8v8", "w4b32sh", "wternaryt", "m8b64v4b32"])
def test_name_of_a_recipe_is_a_word_for_it(word):
    assert str(recipe(word)) == word
    assert Recipe.from_dict(recipe(word).to_dict()) == recipe(word)


@pytest.mark.parametrize(
    ("said", "name"), [("v8m8g8a8w8", "w8a8g8m8v8"), (" W8A8 ", "w8a8"), ("w08", "w8"), ("w4hsb32", "w4b32sh")]
)
def test_order_case_and_leading_zeros_do_not_matter(said, name):
    assert recipe(said) == recipe(name)
    assert str(recipe(said)) == name


@pytest.mark.parametrize(
    ("word", "words"),
    [
        ("w1", ["w1", "2 to 8 bits", "ternary"]),
        ("w9a8", ["w9", "2 to 8 bits, got 9", "w8a8"]),
        ("m16", ["m16", "2 to 8 bits"]),
        ("w8a8x8", ["'x8'", "letters are w (weights)"]),
        ("w8w4", ["w (weights) twice"]),
        ("w8a8g8g8", ["g (gradients) twice"]),
        ("w8cc", ["w8cc", "one granularity"]),
        ("w8ct", ["w8ct", "one granularity"]),
        ("w8b0", ["w8b0", "at least one element"]),
        ("we4n3", ["'we4n3'", "did you mean 'we4m3'?"]),
        ("w8ae4n3", ["'ae4n3'", "did you mean 'e4m3'?"]),
        ("m6", ["m6", "8 or 4 bits", "did you mean 'm8'?"]),
        ("v5", ["v5", "8 or 4 bits"]),
        ("m8c", ["m8c", "takes the suffixes t and bN, got 'c'"]),
        ("m8s", ["m8s", "got 's'"]),
        ("ve4m3", ["AdamW's v in e4m3", "no zero", "'log8'", "'e4m3-with-zero'"]),
        ("w2a2-contrl", ["'w2a2-control'"]),
        ("w8a8g8 m8", ["' m8'"]),
        ("zzz", ["No recipe is called 'zzz'", "there are fp32, bf16", "notation such as"]),
        ("penny", ["No recipe is called 'penny'; did you mean 'penny8'?"]),
        ("bf15", ["did you mean 'bf16'?"]),
        ("", ["No recipe is called ''"]),
    ],
)
def test_word_that_cannot_be_read_says_so_in_one_sentence(word, words):
    with pytest.raises(ValueError, match="Notation|recipe|Recipe|AdamW") as refusal:
        recipe(word)
    assert all(w in str(refusal.value) for w in words), str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_recipe_of_something_else_than_text_is_a_type_error():
    with pytest.raises(TypeError, match="got int"):
        recipe(8)


def test_recipe_of_a_recipe_is_itself():
    made = recipe("w8a8")
    assert recipe(made) is made


def test_column_scale_of_a_forward_operand_is_noted_and_emulated():
    made = recipe("w8ca8")
    assert any("W has one scale per in channel" in note for note in made.notes)
    assert made.linear is not None
    assert made.linear.way_of("output")[0] == "emulated"


def test_requantizing_for_want_of_folding_is_noted():
    notes = recipe("w4b32a8g8").notes
    assert any("W is cast again" in note and "block scales do not" in note for note in notes)
    assert not any("X is cast again" in note for note in notes)


FORMATS = ("2", "3", "4", "5", "6", "7", "8", "e4m3", "e5m2", "e3m2", "e2m3", "e2m1", "nf4", "ternary", "mxint8")


@pytest.mark.parametrize("letter", "wag")
def test_every_word_of_one_token_is_a_recipe_of_that_name_that_replays(letter):
    for suffixes in ("", "c", "t", "b16", "q8", "mx", "nv", "s", "h", "sh", "csh", "b16h"):
        for written in FORMATS:
            word = letter + written + suffixes
            made = recipe(word)
            assert str(made) == word
            assert Recipe.from_dict(made.to_dict()) == made
            assert all(row["tensor"] for row in made.table())
