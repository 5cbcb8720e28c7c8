"""Documents: texts are cut without losing a character, and what is no text says why."""

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pennyweight.data.documents import Documents, content_hash, cut, cut_long, decode, without_blank


@given(st.text(alphabet="ab \n\t", max_size=400), st.integers(1, 40))
def test_pieces_put_together_are_the_text(text: str, size: int) -> None:
    assert "".join(cut(text, size)) == text


@given(st.text(alphabet="ab \n", max_size=400), st.integers(1, 40))
def test_every_piece_has_at_least_the_size_asked_for(text: str, size: int) -> None:
    pieces = cut(text, size)
    assert len(text) < size or all(len(piece) >= size for piece in pieces)
    assert all(len(piece.lstrip()) < 3 * size for piece in pieces)


def test_a_cut_prefers_blank_lines_then_line_ends_then_spaces() -> None:
    assert cut("0123456\n89\n\nrest of the text", 6) == ["0123456\n89\n\n", "rest of ", "the text"]
    assert cut("0123456\n89 abcdefg", 6) == ["0123456\n", "89 abcdefg"]
    assert cut("0123456 89abcdefghi", 6) == ["0123456 ", "89abcdefghi"]
    assert cut("0123456789abcdefghi", 6) == ["012345", "6789ab", "cdefghi"]


def test_wikitext_is_cut_at_its_articles_and_not_at_their_sections() -> None:
    first = " \n = Lobster = \n \n It is blue . \n = = Cooking = = \n It turns red . \n"
    second = " = Crab = \n \n It walks sideways . \n"
    assert cut(first + second, 1) == [first, second]


def test_only_texts_above_a_twentieth_of_all_are_cut() -> None:
    small = [(f"small{index}", "word\n" * 100) for index in range(30)]
    parts = cut_long([("large", "line of text\n" * 500), *small])
    assert [name for name, _ in parts if name.startswith("small")] == [name for name, _ in small]
    assert [name for name, _ in parts][:2] == ["large#0000", "large#0001"]
    assert "".join(text for name, text in parts if name.startswith("large")) == "line of text\n" * 500


def test_text_without_its_byte_order_mark_is_what_decodes() -> None:
    assert decode("\ufeffGrüße, 世界".encode()) == "Grüße, 世界"


@pytest.mark.parametrize(
    ("content", "reason"), [(b"ab\xff", "byte 2 is 0xff"), (b"ab\0", "binary"), ("ü".encode()[:1], "byte 0 is 0xc3")]
)
def test_bytes_that_are_no_text_say_where(content: bytes, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        decode(content)


def test_a_beginning_may_end_inside_a_character() -> None:
    assert decode("aü".encode()[:-1], whole=False) == "a"


def test_blank_files_are_named_and_blank_rows_are_counted() -> None:
    kept, left_out = without_blank([("a", "x"), ("b#.txt", " \n"), ("c#0", ""), ("c#1", "y"), ("c#2", "\t")])
    assert kept == [("a", "x"), ("c#1", "y")]
    assert left_out == [("b#.txt", "it is blank"), ("c", "2 of its documents are blank")]


def test_the_hash_is_of_the_texts_and_not_of_the_names() -> None:
    one = Documents((("a", "x"), ("b", "y")))
    assert one.hash == Documents((("c", "x"), ("d", "y"))).hash
    assert one.hash != Documents((("a", "y"), ("b", "x"))).hash
    assert one.hash != Documents((("a", "xy"),)).hash
    assert len(one) == 2
    assert list(one) == [("a", "x"), ("b", "y")]


def test_no_two_lists_of_contents_hash_alike_by_shifting_bytes() -> None:
    assert content_hash([("a", b"bc")]) != content_hash([("ab", b"c")])
    assert content_hash([("n", b"xyz")]) == hashlib.sha256(b"1 3 nxyz").hexdigest()
