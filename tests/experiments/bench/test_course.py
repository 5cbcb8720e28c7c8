"""How long a bench takes: what is said before it begins, and of what is left."""

import pytest

from pennyweight.experiments.bench.course import SECONDS, Course, Quiet, expected
from pennyweight.experiments.bench.groups import GROUPS


def test_every_group_has_its_seconds() -> None:
    assert tuple(SECONDS) == GROUPS
    assert expected(["layer", "gpt2"], 10) == 5 + 10 * 0.7 + 30 + 10 * 18


def test_what_is_left_follows_the_machine(caplog: pytest.LogCaptureFixture) -> None:
    now = [0.0]
    with caplog.at_level("INFO", "pennyweight"), Course(["layer", "gpt2"], 10, clock=lambda: now[0]) as course:
        assert "about 3 min 42 s on two cores" in caplog.text
        now[0] = 24.0  # twice as long as the 12 seconds that the layers should take
        course.at("layer", 1.0)
        now[0] = 25.0
        course.at("layer", 1.0)  # too soon for a line
        now[0] = 2 * (12 + 105)
        course.at("gpt2", 0.5)
    assert [record.getMessage() for record in caplog.records[1:]] == [
        "layer: about 7 min 00 s left",
        "gpt2: about 3 min 30 s left",
    ]


def test_a_terminal_gets_a_bar(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "120")
    now = [0.0]
    with Course(["layer", "gpt2"], 10, clock=lambda: now[0]) as course:
        course.tell("layer: preparing bf16")
        now[0] = 12.0
        course.at("layer", 1.0)
    out, err = capfd.readouterr()
    assert out == ""
    assert "layer: preparing bf16" in err
    assert "about 3 min 30 s left" in err


def test_quiet_says_what_is_done_and_no_time(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", "pennyweight"), Quiet() as quiet:
        quiet.at("gpt2", 0.5)
        quiet.tell("gpt2: preparing fp32")
    assert [record.getMessage() for record in caplog.records] == ["gpt2: preparing fp32"]
