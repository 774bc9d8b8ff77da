/* act_forward: y = act(x), or act(x[:, :h]) * x[:, h:] for the glu forms; act_backward.
 *
 *   gelu      x/2 (1 + tanh u), u = √(2/π) (x + 0.044715 x³)     Hendrycks & Gimpel 2016
 *   gelu_erf  x/2 (1 + erf(x/√2))
 *   relu2     max(x, 0)²                                          So et al. 2021
 *   silu      x / (1 + e^-x);   swiglu, geglu                     Shazeer 2020
 *
 * Bytes per element of size e: forward 2e (glu 3e per output), backward 3e (glu 5e), and the
 * gradient once more when accumulating. Floor: those over the copy bandwidth (4.3 TB/s on an H200).
 */
#include "tensor/cuda/launch.h"

template <int ACT> static __device__ inline float act(float x);
template <int ACT> static __device__ inline float slope(float x);

template <> __device__ inline float act<FM_ACT_NONE>(float x) { return x; }
template <> __device__ inline float slope<FM_ACT_NONE>(float) { return 1; }

/* x sigmoid(2u) is x/2 (1 + tanh u) without its cancellation for negative x. */
static __device__ inline float gelu_sigmoid(float x) {
    return 1 / (1 + expf(-1.5957691216f * x * (1 + 0.044715f * x * x)));
}
template <> __device__ inline float act<FM_ACT_GELU>(float x) { return x * gelu_sigmoid(x); }
template <> __device__ inline float slope<FM_ACT_GELU>(float x) {
    float s = gelu_sigmoid(x), rest = s * (1 - s);
    /* Far out rest is 0 and its factor may be infinite. */
    if (rest == 0) return s;
    return s + x * rest * 1.5957691216f * (1 + 3 * 0.044715f * x * x);
}

template <> __device__ inline float act<FM_ACT_GELU_ERF>(float x) {
    return 0.5f * x * (1 + erff(x * 0.7071067812f));
}
template <> __device__ inline float slope<FM_ACT_GELU_ERF>(float x) {
    return 0.5f * (1 + erff(x * 0.7071067812f)) + x * 0.3989422804f * expf(-0.5f * x * x);
}

/* Comparisons are written so that a NaN falls through to itself. */
template <> __device__ inline float act<FM_ACT_RELU>(float x) { return x < 0 ? 0 : x; }
template <> __device__ inline float slope<FM_ACT_RELU>(float x) {
    return x > 0 ? 1 : x <= 0 ? 0 : x;
}
template <> __device__ inline float act<FM_ACT_RELU2>(float x) { return x < 0 ? 0 : x * x; }
template <> __device__ inline float slope<FM_ACT_RELU2>(float x) { return x < 0 ? 0 : 2 * x; }

template <> __device__ inline float act<FM_ACT_SILU>(float x) { return x / (1 + expf(-x)); }
template <> __device__ inline float slope<FM_ACT_SILU>(float x) {
    float sigmoid = 1 / (1 + expf(-x));
    return sigmoid * (1 + x * (1 - sigmoid));
}

template <int ACT, class T, int V> static __global__ void forward(T *y, const T *x, int64_t n) {
    int64_t step = (int64_t)gridDim.x * blockDim.x * V;
    int64_t i = ((int64_t)blockIdx.x * blockDim.x + threadIdx.x) * V;
    for (; i + V <= n; i += step) {
        float u[V];
        load<V>(x + i, u);
#pragma unroll
        for (int j = 0; j < V; j++) u[j] = act<ACT>(u[j]);
        store<V>(y + i, u);
    }
    for (; i < n; i++) y[i] = from_float<T>(act<ACT>(to_float(x[i])));
}

template <int ACT, class T, int V>
static __global__ void backward(T *dx, const T *x, const T *dy, int64_t n, bool accumulate) {
    int64_t step = (int64_t)gridDim.x * blockDim.x * V;
    int64_t i = ((int64_t)blockIdx.x * blockDim.x + threadIdx.x) * V;
    for (; i + V <= n; i += step) {
        float u[V], g[V], r[V];
        load<V>(x + i, u);
        load<V>(dy + i, g);
        if (accumulate) load<V>(dx + i, r);
#pragma unroll
        for (int j = 0; j < V; j++) {
            float d = g[j] * slope<ACT>(u[j]);
            r[j] = accumulate ? r[j] + d : d;
        }
        store<V>(dx + i, r);
    }
    for (; i < n; i++) {
        float d = to_float(dy[i]) * slope<ACT>(to_float(x[i]));
        dx[i] = from_float<T>(accumulate ? to_float(dx[i]) + d : d);
    }
}

/* h is a multiple of V: a turn stays in one row. */
template <int ACT, class T, int V>
static __global__ void glu_forward(T *y, const T *x, int64_t rows, int64_t h) {
    int64_t step = (int64_t)gridDim.x * blockDim.x * V, n = rows * h;
    for (int64_t i = ((int64_t)blockIdx.x * blockDim.x + threadIdx.x) * V; i < n; i += step) {
        const T *gate = x + i + i / h * h; /* row * 2h + column */
        float g[V], u[V];
        load<V>(gate, g);
        load<V>(gate + h, u);
#pragma unroll
        for (int j = 0; j < V; j++) u[j] = act<ACT>(g[j]) * u[j];
        store<V>(y + i, u);
    }
}

template <int ACT, class T, int V>
static __global__ void glu_backward(T *dx, const T *x, const T *dy, int64_t rows, int64_t h,
                                    bool accumulate) {
    int64_t step = (int64_t)gridDim.x * blockDim.x * V, n = rows * h;
    for (int64_t i = ((int64_t)blockIdx.x * blockDim.x + threadIdx.x) * V; i < n; i += step) {
        int64_t at = i + i / h * h;
        float g[V], u[V], d[V], old_g[V], old_u[V];
        load<V>(x + at, g);
        load<V>(x + at + h, u);
        load<V>(dy + i, d);
        if (accumulate) {
            load<V>(dx + at, old_g);
            load<V>(dx + at + h, old_u);
        }
#pragma unroll
        for (int j = 0; j < V; j++) {
            float dg = d[j] * u[j] * slope<ACT>(g[j]), du = d[j] * act<ACT>(g[j]);
            g[j] = accumulate ? old_g[j] + dg : dg;
            u[j] = accumulate ? old_u[j] + du : du;
        }
        store<V>(dx + at, g);
        store<V>(dx + at + h, u);
    }
}

template <int ACT, class T>
static cudaError_t launch_forward(cudaStream_t s, T *y, const T *x, int64_t rows, int64_t cols) {
    const int V = width<T>::value;
    int64_t n = rows * cols;
    if (aligned16(y, x)) {
        LAUNCH((forward<ACT, T, V>), grid_for(n, BLOCK * V), BLOCK, s, y, x, n);
    } else {
        LAUNCH((forward<ACT, T, 1>), grid_for(n, BLOCK), BLOCK, s, y, x, n);
    }
    return cudaGetLastError();
}

template <int ACT, class T>
static cudaError_t launch_backward(cudaStream_t s, T *dx, const T *x, const T *dy, int64_t rows,
                                   int64_t cols, bool accumulate) {
    const int V = width<T>::value;
    int64_t n = rows * cols;
    if (aligned16(dx, x, dy)) {
        LAUNCH((backward<ACT, T, V>), grid_for(n, BLOCK * V), BLOCK, s, dx, x, dy, n, accumulate);
    } else {
        LAUNCH((backward<ACT, T, 1>), grid_for(n, BLOCK), BLOCK, s, dx, x, dy, n, accumulate);
    }
    return cudaGetLastError();
}

template <int ACT, class T>
static cudaError_t launch_glu_forward(cudaStream_t s, T *y, const T *x, int64_t rows, int64_t h) {
    const int V = width<T>::value;
    int64_t n = rows * h;
    if (aligned16(y, x) && h % V == 0) {
        LAUNCH((glu_forward<ACT, T, V>), grid_for(n, BLOCK * V), BLOCK, s, y, x, rows, h);
    } else {
        LAUNCH((glu_forward<ACT, T, 1>), grid_for(n, BLOCK), BLOCK, s, y, x, rows, h);
    }
    return cudaGetLastError();
}

template <int ACT, class T>
static cudaError_t launch_glu_backward(cudaStream_t s, T *dx, const T *x, const T *dy, int64_t rows,
                                       int64_t h, bool accumulate) {
    const int V = width<T>::value;
    int64_t n = rows * h;
    if (aligned16(dx, x, dy) && h % V == 0) {
        LAUNCH((glu_backward<ACT, T, V>), grid_for(n, BLOCK * V), BLOCK, s, dx, x, dy, rows, h,
               accumulate);
    } else {
        LAUNCH((glu_backward<ACT, T, 1>), grid_for(n, BLOCK), BLOCK, s, dx, x, dy, rows, h,
               accumulate);
    }
    return cudaGetLastError();
}

/* One line an activation: its case, and which launcher with which function. */
#define ACT_CASES(T, direction, ...)                                                               \
    switch (kind) {                                                                                \
    case FM_ACT_NONE:                                                                              \
        return launch_##direction<FM_ACT_NONE, T>(__VA_ARGS__);                                    \
    case FM_ACT_GELU:                                                                              \
        return launch_##direction<FM_ACT_GELU, T>(__VA_ARGS__);                                    \
    case FM_ACT_GELU_ERF:                                                                          \
        return launch_##direction<FM_ACT_GELU_ERF, T>(__VA_ARGS__);                                \
    case FM_ACT_RELU:                                                                              \
        return launch_##direction<FM_ACT_RELU, T>(__VA_ARGS__);                                    \
    case FM_ACT_RELU2:                                                                             \
        return launch_##direction<FM_ACT_RELU2, T>(__VA_ARGS__);                                   \
    case FM_ACT_SILU:                                                                              \
        return launch_##direction<FM_ACT_SILU, T>(__VA_ARGS__);                                    \
    case FM_ACT_SWIGLU:                                                                            \
        return launch_glu_##direction<FM_ACT_SILU, T>(__VA_ARGS__);                                \
    case FM_ACT_GEGLU:                                                                             \
        return launch_glu_##direction<FM_ACT_GELU, T>(__VA_ARGS__);                                \
    case FM_ACT_COUNT:                                                                             \
        break;                                                                                     \
    }                                                                                              \
    return cudaErrorInvalidValue

cudaError_t fmk_act_forward(cudaStream_t s, fm_dtype dt, fm_act kind, void *y, const void *x,
                            int64_t rows, int64_t cols) {
    if (rows <= 0 || cols <= 0) return cudaSuccess;
    WITH_FLOAT_TYPE(dt, T, ACT_CASES(T, forward, s, (T *)y, (const T *)x, rows, cols));
}

cudaError_t fmk_act_backward(cudaStream_t s, fm_dtype dt, fm_act kind, void *dx, const void *x,
                             const void *dy, int64_t rows, int64_t cols, bool accumulate) {
    if (rows <= 0 || cols <= 0) return cudaSuccess;
    WITH_FLOAT_TYPE(
        dt, T,
        ACT_CASES(T, backward, s, (T *)dx, (const T *)x, (const T *)dy, rows, cols, accumulate));
}
