"""Progress goes to stderr: a bar for people, lines for logs, nothing when asked for nothing."""

import pytest

from pennyweight.training import progress
from pennyweight.training.progress import Bar, Lines, Silence, clock, shown, teller


@pytest.mark.parametrize(("seconds", "text"), [(0, "0:00"), (75, "1:15"), (59.7, "1:00"), (3661, "1:01:01")])
def test_a_clock_reads_as_people_write(seconds, text):
    assert clock(seconds) == text


def test_lines_tell_step_loss_rate_and_time_left(capfd, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    lines = Lines("penny8", 10, start=4)
    now[0] += 1
    lines.step(5, 3.0, 900.0)  # too soon for a line
    now[0] += 11
    lines.step(6, 2.5, 1234.5)
    lines.step(10, 2.0, 1000.0)  # the last one always
    out, err = capfd.readouterr()
    assert out == ""
    assert err.splitlines() == [
        "penny8: step 6/10  loss 2.5000  1,234 tokens/s  0:24 left",
        "penny8: step 10/10  loss 2.0000  1,000 tokens/s  0:00 left",
    ]


def test_a_terminal_gets_a_bar_on_stderr(capfd, monkeypatch):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    bar = shown("penny8", 3)
    assert type(bar) is Bar
    with bar:
        bar.phase("evaluating")
        bar._progress.refresh()
        bar.phase("")
        bar.step(1, 2.5, 10.0)
        bar.step(3, 2.25, 10.0)
    out, err = capfd.readouterr()
    assert out == ""
    assert "loss 2.2500" in err
    assert "loss –" in err
    assert "evaluating" in err
    assert "nan" not in err


def test_without_a_terminal_lines_and_without_progress_nothing(capfd):
    assert type(shown("x", 3)) is Lines
    silent = shown("x", 3, progress=False)
    assert type(silent) is Silence
    with silent:
        silent.step(3, 1.0, 1.0)
        silent.phase("saving")
    assert capfd.readouterr() == ("", "")


def test_what_takes_time_before_the_first_step_is_told_on_stderr_or_in_the_log(capfd, caplog):
    teller("penny8")("splitting 2 documents")
    assert capfd.readouterr() == ("", "penny8: splitting 2 documents\n")
    with caplog.at_level("INFO"):
        teller("penny8", progress=False)("splitting 3 documents")
    assert capfd.readouterr().out == ""
    assert "splitting 3 documents" in caplog.text
