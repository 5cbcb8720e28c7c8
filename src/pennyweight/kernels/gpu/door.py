"""Door: whether the Triton kernels can be had here, and if not, why. Triton is imported when they are first used."""

import logging
import os
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType

import torch

OLDEST = (8, 0)  # compute capability: bfloat16, and 8-bit tensor cores that sum in int32
NAME = "Triton"
_logger = logging.getLogger("pennyweight")


@cache
def operators() -> ModuleType | None:
    """The operators of `operators.py`, imported if need be; None where they cannot be had, and the log says why."""
    why = obstacle()
    if why is None:
        try:
            return import_module("pennyweight.kernels.gpu.operators")
        except ImportError as error:
            why = str(error)
    _logger.warning("the Triton kernels are not used, PyTorch's own operators stand in: %s", why)
    return None


def obstacle() -> str | None:
    """Why the Triton kernels cannot be had, in one sentence; None where they can, or where the interpreter is on."""
    if os.environ.get("PENNYWEIGHT_KERNELS") == "off":
        return "PENNYWEIGHT_KERNELS is off"
    if find_spec("triton") is None:
        return "Triton is not installed; `pip install pennyweight[gpu]` brings it on Linux"
    if os.environ.get("TRITON_INTERPRET") == "1":
        return None
    if torch.version.hip is not None:
        return "they were written for NVIDIA's GPUs, and this PyTorch is for AMD's"
    if not torch.cuda.is_available():
        return "no GPU that PyTorch can use is here"
    if torch.cuda.get_device_capability() < OLDEST:
        return f"{torch.cuda.get_device_name()} is older than compute capability {OLDEST[0]}.{OLDEST[1]}"
    return None


def reason() -> str:
    """Why they are taken, where nothing stands in their way."""
    if torch.cuda.is_available():
        return f"{torch.cuda.get_device_name()} is here; compiled for it on first use"
    return "TRITON_INTERPRET is 1: Triton's interpreter runs them on CPU tensors, for tests"
