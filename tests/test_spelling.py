"""Spelling: a wrong name gets the one that was probably meant, and nothing where none is alike."""

import subprocess
import sys

import pytest

from pennyweight.spelling import check_fields, check_kind, choose, closest, nearest


def test_the_closest_name_is_offered_and_else_every_name() -> None:
    assert closest("peny8", ["bf16", "penny8", "penny4"]) == "penny8"
    assert closest("xyz", ["bf16", "penny8"]) is None
    assert nearest("peny8", ["bf16", "penny8"]) == "; did you mean 'penny8'?"
    assert nearest("xyz", ["bf16", "penny8"]) == "; there are bf16, penny8"


def test_fields_kinds_and_choices_are_refused_in_one_sentence() -> None:
    with pytest.raises(ValueError, match=r"^Run has no field 'sead'; did you mean 'seed'\?$"):
        check_fields("Run", {"sead": 3}, ["seed", "steps"])
    with pytest.raises(TypeError, match="^Run.steps is a whole number, got True$"):
        check_kind("Run.steps", True, int, "a whole number")
    with pytest.raises(ValueError, match=r"^Scale.number is one of fp32, e8m0, got 'e8m'; did you mean 'e8m0'\?$"):
        choose("Scale.number", "e8m", ["fp32", "e8m0"])
    check_kind("Run.quiet", True, bool, "true or false")


def test_spelling_imports_nothing_heavy_so_that_the_command_can_use_it_at_once() -> None:
    code = "import sys, pennyweight.spelling; assert 'torch' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == 0
