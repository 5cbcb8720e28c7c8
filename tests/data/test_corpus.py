"""The corpus: made once, found again, made anew where it was damaged, and the same for whoever makes it."""

import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import tokenizers

from pennyweight.data import Corpus, Sampler, check_names, corpus, documents, prepare, validation_batches
from pennyweight.data.tokenizer import END, train

PREPARE = """
import sys, time
from pathlib import Path
import pennyweight.data.corpus as corpus
import transformers.tokenization_utils_tokenizers
Path(sys.argv[3]).touch()
while len(list(Path(sys.argv[3]).parent.glob("ready*"))) < 2:
    time.sleep(0.001)
print(corpus.prepare(sys.argv[1], tokenizer="bpe-400", cache=Path(sys.argv[2])).hash)
"""


@pytest.fixture(scope="module")
def text_file(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("text") / "numbers.txt"
    lines = (f"{index} and {index * index} are a number and its square." for index in range(2000))
    path.write_text("".join(f"{line}\n{chr(10) * (index % 5 == 0)}" for index, line in enumerate(lines)))
    return str(path)


@pytest.fixture(scope="module")
def stdlib(tmp_path_factory: pytest.TempPathFactory) -> tuple[Corpus, float]:
    start = time.process_time()
    made = prepare(cache=tmp_path_factory.mktemp("cache"))
    return made, time.process_time() - start


def parts_of(made: Corpus) -> dict[str, list[str]]:
    """The documents of both parts, read back from the tokens."""
    end = made.tokenizer.eos_token
    return {
        name: made.tokenizer.decode(tokens.tolist()).split(end)[:-1]
        for name, tokens in (("train", made.train), ("valid", made.valid))
    }


def held_back(made: Corpus) -> set[str]:
    return set(made.tokenizer.decode(made.valid.tolist()).split(made.tokenizer.eos_token)[:-1])


def test_the_tokens_of_both_parts_decode_to_exactly_the_documents(text_file: str, tmp_path: Path) -> None:
    made = prepare(text_file, tokenizer="bpe-400", cache=tmp_path)
    parts = parts_of(made)
    assert sorted([*parts["train"], *parts["valid"]]) == sorted(text for _, text in documents(text_file))
    for name, texts in parts.items():
        assert made.manifest[name]["documents"] == len(texts)
        assert made.manifest[name]["bytes"] == sum(len(text.encode()) for text in texts)
        assert made.manifest[name]["tokens"] == len(getattr(made, name))
    assert made.bytes_per_token == made.manifest["valid"]["bytes"] / len(made.valid)
    assert made.vocab_size == len(made.tokenizer) == 400
    assert made.train.dtype == np.uint16


def test_the_tokenizer_is_trained_on_the_training_part_only(text_file: str, tmp_path: Path) -> None:
    made = prepare(text_file, tokenizer="bpe-400", cache=tmp_path)
    texts = parts_of(made)["train"]
    assert train(texts, 400).backend_tokenizer.to_str() == made.tokenizer.backend_tokenizer.to_str()


def test_it_is_found_again_without_being_made(text_file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = prepare(text_file, tokenizer="bpe-300", cache=tmp_path)
    monkeypatch.setattr(corpus, "_build", None)
    assert prepare(text_file, tokenizer="bpe-300", cache=tmp_path) == first


def test_the_cache_is_where_the_environment_says(
    text_file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PENNYWEIGHT_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert corpus.cache_folder() == Path.home() / ".cache/pennyweight"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert corpus.cache_folder() == tmp_path / "xdg/pennyweight"
    monkeypatch.setenv("PENNYWEIGHT_CACHE", str(tmp_path / "own"))
    assert prepare(text_file, tokenizer="bpe-257").folder.parent == tmp_path / "own/corpora"


def test_text_tokenizer_and_share_each_change_the_hash(text_file: str, tmp_path: Path) -> None:
    other = tmp_path / "other.txt"
    other.write_text(Path(text_file).read_text() + "one more line\n")
    copy = tmp_path / "copy.txt"
    copy.write_text(Path(text_file).read_text())
    usual = prepare(text_file, tokenizer="bpe-300", cache=tmp_path).hash
    assert prepare(str(copy), tokenizer="bpe-300", cache=tmp_path / "elsewhere").hash == usual
    assert prepare(str(other), tokenizer="bpe-300", cache=tmp_path).hash != usual
    assert prepare(text_file, tokenizer="bpe-301", cache=tmp_path).hash != usual
    assert prepare(text_file, tokenizer="bpe-300", validation=0.1, cache=tmp_path).hash != usual


@pytest.mark.parametrize(
    ("file", "reason"),
    [
        ("train.bin", "train.bin"),
        ("valid.bin", "valid.bin"),
        ("manifest.json", "manifest"),
        ("tokenizer/tokenizer.json", "tokenizer"),
    ],
)
@pytest.mark.parametrize("harm", ["cut", "change", "remove"])
def test_a_damaged_corpus_is_made_anew_with_a_warning(
    text_file: str, tmp_path: Path, caplog: pytest.LogCaptureFixture, file: str, reason: str, harm: str
) -> None:
    made = prepare(text_file, tokenizer="bpe-260", cache=tmp_path)
    path = made.folder / file
    whole = path.read_bytes()
    if harm == "cut":
        path.write_bytes(whole[: len(whole) // 2])
    elif harm == "change":
        middle = len(whole) // 2
        path.write_bytes(whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :])
    else:
        path.unlink()
    again = prepare(text_file, tokenizer="bpe-260", cache=tmp_path)
    assert "is made anew" in caplog.text
    assert reason in caplog.text or "cannot be read" in caplog.text
    assert path.read_bytes() == whole
    assert again.hash == made.hash
    assert [entry.name for entry in again.folder.parent.iterdir()] == [again.folder.name]


def test_a_manifest_with_another_hash_is_not_believed(text_file: str, tmp_path: Path) -> None:
    made = prepare(text_file, tokenizer="bpe-260", cache=tmp_path)
    path = made.folder / "manifest.json"
    path.write_text(json.dumps({**made.manifest, "hash": "0" * 64}))
    assert prepare(text_file, tokenizer="bpe-260", cache=tmp_path).hash == made.hash


def test_a_failure_while_writing_leaves_nothing_behind(
    text_file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(corpus, "write_shard", full)
    with pytest.raises(OSError, match="No space left"):
        prepare(text_file, tokenizer="bpe-260", cache=tmp_path)
    assert list((tmp_path / "corpora").iterdir()) == []


def test_what_killed_processes_left_is_swept_after_a_day(text_file: str, tmp_path: Path) -> None:
    old, new = tmp_path / "corpora/.unfinished-1-a", tmp_path / "corpora/.unfinished-2-b"
    for folder in (old, new):
        folder.mkdir(parents=True)
    os.utime(old, (time.time() - 90_000,) * 2)
    prepare(text_file, tokenizer="bpe-260", cache=tmp_path)
    assert not old.exists()
    assert new.exists()


@pytest.mark.parametrize("damaged", [False, True])
def test_a_corpus_published_by_a_faster_process_is_taken(
    text_file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damaged: bool
) -> None:
    build = corpus._build
    published: list[int] = []

    def slower(folder: Path, *rest: object) -> None:
        build(folder, *rest)  # pyright: ignore[reportArgumentType]
        monkeypatch.setattr(corpus, "_build", build)
        faster = prepare(text_file, tokenizer="bpe-260", cache=tmp_path)
        published.append((faster.folder / "manifest.json").stat().st_ino)
        if damaged:
            (faster.folder / "train.bin").write_bytes(b"")

    monkeypatch.setattr(corpus, "_build", slower)
    made = prepare(text_file, tokenizer="bpe-260", cache=tmp_path)
    assert len(made.train) == made.manifest["train"]["tokens"]
    assert ((made.folder / "manifest.json").stat().st_ino in published) is not damaged
    assert [entry.name for entry in made.folder.parent.iterdir()] == [made.folder.name]


def test_two_processes_at_once_with_other_threads_and_hash_seeds_make_the_same(text_file: str, tmp_path: Path) -> None:
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", PREPARE, text_file, str(tmp_path / "cache"), str(tmp_path / f"ready{number}")],
            env={**os.environ, "PYTHONHASHSEED": str(number), "TOKENIZERS_PARALLELISM": str(number == 1).lower()},
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in (1, 2)
    ]
    hashes = [process.communicate(timeout=120)[0].strip() for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    here = prepare(text_file, tokenizer="bpe-400", cache=tmp_path / "here")
    assert hashes == [here.hash] * 2
    assert [entry.name for entry in (tmp_path / "cache/corpora").iterdir()] == [here.folder.name]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("too short\n", "too short to hold a validation part back: it is one document"),
        ("same line\n" * 900, "share most"),
    ],
)
def test_a_file_too_short_to_be_split_is_one_sentence(tmp_path: Path, content: str, words: str) -> None:
    path = tmp_path / "short.txt"
    path.write_text(content)
    with pytest.raises(ValueError, match=words) as caught:
        prepare(str(path), tokenizer="bpe-300", cache=tmp_path / "cache")
    assert repr(str(path)) in str(caught.value)
    assert list((tmp_path / "cache/corpora").iterdir()) == []


def test_a_wrong_tokenizer_or_share_is_said_before_anything_is_written(text_file: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="did you mean 'bpe-4096'"):
        prepare(text_file, tokenizer="bpe4096", cache=tmp_path)
    with pytest.raises(ValueError, match="validation is a share"):
        prepare(text_file, tokenizer="bpe-260", validation=0.0, cache=tmp_path)
    assert not list(tmp_path.glob("corpora/*"))


def test_a_corpus_of_relatives_says_how_little_is_held_back(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    same = "".join(f"line {index} of them all\n" for index in range(100))
    for index in range(20):
        (tmp_path / f"{index}.txt").write_text(f"head {index}\n{same}")
    (tmp_path / "other.txt").write_text("something else\n" * 20)
    made = prepare(str(tmp_path), tokenizer="bpe-260", cache=tmp_path / "cache")
    assert made.manifest["train"]["documents"] == made.manifest["split"]["largest_cluster_documents"] == 20
    assert "of the data could be held back for validation: 20 documents" in caplog.text


def test_a_file_whose_name_is_no_utf8_is_read_like_any_other(tmp_path: Path) -> None:
    root = tmp_path / "corpus"
    root.mkdir()
    for index in range(30):
        (root / os.fsdecode(b"\xff%d.txt" % index)).write_text(f"text number {index}\n" * 3)
    (root / os.fsdecode(b"\xfe")).write_bytes(b"\xff")
    made = prepare(str(root), tokenizer="bpe-260", cache=tmp_path / "cache")
    assert made.manifest["train"]["documents"] + made.manifest["valid"]["documents"] == 30
    assert len(made.manifest["left_out"]) == 1


def test_a_vocabulary_with_gaps_is_as_large_as_its_largest_number(text_file: str, tmp_path: Path) -> None:
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel({"are": 70_000, "?": 1, END: 0}, unk_token="?"))
    words.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    (tmp_path / "words").mkdir()
    words.save(str(tmp_path / "words/tokenizer.json"))
    made = prepare(text_file, tokenizer=str(tmp_path / "words"), cache=tmp_path)
    assert made.vocab_size == 70_001
    assert made.train.dtype == np.uint32
    assert set(made.train.tolist()) == {0, 1, 70_000}


def test_any_hugging_face_tokenizer_can_be_taken(text_file: str, tmp_path: Path) -> None:
    own = prepare(text_file, tokenizer="bpe-300", cache=tmp_path)
    taken = prepare(text_file, tokenizer=str(own.folder / "tokenizer"), cache=tmp_path)
    assert taken.folder != own.folder
    assert np.array_equal(taken.train, own.train)


def test_progress_is_told_what_takes_time(text_file: str, tmp_path: Path) -> None:
    told: list[str] = []
    prepare(text_file, tokenizer="bpe-260", cache=tmp_path, progress=told.append)
    assert [line.split()[0] for line in told] == ["splitting", "making", "encoding"]
    single = tmp_path / "one.jsonl"
    single.write_text('{"text": "all alone"}')
    with pytest.raises(ValueError, match="one document"):
        prepare(str(single), tokenizer="bpe-260", cache=tmp_path, progress=told.append)
    assert told[3:] == ["splitting 1 document"]


def test_names_are_checked_without_reading_what_they_name(text_file: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "open", lambda *_: pytest.fail("read"))
    for source in ("stdlib", text_file, str(Path(text_file).parent), "hf:owner/name:train#text"):
        check_names(source, "bpe-4096")
    for source, tokenizer, said in [
        ("stdlbi", "bpe-4096", "did you mean 'stdlib'"),
        ("stdlib", "bpe4096", "did you mean 'bpe-4096'"),
        ("s3:bucket", "bpe-4096", "unknown prefix"),
        ("hf:", "bpe-4096", "not of the form"),
        ("", "bpe-4096", "names nothing"),
    ]:
        with pytest.raises((ValueError, FileNotFoundError), match=said):
            check_names(source, tokenizer)


def test_the_standard_library_is_made_in_seconds_and_found_in_a_moment(stdlib: tuple[Corpus, float]) -> None:
    made, seconds = stdlib
    assert seconds < 40  # processor time of one thread; 9 s measured, 20 s is the promise
    start = time.process_time()
    assert prepare(cache=made.folder.parents[1]).hash == made.hash
    assert time.process_time() - start < 0.3
    assert made.vocab_size == 4096
    assert len(made.train) > 2_000_000
    held = made.manifest["valid"]["bytes"] / (made.manifest["train"]["bytes"] + made.manifest["valid"]["bytes"])
    assert abs(held - 0.05) < 0.006


def test_the_code_pages_of_the_standard_library_are_on_one_side(stdlib: tuple[Corpus, float]) -> None:
    made, _ = stdlib
    held = held_back(made)
    found = documents("stdlib")
    pages = [text for name, text in found if name.startswith("encodings/cp") and text.count("\n") > 200]
    assert len(pages) > 30
    assert len({page in held for page in pages}) == 1
    assert made.manifest["split"]["largest_cluster_bytes"] < 0.25 * sum(len(text) for _, text in found)


def test_no_pair_of_the_standard_library_leaks(stdlib: tuple[Corpus, float]) -> None:
    held = held_back(stdlib[0])
    sides: dict[bool, list[set[str]]] = {True: [], False: []}
    for _, text in documents("stdlib"):
        sides[text in held].append({line.strip() for line in text.split("\n")} - {""})
    assert len(sides[True]) == stdlib[0].manifest["valid"]["documents"]
    for one in sides[True]:
        for other in sides[False]:
            assert len(one & other) <= min(len(one), len(other)) / 2


@pytest.mark.parametrize("name", ["tinyshakespeare.txt", pytest.param("wikitext", marks=pytest.mark.long)])
def test_real_text_beside_the_checkout_is_prepared_and_read(shared_data: Path, tmp_path: Path, name: str) -> None:
    made = prepare(str(shared_data / name), tokenizer="bpe-1024", cache=tmp_path)
    held = made.manifest["valid"]["bytes"] / (made.manifest["train"]["bytes"] + made.manifest["valid"]["bytes"])
    assert abs(held - 0.05) < 0.006
    assert Sampler(made.train, context=256, batch=4, seed=0).next().shape == (4, 257)
    assert next(validation_batches(made.valid, 256, 8, 65_536)).shape == (8, 257)
    texts = [text for part in parts_of(made).values() for text in part]
    assert sorted(texts) == sorted(text for _, text in documents(str(shared_data / name)))


@pytest.mark.parametrize("limit", [0, 4096, 40_000])
def test_a_full_disk_is_said_with_the_cache_and_leaves_nothing(text_file: str, tmp_path: Path, limit: int) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        with pytest.raises(OSError, match=f"^the corpus cannot be written to the cache {tmp_path}.*: File too large$"):
            prepare(text_file, tokenizer="bpe-400", cache=tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert os.listdir(tmp_path / "corpora") == []
