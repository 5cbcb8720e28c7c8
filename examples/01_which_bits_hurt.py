"""How much of a tensor survives in few bits? Decibels of Gaussian numbers and of numbers with outliers, by format."""

import torch

from pennyweight.numerics import cast, fidelity

torch.manual_seed(0)
gaussian = torch.randn(512, 768)
outliers = gaussian.clone()
outliers[:, :4] *= 20  # four loud channels, as trained transformers have them

print(f"{'cast':<30}{'Gaussian':>10}{'outliers':>10}   dB: about 6 a bit, more is better")
for name in ("int8/tensor", "int8/row", "int4/row", "int4/block32", "int4/block32/hadamard32", "e2m1/nv", "e4m3/row"):
    print(f"{name:<30}{fidelity(gaussian, cast(name)).db:>10.1f}{fidelity(outliers, cast(name)).db:>10.1f}")
