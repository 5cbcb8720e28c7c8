"""Compiled: the C++ operators of `cpu/`, compiled for this machine on first use, kept, and found again.

Where they cannot be had (no compiler, PENNYWEIGHT_KERNELS=off), every caller has another door with the same results,
and the log says so once. PENNYWEIGHT_KERNELS also takes a folder to keep them in.
"""

import hashlib
import logging
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import ninja
import torch

from pennyweight.cache import cache_folder
from pennyweight.kernels.described import describe

SOURCES = Path(__file__).parent / "cpu"
# Contracted products would give other results on processors with and without fused multiply-add.
FLAGS = ("-O3", "-fopenmp", "-ffp-contract=off", "-fno-math-errno")
LIBRARY = "pennyweight_cpu"
LIMIT_S = 900  # seconds a compilation may take; half a minute is usual
_logger = logging.getLogger("pennyweight")


def operators() -> Any | None:
    """The namespace `torch.ops.pennyweight`, compiled and loaded if need be; None where it cannot be had."""
    return torch.ops.pennyweight if missing() is None else None


def required(what: str) -> Any:
    """The namespace `torch.ops.pennyweight`. Errors: RuntimeError in one sentence where it cannot be had."""
    if not are_loaded():
        raise absent(what, missing())
    return torch.ops.pennyweight


def absent(what: str, why: str | None) -> RuntimeError:
    """The error of `what`, whose operators cannot be had here."""
    return RuntimeError(f"{what} takes Pennyweight's compiled operators, which are not here: {why}")


@torch.compiler.assume_constant_result
def are_loaded() -> bool:
    """Whether the operators can be had; a constant to `torch.compile`."""
    return missing() is None


@cache
def missing() -> str | None:
    """Why the compiled operators cannot be had, in one sentence; None where they are loaded."""
    why = _obstacle()
    if why is None:
        try:
            library = _library()
            torch.ops.load_library(str(library))
            describe()
            # What `torch.compile` kept on disk for operators of another version has other shapes: it is not read.
            torch.compiler.config.cache_key_tag += f" pennyweight {library.parent.name}"
        except (OSError, subprocess.SubprocessError) as error:
            why = _last_line(error)
    if why is not None:
        _logger.warning("the C++ kernels are not used, PyTorch's own operators stand in: %s", why)
    return why


def _obstacle() -> str | None:
    if os.environ.get("PENNYWEIGHT_KERNELS") == "off":
        return "PENNYWEIGHT_KERNELS is off"
    if sys.platform != "linux":
        return f"they are compiled on Linux only, and this is {sys.platform}"
    return None


def _library() -> Path:
    """The compiled library of these sources, this PyTorch and this compiler, made if it is not there yet."""
    own = os.environ.get("PENNYWEIGHT_KERNELS")
    folder = (Path(own) if own else cache_folder() / "kernels") / _key()
    library = folder / f"{LIBRARY}.so"
    folder.mkdir(parents=True, exist_ok=True)
    with _locked(folder / "lock"):
        if not library.exists():
            _logger.warning("compiling the C++ kernels for this machine, once; it takes about half a minute")
            with tempfile.TemporaryDirectory(dir=folder) as build:
                _compile(Path(build))
                os.replace(Path(build) / library.name, library)
    return library


def _key() -> str:
    digest = hashlib.sha256(f"{torch.__version__} {sys.version_info[:2]} {FLAGS} {os.environ.get('CXX')}".encode())
    for source in sorted(SOURCES.iterdir()):
        digest.update(source.name.encode() + source.read_bytes())
    return digest.hexdigest()[:16]


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """One process compiles, the others wait; the lock of a process that died is gone with it."""
    import fcntl  # here, not at the top: Windows has none, and only Linux comes this far

    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _compile(build: Path) -> None:
    """In a process of its own, so that what the compilers print and the environment they want stay out of this one."""
    code = (
        "import sys; from torch.utils.cpp_extension import load; "
        "load(sys.argv[1], sys.argv[4:], extra_cflags=sys.argv[3].split(), build_directory=sys.argv[2],"
        " is_python_module=False)"
    )
    sources = [str(source) for source in sorted(SOURCES.glob("*.cpp"))]
    command = [sys.executable, "-c", code, LIBRARY, str(build), " ".join(FLAGS), *sources]
    environment = os.environ | {"PATH": os.pathsep.join((ninja.BIN_DIR, os.environ.get("PATH", "")))}
    subprocess.run(command, check=True, capture_output=True, text=True, timeout=LIMIT_S, env=environment)


def _last_line(error: Exception) -> str:
    """What a failed compilation said in the end."""
    text = getattr(error, "stderr", None) or str(error)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
