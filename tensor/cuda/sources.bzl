"""The files of the CUDA backend, for its own BUILD file and the emulation's."""

# One operation a file; tests/tensor/cuda/emulate compiles the same ones for the CPU.
KERNELS = [
    "activation.cu",
    "adamw.cu",
    "copy_2d.cu",
    "dropout.cu",
    "elementwise.cu",
    "layer_norm.cu",
    "reduce.cu",
    "rms_norm.cu",
    "rows.cu",
]

KERNEL_HEADERS = [
    "column_sum.h",
    "kernels.h",
    "launch.h",
    "norm.h",
]

HOST = [
    "gemm.c",
    "linear.c",
    "memory.c",
    "plugin.c",
    "slots.c",
    "state.h",
]
