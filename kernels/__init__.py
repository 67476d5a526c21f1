"""GPU kernels in Triton, without autograd, each op in the file of its name. Importing this imports no Triton.

elementary, coefficients    exp, tanh, ... of blocks
activations                 every activation, orders 0 to 3 (made by fusegrad.activations.generate)
own                         adds those that a user defined
act                         elementwise passes; launch: over tensors of any layout, on their device
act_streams                 an activation of all streams of a Laplacian, and its backward
passes                      what follows a matrix product, and what comes before its derivatives
gemm, gemm_gated            matrix products with an epilogue
chain, chain_kernels        a network of narrow layers, in one kernel
linear_act, mm_dact, gated  a layer, its backward and that of the layer before, by cuBLAS and a pass or by gemm
choice, tables/             which of them, measured by `python -m fusegrad tune`
interpreter                 the same on CPU tensors, without a GPU
offline                     compiles all of it for any GPU, and says what each kernel takes
"""

# op: the module that computes it. Left out: plain products, which cuBLAS computes for the reference, and what is made
# of other ops.
SERVED = {
    "act": "act",
    "act_vjp": "act",
    "act_jvp": "act",
    "linear_act": "linear_act",
    "linear_act_backward": "linear_act",
    "mm_dact": "mm_dact",
    "gated": "gated",
    "gated_backward": "gated",
    "mul_constant": "act",
}
