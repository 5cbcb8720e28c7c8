"""What a rescue raises: a few layers, or the component that they share."""

from pennyweight.analysis import Blamed
from pennyweight.recipes import recipe
from pennyweight.training.rescue import rescue, worst

LAYERS = [f"h.{place}" for place in range(8)]


def blamed(measure: str, count: int, score: float = 4.0) -> list[Blamed]:
    return [Blamed(name, score, measure, None, None) for name in LAYERS[:count]]


def test_a_few_layers_are_left_plain() -> None:
    found = rescue(recipe("w8a4tg8"), blamed("x.zero", 4), layers=LAYERS)
    assert found.layers == tuple(LAYERS[:4])
    assert found.raised == "4 layers plain"
    assert found.recipe.choice("h.3")[0] is None
    assert found.recipe.choice("h.4")[0] == recipe("w8a4tg8").linear


def test_what_most_layers_blame_is_a_component() -> None:
    found = rescue(recipe("w8a4tg8"), blamed("x.zero", 5), layers=LAYERS)
    assert (found.layers, found.raised) == ((), "activations int8/row")


def test_a_moment_is_a_component_however_few_blame_it() -> None:
    found = rescue(recipe("paper-v8"), blamed("v.zero", 1), layers=LAYERS)
    assert (found.layers, found.raised) == ((), "v log8/block256")


def test_never_is_more_than_half_of_the_layers_left_plain() -> None:
    found = rescue(recipe("w8a8g8"), blamed("x.zero", 2), layers=LAYERS[:6], spent=2)
    assert len(found.layers) == 2  # 4 of 8
    found = rescue(recipe("w8a8g8"), blamed("x.zero", 2), layers=LAYERS[:5], spent=3)
    assert (found.layers, found.raised) == ((), "activations plain")


def test_what_is_not_written_is_not_blamed() -> None:
    found = rescue(recipe("w8a8"), blamed("gradient.cosine", 8), layers=LAYERS)
    assert found.raised == "activations plain"
    found = rescue(recipe("w8"), blamed("gradient.cosine", 8), layers=LAYERS)
    assert found.raised == "weights plain"


def test_where_nobody_is_blamed_the_narrowest_goes_up() -> None:
    found = rescue(recipe("w8a8g4m8v8"), [], layers=LAYERS)
    assert found.raised == "gradients int8/row"


def test_the_component_that_most_layers_blame_decides() -> None:
    found = rescue(recipe("penny4"), [*blamed("w.db", 2, 9.0), *blamed("g.zero", 7)], layers=LAYERS)
    assert found.raised == "gradients int8/row/stochastic"


def test_of_a_ranking_without_a_break_those_near_the_worst_are_blamed() -> None:
    ranking = [
        Blamed(name, score, "x.db", None, None) for name, score in zip("abcd", (2.0, 1.0, 0.9, -1.0), strict=True)
    ]
    assert [one.layer for one in worst(ranking)] == ["a", "b"]
    assert worst([Blamed("a", -0.5, "x.db", None, None)]) == []
    assert worst([]) == []
