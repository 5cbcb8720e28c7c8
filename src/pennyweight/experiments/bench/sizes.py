"""Sizes: how large everything is that the bench measures, and on which device it lies."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Sizes:
    """The shapes of a GPT-2 of six layers, 768 wide; the tests take smaller ones.

    layers:    (inputs, outputs) of the linear layers whose products are timed, on batch x context tokens.
    matrices:  how many matrices of `layers[0]` an optimizer steps: 10 are 23.6 million parameters.
    device:    "cpu" or "cuda".
    """

    layers: tuple[tuple[int, int], ...] = ((768, 3072), (3072, 768), (768, 768))
    matrices: int = 10
    width: int = 768
    depth: int = 6
    heads: int = 12
    vocabulary: int = 8192
    batch: int = 8
    context: int = 512
    device: str = "cpu"

    @property
    def tokens(self) -> int:
        """Of one step."""
        return self.batch * self.context


# A GPU is done with the CPU's shapes before its next kernel is launched: it gets a larger model as well.
GPU = Sizes(
    layers=((768, 3072), (4096, 14336), (14336, 4096)), matrices=100, width=1536, depth=12, heads=12,
    vocabulary=32768, batch=8, context=1024, device="cuda",
)  # fmt: skip
