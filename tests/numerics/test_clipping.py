"""Clipping cuts groups where the rule says, never to a larger squared error, and at a share of 1 not at all."""

import pytest
import torch

from pennyweight.numerics import cast, clipped

CASTS = ("int8/row", "int4/row", "int4/tensor", "int4/column", "int4/block32", "int4/square8", "int3/block10",
         "uint4/row", "e2m1/mx", "e2m1/nv", "nf4/block16", "ternary/row", "int4/row/hadamard32",
         "log8/row")  # fmt: skip


def heavy(seed: int, *shape: int) -> torch.Tensor:
    """Numbers with long tails, a row of zeros and rows of very unlike sizes."""
    draw = torch.Generator().manual_seed(seed)
    x = torch.randn(shape, generator=draw) ** 3 * torch.rand(shape[0], 1, generator=draw).exp()
    x[0] = 0
    return x


@pytest.mark.parametrize("name", CASTS)
@pytest.mark.parametrize("seed", range(3))
def test_mse_is_never_worse_than_absmax_in_squared_error(name: str, seed: int) -> None:
    how, x = cast(name), heavy(seed, 24, 70)
    plain = (how(x) - x).double().square().sum()
    cut = (how(clipped(x, how, "mse")) - x).double().square().sum()
    assert cut <= plain
    if name in ("int4/row", "int4/tensor", "int3/block10"):
        assert cut < plain  # tails this long leave something to win


@pytest.mark.parametrize("name", CASTS)
def test_absmax_is_the_tensor_itself(name: str) -> None:
    x = heavy(0, 24, 70)
    assert clipped(x, cast(name), "absmax") is x


def test_mse_of_one_row_is_the_best_of_its_ratios() -> None:
    how, x = cast("int4/row"), heavy(5, 2, 64)[1:]
    top = x.abs().max()
    tried = [x.clamp(-top * (1 - k / 40), top * (1 - k / 40)) for k in range(29)]
    errors = [(how(one) - x).double().square().sum() for one in tried]
    best = min(errors)
    assert min(errors) == (how(clipped(x, how, "mse")) - x).double().square().sum()
    assert best < errors[0]


def test_percentile_keeps_that_many_of_a_group_whole() -> None:
    x = torch.arange(1.0, 2001).view(1, -1)
    cut = clipped(x, cast("int8/row"), "percentile")
    assert cut.max() == 1998  # 99.9 % of 2,000
    assert torch.equal(cut[0, :1998], x[0, :1998])


def test_percentile_leaves_groups_below_a_thousand_numbers_alone() -> None:
    x = heavy(1, 8, 640)
    assert torch.equal(clipped(x, cast("int4/block32"), "percentile"), x)


def test_a_group_that_is_not_finite_stays_as_it_is() -> None:
    x = heavy(2, 4, 32)
    x[1, 3], x[2, 4] = float("nan"), float("inf")
    cut = clipped(x, cast("int4/row"), "mse")
    assert torch.equal(cut[1:3].isfinite(), x[1:3].isfinite())


def test_an_unknown_rule_is_answered_with_the_nearest() -> None:
    with pytest.raises(ValueError, match="'percentil'; did you mean 'percentile'"):
        clipped(torch.ones(2, 2), cast("int4/row"), "percentil")
