"""Sources: what the words after --data name, and one sentence for everything they cannot."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import datasets
import pytest

from pennyweight.data.sources import documents, source, usual

LONG = "".join(
    f"Line {index} of a text that is long enough to be cut.\n{chr(10) * (index % 7 == 0)}" for index in range(200)
)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf")
    datasets.disable_progress_bars()
    yield
    datasets.enable_progress_bars()


def test_the_standard_library_comes_without_its_tests_and_other_packages() -> None:
    found = documents("stdlib")
    names = [name for name, _ in found]
    assert names == sorted(names)
    assert {"os.py", "json/__init__.py", "encodings/cp1252.py", "unittest/case.py"} <= set(names)
    folders = {folder for name in names for folder in name.split("/")[:-1]}
    assert not folders & {"test", "tests", "idle_test", "site-packages", "__pycache__"}
    assert all(name.endswith(".py") for name in names)
    assert not any("_sysconfigdata_" in name for name in names)
    assert dict(found)["os.py"] == Path(os.__file__).read_text(encoding="utf-8")
    size = sum(len(text.encode()) for _, text in found)
    assert 8e6 < size < 16e6  # about 12 MB in Python 3.11
    assert all(reason for _, reason in found.left_out)


def test_a_text_file_is_cut_into_documents_that_put_together_are_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text(LONG)
    found = documents(str(path))
    assert len(found) > 10
    assert "".join(text for _, text in found) == LONG
    assert documents(str(path), cut=list).parts == (("a.txt", LONG),)
    assert documents(str(tmp_path), cut=list).parts == (("a.txt", LONG),)


def test_json_lines_and_parquet_files_give_the_same_documents(tmp_path: Path) -> None:
    rows = datasets.Dataset.from_dict({"id": [0, 1, 2], "text": ["one\n", "zwei ü", "three"]})
    rows.to_json(str(tmp_path / "a.jsonl"))
    rows.to_parquet(str(tmp_path / "a.parquet"))
    texts = [[text for _, text in documents(str(tmp_path / f"a.{suffix}"))] for suffix in ("jsonl", "parquet")]
    assert texts == [["one\n", "zwei ü", "three"]] * 2


def test_a_column_is_named_behind_a_hash_sign(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"prompt": "p", "answer": "a"}))
    assert documents(f"{path}#answer").parts == (("a.jsonl#0", "a"),)
    with pytest.raises(ValueError, match="names its fields|its columns: prompt, answer"):
        documents(str(path))


def test_a_folder_is_read_through_a_link_to_it_and_lists_what_it_left_out(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real/a.txt").write_text("text")
    (tmp_path / "real/empty.txt").write_text("")
    (tmp_path / "real/b.bin").write_bytes(b"\xff\xfe")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    found = documents(str(tmp_path / "link"))
    assert found.parts == (("a.txt", "text"),)
    assert dict(found.left_out)["empty.txt"] == "it is blank"
    assert "b.bin" in dict(found.left_out)


def test_the_hash_changes_with_the_contents_and_not_with_the_place(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.txt").write_text("text")
    assert source(str(tmp_path / "one")).hash == source(str(tmp_path / "two")).hash
    before = source(str(tmp_path / "one")).hash
    (tmp_path / "one/b.bin").write_bytes(b"\xff")
    assert source(str(tmp_path / "one")).hash == before
    (tmp_path / "one/a.txt").write_text("texT")
    assert source(str(tmp_path / "one")).hash != before
    (tmp_path / "a.txt").write_text("text")
    (tmp_path / "b.txt").write_text("text")
    assert source(str(tmp_path / "a.txt")).hash == source(str(tmp_path / "b.txt")).hash


@pytest.mark.parametrize("way", ["files", "saved", "saved dictionary"])
def test_a_local_data_set_is_read_through_datasets(tmp_path: Path, way: str) -> None:
    rows = datasets.Dataset.from_dict({"text": ["one", "two", None], "title": ["x", "y", "z"]})
    if way == "files":
        (tmp_path / "set").mkdir()
        rows.to_parquet(str(tmp_path / "set/train.parquet"))
    elif way == "saved":
        rows.save_to_disk(str(tmp_path / "set"))
    else:
        datasets.DatasetDict({"train": rows}).save_to_disk(str(tmp_path / "set"))
    found = documents(f"hf:{tmp_path}/set")
    assert [text for _, text in found] == ["one", "two"]
    assert found.left_out == (("train", "1 of its documents are blank"),)
    assert [text for _, text in documents(f"hf:{tmp_path}/set:train#title")] == ["x", "y", "z"]


def test_what_is_asked_of_the_hub_follows_the_words(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[object, ...]] = []

    def load(*names: str, split: str) -> datasets.Dataset:
        asked.append((*names, split))
        if names == ("wikitext/wikitext-2",):
            raise datasets.exceptions.DatasetNotFoundError("not there")
        return datasets.Dataset.from_dict({"text": ["a"], "title": ["b"]})

    monkeypatch.setattr(datasets, "load_dataset", load)
    for spec in (
        "hf:name",
        "hf:owner/name",
        "hf:owner/name/config:test",
        "hf:o/n:train[:1%]#title",
        "hf:wikitext/wikitext-2",
    ):
        documents(spec)
    assert asked == [
        ("name", "train"),
        ("owner/name", "train"),
        ("owner/name", "config", "test"),
        ("o/n", "train[:1%]"),
        ("wikitext/wikitext-2", "train"),
        ("wikitext", "wikitext-2", "train"),
    ]


def write_wrong_data(folder: Path) -> None:
    (folder / "empty.txt").write_bytes(b"")
    (folder / "blank.txt").write_text(" \n\n")
    (folder / "binary.dat").write_bytes(bytes(range(256)) * 8)
    (folder / "corpus.txt").write_text("text")
    (folder / "bad.parquet").write_bytes(b"PAR1 nonsense")
    (folder / "bad.jsonl").write_text('{"text": 1}')
    (folder / "nothing").mkdir()
    (folder / "images").mkdir()
    (folder / "images/a.png").write_bytes(b"\x89PNG")
    (folder / "set").mkdir()
    (folder / "set/train.jsonl").write_text('{"question": "q", "answer": "a"}')


@pytest.mark.parametrize(
    ("spec", "kind", "words"),
    [
        ("stdlb", FileNotFoundError, "did you mean 'stdlib'"),
        ("{}/corpus.tx", FileNotFoundError, "did you mean '.*/corpus.txt'"),
        ("{}/missing", FileNotFoundError, "is not there; data is 'stdlib', a file, a folder or 'hf:NAME'"),
        ("{}/no/where", FileNotFoundError, "is not there"),
        ("s3://bucket/key", ValueError, "unknown prefix 's3:'; the only one is 'hf:'"),
        ("", ValueError, "names nothing"),
        ("{}/empty.txt", ValueError, "cannot be read: it is empty"),
        ("{}/blank.txt", ValueError, "holds no text to train on .*blank"),
        ("{}/binary.dat", ValueError, "it is binary or in another encoding than UTF-8"),
        ("{}/bad.parquet", ValueError, "no readable Parquet file"),
        ("{}/bad.jsonl", ValueError, "no column 'text'.*its columns: text"),
        ("{}/nothing", ValueError, "holds no text to train on .nothing is there"),
        ("{}/images", ValueError, "holds no text to train on .a.png: it is binary"),
        ("/dev/null", ValueError, "neither a regular file nor a folder"),
        ("hf:", ValueError, "is not of the form 'hf:NAME"),
        ("hf:{}/set:tran", ValueError, "Unknown split"),
        ("hf:{}/set", ValueError, "names no column .*question, answer"),
        ("hf:{}/set#anser", ValueError, "did you mean 'answer'"),
        ("hf:{}/set#zzz", ValueError, "its columns of strings are question, answer"),
        ("hf:{}/nothing", (ValueError, FileNotFoundError), "cannot be loaded by `datasets`"),
        ("hf:no/such-set", (ValueError, FileNotFoundError), "cannot be loaded by `datasets`"),
    ],
)
def test_wrong_data_is_one_sentence_that_names_it(tmp_path: Path, spec: str, kind: type[Exception], words: str) -> None:
    write_wrong_data(tmp_path)
    spec = spec.format(tmp_path)
    with pytest.raises(kind, match=words) as caught:
        documents(spec)
    assert repr(spec) in str(caught.value) or not spec
    assert "\n" not in str(caught.value)


def test_a_home_of_nobody_is_said_in_one_sentence() -> None:
    for spec in ("~nouser/x", "~nouser/x#text", "hf:~nouser/x"):
        with pytest.raises(FileNotFoundError, match="home of a user who is not there"):
            source(spec)


def test_a_folder_with_a_broken_file_is_said_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "a.jsonl").write_text('{"text": "one"}\n{"text": ')
    with pytest.raises(ValueError, match=r"^data 'hf:.*cannot be loaded by `datasets`: .*JSON"):
        source(f"hf:{tmp_path / 'd'}")


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("notes/", "notes"), ("./notes//a.txt", "notes/a.txt"), ("/a/b/", "/a/b"), ("../a", "../a"), ("~/a/", "~/a"),
        ("a.jsonl#text", "a.jsonl#text"), ("stdlib", "stdlib"), ("./stdlib", "./stdlib"), ("hf:./a/", "hf:./a/"),
        ("", ""),
    ],
)  # fmt: skip
def test_one_place_has_one_spelling(spec: str, expected: str) -> None:
    assert usual(spec) == expected
