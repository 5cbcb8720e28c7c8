"""Peak: how many operations a second this machine reaches when nothing has to be fetched, for shares of it."""

import logging
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

SOURCE = Path(__file__).with_name("peak.cpp")
_logger = logging.getLogger("pennyweight")


@dataclass(frozen=True)
class Machine:
    """Operations a second of the instructions that few-bit products live on; None where the machine has none."""

    instructions: str
    int8: float | None
    bf16: float | None

    def of(self, kind: str) -> float | None:
        """The peak of "int8" or "bf16"; None for anything else."""
        return {"int8": self.int8, "bf16": self.bf16}.get(kind)


def measured(threads: int) -> Machine | None:
    """This machine's peaks on so many threads; None, with a line in the log, where they cannot be measured."""
    compiler = shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        _logger.warning("the machine's peak is not measured: there is no C++ compiler")
        return None
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder) / "peak"
        try:
            build = [compiler, "-O2", "-pthread", str(SOURCE), "-o", str(program)]
            subprocess.run(build, check=True, capture_output=True, timeout=60)
            told = subprocess.run([str(program), str(threads)], check=True, capture_output=True, text=True, timeout=60)
        except (OSError, subprocess.SubprocessError) as error:
            _logger.warning("the machine's peak is not measured: %s", error)
            return None
    name, int8, bf16 = told.stdout.split()
    return Machine(name, float(int8) or None, float(bf16) or None)
