"""Which codes can be summed: the legality table, literal, and what keeps a pair of operands apart."""

import pytest

from pennyweight.numerics import cast
from pennyweight.recipes.operands import Operand, pair_problem

# The legality table for out[m, n] = sum_k A[m, k] B[n, k], in the orientation of a tensor as stored ([T, I], [O, I],
# [T, O]): which scales of each operand can leave the sum.
LEGAL = {
    ("output", "X"): {"tensor", "row", "block32", "square32"},
    ("output", "W"): {"tensor", "row", "block32", "square32"},
    ("grad_input", "G"): {"tensor", "row", "block32", "square32"},
    ("grad_input", "W^T"): {"tensor", "column", "square32"},
    ("grad_weight", "G^T"): {"tensor", "column", "square32"},
    ("grad_weight", "X^T"): {"tensor", "column", "square32"},
}
GRANULARITIES = ("tensor", "row", "column", "block32", "square32")


@pytest.mark.parametrize(("product", "tensor"), list(LEGAL))
@pytest.mark.parametrize("granularity", GRANULARITIES)
def test_scale_leaves_the_sum_exactly_where_the_table_says(product, tensor, granularity):
    seen = "transposed" if tensor.endswith("^T") else "cast"
    operand = Operand(tensor, cast(f"int8/{granularity}"), seen)
    assert (operand.problem(product) is None) == (granularity in LEGAL[product, tensor])


@pytest.mark.parametrize("granularity", GRANULARITIES)
def test_folded_codes_always_sum(granularity):
    assert Operand("W^T", cast(f"int8/{granularity}"), "folded").problem("grad_input") is None


def test_problem_names_the_dimension_that_is_summed():
    why = Operand("W^T", cast("int8/row"), "transposed").problem("grad_input")
    assert why == "one scale per out channel of W^T stands inside the sum over out channels"
    why = Operand("X", cast("int8/column")).problem("output")
    assert why == "one scale per in channel of X stands inside the sum over in channels"


def test_operand_reads_in_the_orientation_of_its_product():
    assert Operand("W^T", cast("int8/column"), "transposed").as_read() == cast("int8/row")
    assert Operand("W^T", cast("int8/row"), "folded").as_read() == cast("int8/tensor")
    assert Operand("W", cast("int8/row")).as_read() == cast("int8/row")
    assert Operand("W", None).as_read() is None


@pytest.mark.parametrize(
    ("left", "right", "tensor", "why"),
    [
        ("int8/row", "e4m3/row", "W", "no operator"),
        ("int8/row", "nf4/row", "W", "places in a table"),
        ("log8/row", "int8/row", "X", "places in a table"),
        ("int8/block32", "int8/block48", "W", "do not line up"),
        ("int4/row/hadamard32", "int4/row", "W", "two bases"),
        ("int4/row/hadamard32", "int4/row/hadamard16", "W", "two bases"),
    ],
)
def test_pair_that_cannot_be_summed_names_an_operand_and_says_why(left, right, tensor, why):
    problem = pair_problem(Operand("X", cast(left)), Operand("W", cast(right)), "output")
    assert problem is not None
    assert problem[0].tensor == tensor
    assert why in problem[1]


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("int8/row", "int4/tensor"),
        ("int8/block32", "int8/block64"),
        ("int8/block32", "int8/row"),
        ("int8/row", "e2m1/mx"),
        ("int8/square32", "int8/square32"),
        ("int4/block32/stochastic/hadamard32", "int4/block32/hadamard32"),
        ("ternary/tensor", "int8/row"),
    ],
)
def test_pair_that_can_be_summed_has_no_problem(left, right):
    assert pair_problem(Operand("X", cast(left)), Operand("W", cast(right)), "output") is None
