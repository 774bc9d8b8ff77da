/* Loops over the rows and columns of a normalisation: LANES threads (a warp, or the whole block) have
 * a row each, and take turns of V columns; d is a multiple of V. */
#ifndef FM_TENSOR_CUDA_NORM_H
#define FM_TENSOR_CUDA_NORM_H
#include "tensor/cuda/launch.h"

#define FOR_ROWS(row, T_rows)                                                                      \
    for (int64_t row = (int64_t)blockIdx.x * (BLOCK / LANES) + threadIdx.x / LANES; row < T_rows;  \
         row += (int64_t)gridDim.x * (BLOCK / LANES))
#define FOR_COLS(c, d) for (int64_t c = (int64_t)(threadIdx.x % LANES) * V; c < d; c += LANES * V)

/* fast: 16-byte accesses. Which lanes serve a row depends on d alone. */
#define BY_WIDTH(fast, d, T, launch, ...)                                                          \
    do {                                                                                           \
        const int V_ = width<T>::value;                                                            \
        if ((d) <= 1024) {                                                                         \
            if (fast) return launch<T, WARP, V_>(__VA_ARGS__);                                     \
            return launch<T, WARP, 1>(__VA_ARGS__);                                                \
        }                                                                                          \
        if (fast) return launch<T, BLOCK, V_>(__VA_ARGS__);                                        \
        return launch<T, BLOCK, 1>(__VA_ARGS__);                                                   \
    } while (0)

#endif
