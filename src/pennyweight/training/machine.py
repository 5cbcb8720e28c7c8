"""The machine: what a run was computed on and with, so that its numbers can be judged."""

import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

PACKAGES = ("torch", "transformers", "tokenizers", "datasets", "safetensors", "numpy", "pydantic")

FEATURES = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8")


def device() -> str:
    """Where models are trained: the GPU if there is one, else the CPU."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def machine() -> dict[str, Any]:
    """System, processor, cores, threads, memory and device."""
    return {
        "system": platform.platform(),
        "processor": processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory_bytes": memory_bytes(),
        "device": torch.cuda.get_device_name() if device() == "cuda" else "cpu",
    }


def memory_bytes() -> int | None:
    """All memory of the machine; None where the system does not tell."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else None


def versions() -> dict[str, str]:
    """Python, Pennyweight and the packages whose versions may change a number."""
    return {
        "python": platform.python_version(),
        "pennyweight": version("pennyweight"),
        **{package: version(package) for package in PACKAGES},
    }


def commit() -> str | None:
    """The commit of the source this runs from; None where it is no git checkout."""
    here = Path(__file__).parent
    for question in (["ls-files", "--error-unmatch", Path(__file__).name], ["rev-parse", "HEAD"]):
        try:
            answer = subprocess.run(["git", *question], cwd=here, capture_output=True, text=True, timeout=5)
        except (OSError, subprocess.TimeoutExpired):
            return None
        if answer.returncode != 0:
            return None
    return answer.stdout.strip()


def processor() -> str:
    """The processor's name."""
    return _cpuinfo("model name") or platform.processor() or platform.machine()


def features() -> dict[str, bool]:
    """Which of the instructions that few-bit arithmetic lives on are there; empty where the system does not tell."""
    flags = set(_cpuinfo("flags").split())
    return {name: name in flags for name in FEATURES} if flags else {}


def _cpuinfo(field: str) -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(field)), "")
