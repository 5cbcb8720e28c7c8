"""The tokenizer: every text comes back, the same texts give the same tokens, wrong names get the right one."""

from pathlib import Path

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from pennyweight.data.tokenizer import END, check_name, encode, identity, load, make, train

TEXTS = ["the cat sat on the mat", "def f(x):\n    return x + 1\n", "Grüße, 世界 🌍"] * 5
ODD = [
    "",
    " ",
    "\n\n\t",
    "a  b   c",
    " leading",
    "trailing ",
    "é\u0301",
    "🏳️‍🌈",
    "\x00\x01\x7f",
    "don't 1,000.5 <unk>",
    "\r\n",
]


@pytest.fixture(scope="module")
def small() -> PreTrainedTokenizerFast:
    return train(TEXTS, 300)


@pytest.mark.parametrize("text", [*ODD, *TEXTS[:3]])
def test_a_text_decodes_to_itself(small: PreTrainedTokenizerFast, text: str) -> None:
    assert small.decode(small.encode(text)) == text
    (tokens,) = encode(small, [text])
    assert small.decode(tokens[:-1].tolist()) == text


def test_the_smallest_vocabulary_is_the_bytes_and_the_end() -> None:
    plain = make("bpe-257", TEXTS)
    assert len(plain) == 257
    for text, tokens in zip(ODD, encode(plain, ODD), strict=True):
        assert len(tokens) == len(text.encode()) + 1
        assert plain.decode(tokens[:-1].tolist()) == text


@settings(max_examples=30, deadline=None)
@given(texts=st.lists(st.text(max_size=60), max_size=10))
def test_any_text_decodes_to_itself(small: PreTrainedTokenizerFast, texts: list[str]) -> None:
    assert [small.decode(tokens[:-1].tolist()) for tokens in encode(small, texts)] == texts


def test_the_vocabulary_is_as_large_as_asked_for_and_merges_what_is_frequent(small: PreTrainedTokenizerFast) -> None:
    assert len(small) == 300
    assert len(small.encode("the cat sat on the mat")) < len("the cat sat on the mat")


def test_the_same_texts_give_the_same_tokenizer(small: PreTrainedTokenizerFast) -> None:
    assert train(TEXTS, 300).backend_tokenizer.to_str() == small.backend_tokenizer.to_str()


def test_the_end_stands_after_every_text_and_nowhere_else(small: PreTrainedTokenizerFast) -> None:
    first, second = encode(small, [f"before {END} after", "b"])
    end = small.convert_tokens_to_ids(END)
    assert small.eos_token_id == end
    assert first[-1] == end
    assert end not in first[:-1]
    assert second.tolist() == [small.convert_tokens_to_ids("b"), end]


def test_encoding_leaves_the_tokenizer_as_it_was(small: PreTrainedTokenizerFast) -> None:
    list(encode(small, ["a"]))
    assert small.encode(END) == [small.eos_token_id]


def test_more_texts_than_a_batch_come_in_their_order(small: PreTrainedTokenizerFast) -> None:
    texts = [f"text number {index}" for index in range(150)]
    assert [small.decode(tokens[:-1].tolist()) for tokens in encode(small, texts)] == texts


def test_a_saved_tokenizer_loads_in_plain_transformers(small: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    small.save_pretrained(str(tmp_path))
    plain = AutoTokenizer.from_pretrained(str(tmp_path))
    assert plain.encode(TEXTS[0]) == small.encode(TEXTS[0])
    assert plain.eos_token == END
    assert make(str(tmp_path), []).encode(TEXTS[1]) == small.encode(TEXTS[1])


def test_a_tokenizer_without_an_end_gets_one(tmp_path: Path) -> None:
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0, "b": 1, "?": 2}, unk_token="?"))
    words.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    words.save(str(tmp_path / "tokenizer.json"))
    made = load(tmp_path)
    assert made.eos_token_id == 3
    assert [tokens.tolist() for tokens in encode(made, ["a b c"])] == [[0, 1, 2, 3]]


def test_a_tokenizer_saved_while_it_cut_long_texts_cuts_none(small: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    backend = tokenizers.Tokenizer.from_str(small.backend_tokenizer.to_str())
    backend.enable_truncation(4)
    backend.enable_padding(length=8)
    backend.save(str(tmp_path / "tokenizer.json"))
    text = "the cat sat on the mat " * 20
    (tokens,) = encode(load(tmp_path), [text])
    assert small.decode(tokens[:-1].tolist()) == text


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("bpe4096", "bpe-4096"),
        ("bp-4096", "bpe-4096"),
        ("bpe_8192", "bpe-8192"),
        ("BPE-1000", "bpe-1000"),
        ("bytes", "bpe-257"),
        ("bpe-4k", "bpe-4096"),
        ("gtp2", "gpt2"),
        ("no/such-tokenizer", "bpe-4096"),
        ("", "bpe-4096"),
    ],
)
def test_an_unknown_name_is_answered_with_the_nearest_right_one(name: str, near: str) -> None:
    with pytest.raises(ValueError, match=f"did you mean '{near}'") as caught:
        make(name, TEXTS)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["bpe-256", "bpe-0", "bpe-99999999"])
def test_a_size_out_of_range_says_the_range(name: str) -> None:
    with pytest.raises(ValueError, match="257 .* to 1048576"):
        check_name(name)


def test_a_folder_without_a_tokenizer_says_so(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="tokenizer.json can be read"):
        make(str(tmp_path), [])


def test_a_folder_is_known_by_what_it_holds(small: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    for name in ("one", "two"):
        small.save_pretrained(str(tmp_path / name))
    assert identity(str(tmp_path / "one")) == identity(str(tmp_path / "two"))
    train(TEXTS, 280).save_pretrained(str(tmp_path / "two"))
    assert identity(str(tmp_path / "one")) != identity(str(tmp_path / "two"))
    assert identity("bpe-512") == "bpe-512"
