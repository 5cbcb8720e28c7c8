"""The split: no two documents of different sides share more than half of the smaller one's lines."""

import random
from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pennyweight.data.split import related, split


def line_sets(text: str) -> list[set[str]]:
    lines = [line for line in text.splitlines() if line.strip()]
    return [set(lines), {line.strip() for line in lines}]


def shares_too_much(one: str, other: str) -> bool:
    pairs = zip(line_sets(one), line_sets(other), strict=True)
    return any(len(a & b) > min(len(a), len(b)) / 2 for a, b in pairs)


def components(texts: list[str]) -> set[frozenset[int]]:
    """Brute force: all pairs, then flood."""
    linked = {index: {index} for index in range(len(texts))}
    for one, other in combinations(range(len(texts)), 2):
        if shares_too_much(texts[one], texts[other]):
            linked[one].add(other)
            linked[other].add(one)
    seen: set[frozenset[int]] = set()
    for index in linked:
        reached, edge = {index}, {index}
        while edge:
            edge = set().union(*(linked[node] for node in edge)) - reached
            reached |= edge
        seen.add(frozenset(reached))
    return seen


LINE = st.tuples(st.sampled_from(["", "  "]), st.integers(0, 12)).map(lambda pair: f"{pair[0]}line {pair[1]}")
TEXT = st.lists(LINE, min_size=1, max_size=8).map("\n".join)


@settings(max_examples=200, deadline=None)
@given(st.lists(TEXT, min_size=1, max_size=14))
def test_clusters_are_those_of_brute_force_over_all_pairs(texts: list[str]) -> None:
    assert {frozenset(cluster) for cluster in related(texts)} == components(texts)


@settings(max_examples=100, deadline=None)
@given(st.lists(TEXT, min_size=2, max_size=20), st.floats(0.05, 0.5))
def test_no_pair_across_the_sides_shares_more_than_half_of_its_lines(texts: list[str], validation: float) -> None:
    if len(components(texts)) == 1:
        with pytest.raises(ValueError, match="too short"):
            split(texts, validation)
        return
    parts = split(texts, validation)
    assert sorted([*parts.train, *parts.valid]) == list(range(len(texts)))
    assert parts.train
    assert parts.valid
    assert not any(shares_too_much(texts[one], texts[other]) for one in parts.train for other in parts.valid)


def random_texts(count: int, *, seed: int) -> list[str]:
    rng = random.Random(seed)
    return ["\n".join(f"line {rng.randrange(10**9)}" for _ in range(rng.randint(3, 60))) for _ in range(count)]


def test_larger_random_corpora_with_copies_agree_with_brute_force() -> None:
    rng = random.Random(3)
    common = [f"common {index}" for index in range(20)]
    texts = random_texts(150, seed=1)
    for _ in range(100):  # a document that takes a random part of another, and some lines that stand everywhere
        lines = rng.choice(texts).split("\n")
        own = [f"own {rng.random()}" for _ in range(rng.randint(0, 10))]
        texts.append("\n".join([*rng.sample(lines, rng.randint(1, len(lines))), *own, *rng.sample(common, 3)]))
    expected = components(texts)
    assert 2 < len(expected) < len(texts)
    assert {frozenset(cluster) for cluster in related(texts)} == expected


def test_exactly_half_of_the_lines_is_not_more_than_half() -> None:
    assert len(related(["a\nb\nc\nd", "a\nb\nx\ny\nz"])) == 2
    assert len(related(["a\nb\nc\nd", "a\nb\nc\ny\nz"])) == 1


def test_repeated_and_blank_lines_do_not_count() -> None:
    assert len(related(["a\na\na\n\n \nb", "a\nx"])) == 2
    assert len(related(["\n\n", "\n \n"])) == 2


def test_documents_linked_by_a_chain_stay_together() -> None:
    assert sorted(related(["a\nb\nc", "b\nc\nd", "c\nd\ne", "x"])) == [(0, 1, 2), (3,)]


def test_the_share_is_held_within_a_tenth_where_documents_are_small() -> None:
    texts = random_texts(1000, seed=0)
    sizes = [len(text) for text in texts]
    for validation in (0.02, 0.05, 0.2):
        held = sum(sizes[index] for index in split(texts, validation).valid) / sum(sizes)
        assert abs(held - validation) <= 0.1 * validation + max(sizes) / sum(sizes)


def test_the_sides_depend_on_the_contents_and_not_on_their_order() -> None:
    texts = random_texts(200, seed=5)
    shuffled = random.Random(1).sample(texts, len(texts))
    sides = [[given[index] for index in split(given, 0.1).valid] for given in (texts, shuffled)]
    assert sides[0] == sides[1]


def test_a_document_that_is_added_moves_few_others() -> None:
    texts = random_texts(400, seed=6)
    before = {texts[index] for index in split(texts, 0.1).valid}
    after = {[*texts, "new\ntext"][index] for index in split([*texts, "new\ntext"], 0.1).valid}
    assert len(before ^ after) <= 3


def test_a_cluster_larger_than_the_share_trains_and_smaller_ones_are_held_back() -> None:
    giant = [f"head {index}\n" + "same\n" * 5 + "\n".join(f"s{line}" for line in range(50)) for index in range(50)]
    parts = split([*giant, *random_texts(20, seed=2)], 0.05)
    assert set(range(50)) <= set(parts.train)
    assert parts.valid
    assert len(parts.clusters[0]) == 50


def test_where_all_clusters_exceed_the_share_the_smallest_is_held_back() -> None:
    texts = [f"{index}" * size for index, size in enumerate((900, 1000, 1100, 800))]
    assert split(texts, 0.05).valid == (3,)


def test_a_crumb_is_not_all_that_is_held_back() -> None:
    texts = ["a" * 1000, "b" * 1000, "c" * 900, "d"]
    assert set(split(texts, 0.05).valid) == {2, 3}
    assert set(split(["a" * 1000, "d"], 0.05).valid) == {1}


@pytest.mark.parametrize("validation", [0.0, -0.1, 0.6, 1.0])
def test_a_share_outside_its_range_is_refused(validation: float) -> None:
    with pytest.raises(ValueError, match="validation is a share"):
        split(["a", "b"], validation)


@pytest.mark.parametrize(("texts", "why"), [(["alone"], "one document"), (["a\nb", "a\nb\nc"], "share most")])
def test_one_cluster_cannot_be_split_and_says_why(texts: list[str], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        split(texts, 0.05)


@pytest.mark.long
def test_a_hundred_thousand_documents_are_split_in_a_minute_or_so() -> None:
    texts = random_texts(100_000, seed=7)
    rng = random.Random(8)
    copies = [f"{rng.choice(texts)}\nmore" for _ in range(5_000)]
    parts = split([*texts, *copies], 0.05)
    side = dict.fromkeys(parts.train, "train") | dict.fromkeys(parts.valid, "valid")
    where = {text: index for index, text in enumerate(texts)}
    assert all(side[100_000 + n] == side[where[copy.removesuffix("\nmore")]] for n, copy in enumerate(copies))
