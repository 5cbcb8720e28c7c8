"""Who computes and who speaks, when."""

from pennyweight.parallel.synchronous import Synchronous

__all__ = ["Synchronous"]
