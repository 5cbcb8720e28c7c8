"""`pennyweight doctor`: what this machine is, and which door each operation takes on it, and why."""

import platform
import shutil
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from pennyweight.cache import cache_folder
from pennyweight.cli.flags import Json
from pennyweight.cli.terminal import print_json, print_table

PEER = "nothing here runs on it; a peer to measure against"
OPTIONAL = {"triton": "the kernels of an NVIDIA GPU", "torchao": PEER, "bitsandbytes": PEER}


def doctor(json: Json = False) -> None:
    """Say what this machine can do and which way each operation takes."""
    told = examine()
    if json:
        print_json(told)
        return
    print_table(("machine", ""), [(key.replace("_", " "), _text(value)) for key, value in told["machine"].items()])
    print_table(("operation", "door", "why"), [(one["operation"], one["door"], one["why"]) for one in told["doors"]])
    print_table(
        ("optional package", "version", "for"),
        [(one["name"], one["version"] or "absent", one["for"]) for one in told["optional"]],
    )


def examine() -> dict[str, Any]:
    """Everything that doctor says, for machines."""
    import torch

    from pennyweight.kernels import doctor as doors
    from pennyweight.training.machine import features, machine

    told = {
        "python": platform.python_version(), "pennyweight": version("pennyweight"), "torch": torch.__version__,
        **machine(), "torch_cpu_capability": torch.backends.cpu.get_cpu_capability(), "features": features(),
        "gpus": [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())],
        "compiler": shutil.which("c++") or shutil.which("g++") or shutil.which("clang++"), "cache": str(cache_folder()),
    }  # fmt: skip
    optional = [{"name": name, "version": _version(name), "for": purpose} for name, purpose in OPTIONAL.items()]
    return {"machine": told, "doors": [door._asdict() for door in doors()], "optional": optional}


def _text(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    if isinstance(value, dict):
        return ", ".join(f"{name} {'yes' if there else 'no'}" for name, there in value.items())
    return "none" if value is None else str(value)


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
