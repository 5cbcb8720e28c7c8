"""The machine's peak, where a compiler is there to measure it with."""

import shutil

import pytest

from pennyweight.experiments.bench import peak
from pennyweight.training.machine import features


@pytest.mark.skipif(shutil.which("c++") is None, reason="the peak is measured by a compiled program")
def test_the_peak_is_that_of_the_best_instructions_here() -> None:
    found = peak.measured(1)
    assert found is not None
    there = features()
    assert (found.instructions == "AMX") == (there["amx_int8"] and there["amx_bf16"])
    if found.instructions == "AMX":
        assert found.int8 is not None
        assert found.bf16 is not None
        assert 1e11 < found.bf16 < found.int8 < 1e14  # one core; int8 tiles hold twice the terms


def test_without_a_compiler_there_is_no_peak(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert peak.measured(1) is None


def test_a_peak_is_asked_for_by_the_kind_of_numbers() -> None:
    machine = peak.Machine("AVX-512", 2.0, None)
    assert (machine.of("int8"), machine.of("bf16"), machine.of("")) == (2.0, None, None)
