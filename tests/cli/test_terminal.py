"""Tables that can be read on any terminal, and by programs."""

import pytest

from pennyweight.cli.terminal import print_table, print_text

HEADER = ("recipe", "cost", "memory", "perplexity", "verdict")
LINES = [
    ("bf16", "–", "80 MiB", "12.34", "the baseline"),
    ("w8a8", "+0.10 %\n[-0.10, +0.30]", "70 MiB", "12.50", "within 0.5 %"),
]


def shown(columns: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> tuple[list[str], str]:
    monkeypatch.setenv("COLUMNS", str(columns))
    left_out = print_table(HEADER, LINES, spare=("perplexity", "verdict"))
    return left_out, capsys.readouterr().out


@pytest.mark.parametrize(("columns", "missing"), [(80, []), (58, ["perplexity"]), (40, ["perplexity", "verdict"])])
def test_a_narrow_terminal_goes_without_the_spare_columns_and_cuts_no_word(
    columns: int, missing: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    left_out, text = shown(columns, monkeypatch, capsys)
    assert left_out == missing
    assert max(map(len, text.splitlines())) <= columns
    assert all(word in text for word in ("recipe", "bf16", "+0.10 %", "[-0.10, +0.30]"))
    assert [name for name in HEADER if name not in text] == missing


def test_a_very_narrow_terminal_gets_a_block_a_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    left_out, text = shown(26, monkeypatch, capsys)
    assert left_out == ["perplexity", "verdict"]
    assert [line.split() for line in text.splitlines() if "recipe" in line] == [["recipe", "bf16"], ["recipe", "w8a8"]]
    assert "[-0.10, +0.30]" in text


def test_what_a_program_reads_is_whole_and_ends_without_blanks(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    assert print_table(HEADER, LINES, spare=HEADER[3:]) == []
    print_text("word " * 50 + "end")
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == "word " * 50 + "end"
    assert all(line == line.rstrip() for line in lines)


def test_words_break_between_words(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("COLUMNS", "12")
    print_text("few bits and a half-word")
    assert capsys.readouterr().out == "few bits and\na half-word\n"
