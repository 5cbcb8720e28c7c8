"""Pennyweight: pre-train transformer language models in few bits, and say honestly what that costs.

Public names are loaded when first used (PEP 562), so that `import pennyweight` and `pennyweight --help` are instant.
"""

from importlib import import_module

__version__ = "0.1.0"

_PUBLIC = {
    "quantize": "pennyweight.nn",
    "recipe": "pennyweight.recipes",
    "Recipe": "pennyweight.recipes",
    "train": "pennyweight.training",
    "Run": "pennyweight.training",
    "Result": "pennyweight.training",
    "compare": "pennyweight.experiments",
    "sweep": "pennyweight.experiments",
    "search": "pennyweight.experiments.search",
}
_FLOORS = (
    "numerics",
    "kernels",
    "recipes",
    "nn",
    "optim",
    "data",
    "parallel",
    "analysis",
    "training",
    "experiments",
    "cli",
)

__all__ = ["__version__", "optim", *_PUBLIC]


def __getattr__(name: str) -> object:
    if name in _PUBLIC:
        return getattr(import_module(_PUBLIC[name]), name)
    if name in _FLOORS:
        return import_module(f"pennyweight.{name}")
    raise AttributeError(f"module 'pennyweight' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, *_FLOORS])
