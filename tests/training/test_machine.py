"""The machine is told as the system tells it."""

import os
import platform
import sys
from pathlib import Path

import pytest

from pennyweight.training.machine import features, machine, memory_bytes, processor, versions

CPUINFO = """processor\t: 0
model name\t: A Processor @ 2.0GHz
flags\t\t: fpu avx2 avx512f amx_int8

processor\t: 1
model name\t: Another
flags\t\t: fpu
"""


@pytest.fixture
def linux(tmp_path, monkeypatch):
    """A system whose /proc/cpuinfo is known."""
    path = tmp_path / "cpuinfo"
    path.write_text(CPUINFO)
    room = sys.modules[machine.__module__]  # the package shows its function of that name
    monkeypatch.setattr(room, "Path", lambda name: path if name == "/proc/cpuinfo" else Path(name))
    return path


def test_processor_and_features_are_those_of_the_first_core(linux):
    assert processor() == "A Processor @ 2.0GHz"
    assert {name for name, there in features().items() if there} == {"avx2", "avx512f", "amx_int8"}
    assert features()["avx512_vnni"] is False


def test_a_system_without_cpuinfo_still_has_a_name_and_tells_no_features(linux):
    linux.unlink()
    assert processor() == (platform.processor() or platform.machine())
    assert features() == {}


def test_memory_is_what_the_system_has_in_all():
    meminfo = Path("/proc/meminfo")
    if not meminfo.is_file():
        pytest.skip("no /proc/meminfo to compare with")
    assert memory_bytes() == int(meminfo.read_text().split()[1]) * 1024  # MemTotal in KiB, the first line


def test_what_may_change_a_number_is_named():
    assert machine()["cores"] == os.cpu_count()
    assert versions()["python"] == platform.python_version()
    assert {"torch", "transformers", "pennyweight"} <= versions().keys()
