"""The C++ kernels are compiled once, kept, and done without where they cannot be had."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from pennyweight.kernels import compiled, integer_linear, write_rows
from pennyweight.numerics import cast

ASK = "from pennyweight.kernels.compiled import missing; print(missing())"


def asked(**environment: str) -> tuple[str, str]:
    """What `missing()` says in a process of its own, and what that process tells on stderr."""
    done = subprocess.run(
        [sys.executable, "-c", ASK], capture_output=True, text=True, env={**os.environ, **environment}, check=True
    )
    return done.stdout.strip(), done.stderr


def test_a_person_can_turn_the_kernels_off() -> None:
    said, told = asked(PENNYWEIGHT_KERNELS="off")
    assert said == "PENNYWEIGHT_KERNELS is off"
    assert told.count("PENNYWEIGHT_KERNELS is off") == 1


def test_without_a_compiler_one_sentence_says_so_and_nothing_is_left_behind(tmp_path: Path) -> None:
    said, told = asked(PENNYWEIGHT_KERNELS=str(tmp_path), CXX="/no/such/compiler")
    assert said not in ("", "None")
    assert "\n" not in said
    assert "Traceback" not in told
    (folder,) = tmp_path.iterdir()
    assert [path.name for path in folder.iterdir()] == ["lock"]


@pytest.mark.skipif(compiled.missing() is not None, reason=str(compiled.missing()))
def test_what_was_compiled_is_found_again() -> None:
    assert asked() == ("None", "")


def test_rows_are_the_same_without_the_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled, "missing", lambda: "hidden by a test")
    x = torch.randn(7, 19)
    assert not integer_linear.is_compiled(torch.zeros(7, 19, dtype=torch.int8), torch.randn(3, 19), torch.float32)
    assert torch.equal(write_rows(x).numbers, cast("int8/row").write(x).codes)
