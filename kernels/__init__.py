"""GPU kernels in Triton, without autograd. None yet."""
