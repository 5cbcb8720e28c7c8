"""Recipe: which layer gets what, what is refused, and that a table can be read."""

import json
from dataclasses import FrozenInstanceError, replace

import pytest

from pennyweight.numerics import cast
from pennyweight.recipes import LinearCasts, Product, Recipe, Rule, recipe, unmatched

W8A8 = LinearCasts(Product(cast("int8/row"), cast("int8/row")), backward="forward")
W4 = LinearCasts(Product(None, cast("int4/block32")), backward="forward")
RULED = Recipe("ruled", W8A8, rules=(Rule("*.mlp.*", W4), Rule("h.0.*"), Rule("lm_head", W4)), last=0.5)


@pytest.mark.parametrize(
    ("name", "block", "head", "casts", "why"),
    [
        ("h.0.attn", 0, False, None, "rule 'h.0.*'"),
        ("h.0.mlp.up", 0, False, W4, "rule '*.mlp.*'"),
        ("h.1.attn", 1, False, W8A8, "linear layer"),
        ("h.2.attn", 2, False, None, "ruled leaves the last 2 of 4 blocks plain"),
        ("h.3.mlp.up", 3, False, W4, "rule '*.mlp.*'"),
        ("lm_head", None, True, W4, "rule 'lm_head'"),
        ("score", None, True, None, "ruled leaves the head plain"),
        ("projection", None, False, W8A8, "linear layer"),
    ],
)
def test_first_rule_then_head_then_last_blocks_decide(name, block, head, casts, why):
    assert RULED.choice(name, block=block, num_blocks=4, is_head=head) == (casts, why)


def test_head_is_converted_where_the_recipe_says_so():
    assert replace(RULED, rules=(), head=True).choice("lm_head", is_head=True)[0] == W8A8


def test_plain_recipe_leaves_every_layer():
    assert recipe("bf16").choice("h.0.attn", block=0, num_blocks=4) == (None, "bf16 leaves linear layers plain")


def test_rule_that_matches_nothing_is_an_error_with_the_nearest_name():
    layers = ["h.0.attn", "h.0.mlp.up", "lm_head"]
    assert unmatched(["h.*", "*.mpl.*", "lm_hed"], layers) == ["*.mpl.*", "lm_hed"]
    RULED.check_rules(layers)
    with pytest.raises(ValueError, match=r"rule for 'lm_hed', which no layer matches; did you mean 'lm_head'\?"):
        replace(RULED, rules=(Rule("lm_hed", W4),)).check_rules(layers)
    with pytest.raises(ValueError, match=r"'\*\.mlp\.\*', which no layer matches; the model has no linear layer"):
        RULED.check_rules([])


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"name": ""}, ["Recipe.name"]),
        ({"precision": "fp16"}, ["Recipe.precision", "'fp16'"]),
        ({"last": 1.5}, ["Recipe.last", "1.5"]),
        ({"last": float("nan")}, ["Recipe.last", "nan"]),
        ({"m": "int9"}, ["2 to 8 bits", "got 9"]),
        ({"m": "int8/block"}, ["int8/block"]),
        ({"m": "dynamik8"}, ["'dynamik8'", "'dynamic8'"]),
        ({"v": "int8"}, ["no zero", "'int8-with-zero'"]),
        ({"m": "log8"}, ["m has a sign", "'int8'"]),
        ({"m": "int8/column"}, ["per block, row or tensor", "'int8/column'"]),
        ({"v": "udynamic8"}, ["no zero", "'log8'"]),
        ({"states": "some"}, ["Recipe.states", "'some'"]),
        ({"state_rounding": "neerest"}, ["did you mean 'nearest'?"]),
    ],
)
def test_field_out_of_range_is_refused_in_one_sentence(settings, words):
    with pytest.raises(ValueError, match=r".") as refusal:
        Recipe(**{"name": "r", **settings})
    assert all(word in str(refusal.value) for word in words), str(refusal.value)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("made", "sentence"),
    [
        (lambda: Product("int8/row"), r"Product.left is a cast, cast\('int8/row'\), or None, got 'int8/row'"),
        (lambda: LinearCasts(cast("int8/row")), "LinearCasts.output is a Product of two casts"),
        (lambda: LinearCasts(saved=8), "LinearCasts.saved is a cast"),
        (lambda: Rule(None), "Rule.pattern is a glob"),
        (lambda: Rule("*", "w8a8"), "Rule.linear is the LinearCasts"),
        (lambda: Recipe("r", "w8a8"), "Recipe.linear is the LinearCasts"),
        (lambda: Recipe("r", rules=("mlp",)), "Recipe.rules is a tuple of Rule, got 'mlp'"),
        (lambda: Recipe("r", head=1), "Recipe.head is true or false, got 1"),
        (lambda: Recipe("r", m=8), "Recipe.m is a format as text"),
        (lambda: Recipe("r", last="all"), "Recipe.last is a share of the blocks, got 'all'"),
        (lambda: Recipe("r", last=True), "Recipe.last is a share of the blocks, got True"),
        (lambda: Recipe("r", weights="int8"), "Recipe.weights is a cast"),
        (lambda: Recipe.from_dict({"name": "r", "weights": 8}), "Recipe.weights is a cast as text.* got 8"),
        (lambda: LinearCasts.from_dict({"output": {"left": 8}}), "Product.left is a cast as text"),
        (lambda: Recipe("r", rules=3), "^Recipe.rules is a tuple of Rule, got 3$"),
        (lambda: Recipe.from_dict({"name": "r", "rules": 3}), "^Recipe.rules is a list of rules, got 3$"),
        (lambda: Recipe.from_dict({"name": "r", "rules": None}), "^Recipe.rules is a list of rules, got None$"),
        (lambda: Recipe.from_dict({"name": "r", "rules": [1]}), "^Rule is a mapping of its fields, got 1$"),
        (lambda: Recipe.from_dict({"name": "r", "linear": 5}), "^LinearCasts is a mapping of its fields, got 5$"),
        (lambda: LinearCasts.from_dict({"output": 5}), "^Product is a mapping of its fields, got 5$"),
        (lambda: Recipe.from_dict(5), "^Recipe is a mapping of its fields, got 5$"),
        (lambda: LinearCasts.from_dict({"saved": 8}), "LinearCasts.saved is a cast as text"),
    ],
)
def test_value_of_another_kind_is_a_type_error_in_one_sentence(made, sentence):
    with pytest.raises(TypeError, match=sentence):
        made()


def test_states_of_linear_layers_alone_need_a_linear_layer():
    with pytest.raises(ValueError, match="Recipe.states='linear' writes the states of converted linear layers"):
        Recipe("r", m="int8", states="linear")
    assert Recipe("r", LinearCasts(), m="int8", states="linear").notes == [
        "Only the states of converted linear weights are written; the others are fp32."
    ]
    assert Recipe("r", LinearCasts(), states="linear").notes == []


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"last": 0.5}, r"Recipe.last=0.5 says where linear=LinearCasts\(...\) holds, but linear is None"),
        ({"head": True}, r"Recipe.head=True says where linear=LinearCasts\(...\) holds, but linear is None"),
        ({"state_rounding": "nearest"}, "Recipe.state_rounding='nearest' rounds m, v and stored weights, but m and v"),
    ],
)
def test_a_setting_without_effect_is_refused(settings, sentence):
    with pytest.raises(ValueError, match=f"^{sentence}"):
        Recipe("r", rules=(Rule("*.mlp.*", W4),), **settings)
    assert Recipe("r", W8A8, m="int8", **settings)


def test_rule_without_a_pattern_is_refused():
    with pytest.raises(ValueError, match="Rule.pattern is a glob over module names, got an empty one"):
        Rule("")


@pytest.mark.parametrize(
    "v", ["fp32", "bf16", "log8", "log4/block128", "sqrt_nz8", "linear_nz4", "udynamic8-with-zero"]
)
def test_code_without_zero_or_asked_for_by_name_is_taken_for_v(v):
    assert Recipe("r", v=v).v == v


def test_recipe_replays_from_json():
    made = replace(RULED, weights=cast("int8/row"), m="int8", v="log8", precision="fp32")
    assert Recipe.from_dict(json.loads(json.dumps(made.to_dict()))) == made


def test_unknown_field_offers_the_nearest():
    with pytest.raises(ValueError, match=r"Recipe has no field 'wieghts'; did you mean 'weights'\?"):
        Recipe.from_dict({"name": "r", "wieghts": None})
    with pytest.raises(ValueError, match=r"Rule has no field 'patern'; did you mean 'pattern'\?"):
        Recipe.from_dict({"name": "r", "rules": [{"patern": "*"}]})
    with pytest.raises(ValueError, match="Recipe needs a field 'name'"):
        Recipe.from_dict({})


def test_recipe_is_frozen():
    with pytest.raises(FrozenInstanceError):
        recipe("bf16").name = "x"  # pyright: ignore[reportAttributeAccessIssue]


def test_table_has_a_row_for_every_tensor_of_every_group():
    rows = replace(RULED, v="log8").table()
    assert [(r["layers"], r["product"], r["operand"]) for r in rows] == [
        *(
            (layers, product, operand)
            for layers in ("linear layers, not of the last 50% of the blocks", "*.mlp.*")
            for product, operand in (
                *(("output", "left"), ("output", "right"), ("grad_input", "left"), ("grad_input", "right")),
                *(("grad_weight", "left"), ("grad_weight", "right"), ("saved", "input")),
            )
        ),
        ("h.0.*", "all", "-"),
        *(
            ("lm_head", product, operand)
            for product, operand in (
                *(("output", "left"), ("output", "right"), ("grad_input", "left"), ("grad_input", "right")),
                *(("grad_weight", "left"), ("grad_weight", "right"), ("saved", "input")),
            )
        ),
        ("whole model", "stored", "weights"),
        ("whole model", "stored", "m"),
        ("tensors of 4,096 elements and more", "stored", "v"),
        ("whole model", "else", "-"),
    ]
    assert all(isinstance(cell, str) and cell for r in rows for cell in r.values())


def test_stored_weights_stand_in_the_table():
    made = replace(RULED, weights=cast("int8/row"))
    row = next(r for r in made.table() if r["operand"] == "weights")
    assert (row["format"], row["granularity"], row["why"]) == (
        "int8",
        "row: one scale per out channel",
        "no master copy",
    )
    assert not any("Master" in note for note in made.notes)
    assert row["layers"] == "converted linear weights"


def test_weights_are_stored_of_layers_that_are_converted():
    with pytest.raises(
        ValueError, match="Recipe.weights=int8/row stores the weights of converted linear layers, but it"
    ):
        Recipe("r", weights=cast("int8/row"))
