"""GPU kernels in Triton: the operators of `cpu/` for an NVIDIA GPU, one room per operation."""
