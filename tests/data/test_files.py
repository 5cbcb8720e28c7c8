"""Files: a folder gives every file that is text, and says of each other one why not."""

import json
import os
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from pennyweight.data.files import file_rows, folder_documents, read_all, text_column, walk


def parquet(path: Path, **columns: object) -> Path:
    pyarrow.parquet.write_table(pyarrow.table(columns), path)
    return path


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    root = tmp_path / "corpus"
    (root / "deep/er").mkdir(parents=True)
    (root / ".git").mkdir()
    (root / ".git/HEAD").write_text("ref: refs/heads/main")
    (root / "b.txt").write_text("bee")
    (root / "a.weird").write_text("ay")
    (root / "noext").write_text("no suffix")
    (root / ".hidden").write_text("hidden")
    (root / "deep/er/x.py").write_text("x = 1\n")
    (root / "image.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    (root / "nul.txt").write_bytes(b"a\0b")
    (root / "rows.jsonl").write_text('{"text": "one"}\n\n{"text": "two"}\n')
    (root / "bad.jsonl").write_text('{"text": "one"}\n{"text": \n')
    parquet(root / "rows.parquet", text=["three"])
    (tmp_path / "outside.txt").write_text("outside")
    (root / "escape").symlink_to(tmp_path / "outside.txt")
    (root / "inside").symlink_to(root / "b.txt")
    (root / "broken").symlink_to(root / "nowhere")
    (root / "up").symlink_to(tmp_path)
    os.mkfifo(root / "pipe")
    return root


def test_a_folder_gives_every_text_whatever_its_suffix_and_a_reason_for_everything_else(mixed: Path) -> None:
    found, unfound = walk(mixed)
    contents, unread = read_all(found)
    parts, undecoded = folder_documents(contents)
    assert dict(parts) == {
        ".hidden": "hidden",
        "a.weird": "ay",
        "b.txt": "bee",
        "deep/er/x.py": "x = 1\n",
        "noext": "no suffix",
        "rows.jsonl#0": "one",
        "rows.jsonl#1": "two",
        "rows.parquet#0": "three",
    }
    left_out = dict([*unfound, *unread, *undecoded])
    assert set(left_out) == {
        ".git", "bad.jsonl", "broken", "escape", "image.png", "inside", "nul.txt", "pipe", "up",
    }  # fmt: skip
    assert left_out["escape"] == left_out["up"] == "it is a link out of the folder"
    assert "its own name" in left_out["inside"]
    assert "nowhere" in left_out["broken"]
    assert "not a regular file" in left_out["pipe"]
    assert "line 2 is not JSON" in left_out["bad.jsonl"]
    assert "0x89" in left_out["image.png"]


def test_a_file_that_may_not_be_opened_is_left_out_with_its_reason(tmp_path: Path) -> None:
    contents, left_out = read_all([("gone.txt", tmp_path / "gone.txt")])
    assert contents == []
    assert left_out == [("gone.txt", "it cannot be read (No such file or directory)")]


def test_a_folder_that_may_not_be_opened_is_left_out_with_its_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "closed").mkdir()
    (tmp_path / "open.txt").write_text("text")
    scan = os.scandir

    def refusing(path: str) -> object:
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", refusing)
    found, left_out = walk(tmp_path)
    assert [name for name, _ in found] == ["open.txt"]
    assert left_out == [("closed", "it cannot be read (Permission denied)")]


def test_a_large_file_is_read_whole_where_its_beginning_is_text(tmp_path: Path) -> None:
    text = "ü" * 600_000  # the first mebibyte ends inside no character here, one byte later inside one
    (tmp_path / "a").write_text(text)
    (tmp_path / "b").write_text("x" + text)
    contents, left_out = read_all([("a", tmp_path / "a"), ("b", tmp_path / "b")])
    assert [len(content) for _, content in contents] == [1_200_000, 1_200_001]
    assert left_out == []


def test_the_only_field_of_strings_is_the_text_of_json_lines() -> None:
    lines = "\n".join(json.dumps({"id": index, "body": f"text {index}"}) for index in range(3))
    assert file_rows("f.jsonl", lines.encode(), None) == [(f"f.jsonl#{index}", f"text {index}") for index in range(3)]


def test_a_named_field_is_taken_before_the_field_called_text() -> None:
    line = json.dumps({"text": "a", "other": "b"}).encode()
    assert file_rows("f.jsonl", line, None) == [("f.jsonl#0", "a")]
    assert file_rows("f.jsonl", line, "other") == [("f.jsonl#0", "b")]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('{"prompt": "a", "answer": "b"}', "no column 'text'.*prompt, answer"),
        ('{"n": 1}', "no column 'text'.*its columns: n"),
        ('["a"]', "line 1 is not a JSON object but list"),
        ("{nonsense", "line 1 is not JSON"),
        ('{"text": "a"}\n{"body": "b"}', "line 2 holds no string 'text'; its fields are body"),
        ('{"text": "\\ud800"}', "surrogate"),
    ],
)
def test_json_lines_without_a_text_say_which_line_and_what_it_holds(line: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        file_rows("f.jsonl", line.encode(), None)


def test_parquet_gives_a_document_a_row_and_null_is_blank(tmp_path: Path) -> None:
    content = parquet(tmp_path / "f.parquet", n=[1, 2, 3], body=["a", None, "c"]).read_bytes()
    assert file_rows("f.parquet", content, None) == [("f.parquet#0", "a"), ("f.parquet#1", ""), ("f.parquet#2", "c")]


def test_parquet_strings_of_every_kind_are_text(tmp_path: Path) -> None:
    for kind in (pyarrow.string(), pyarrow.large_string(), pyarrow.dictionary(pyarrow.int32(), pyarrow.string())):
        content = parquet(tmp_path / "f.parquet", body=pyarrow.array(["a", "b", "a"], kind)).read_bytes()
        assert [text for _, text in file_rows("f.parquet", content, None)] == ["a", "b", "a"]


def test_parquet_without_a_text_column_says_what_it_has(tmp_path: Path) -> None:
    content = parquet(tmp_path / "f.parquet", q=["a"], a=["b"], n=[1]).read_bytes()
    with pytest.raises(ValueError, match=r"no column 'text'.*its columns: q, a, n"):
        file_rows("f.parquet", content, None)
    with pytest.raises(ValueError, match=r"no column 'body'; its columns are q, a, n"):
        file_rows("f.parquet", content, "body")
    with pytest.raises(ValueError, match=r"column 'n' holds no strings"):
        file_rows("f.parquet", content, "n")


def test_a_damaged_parquet_file_is_one_sentence(tmp_path: Path) -> None:
    content = parquet(tmp_path / "f.parquet", text=["a"] * 1000).read_bytes()
    for damaged in (b"PAR1", b"nonsense" * 100, content[: len(content) // 2]):
        with pytest.raises(ValueError, match="no readable Parquet file") as caught:
            file_rows("f.parquet", damaged, None)
        assert "\n" not in str(caught.value)


def test_the_column_called_text_wins_over_other_strings() -> None:
    assert text_column(["id", "text", "title"], ["text", "title"]) == "text"
    assert text_column(["id", "body"], ["body"]) == "body"


def test_parquet_with_a_broken_page_is_said_in_one_sentence(tmp_path: Path) -> None:
    path = parquet(tmp_path / "f.parquet", text=["words " * 50] * 3)
    content = bytearray(path.read_bytes())
    content[20:60] = bytes(255 - byte for byte in content[20:60])  # the first page, behind the magic four bytes
    with pytest.raises(ValueError, match="it is no readable Parquet file"):
        file_rows("f.parquet", bytes(content), None)


@pytest.mark.parametrize("line", ["[" * 100_000, '{"text": ' + "7" * 5000 + "}"])
def test_json_too_deep_or_with_a_number_too_long_is_said_in_one_sentence(line: str) -> None:
    content = ('{"text": "one"}\n' + line).encode()
    with pytest.raises(ValueError, match=r"its line 2 is JSON that cannot be read \(.{10,100}\)$"):
        file_rows("f.jsonl", content, None)
