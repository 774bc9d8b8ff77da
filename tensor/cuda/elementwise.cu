/* cast, fill, add, mul, scale: y[i] = f(a[i], b[i]), a thread does 16 bytes at a time.
 *
 * In place is allowed (y == a or b): a thread reads its elements before it writes them.
 *
 * Bytes per element of size e (floor: those over the copy bandwidth, 4.3 TB/s on an H200):
 *   cast e_from + e_to; fill e; add 3e; mul 3e, 4e accumulating; scale e_x + e_y, + e_y accumulating.
 */
#include "tensor/cuda/launch.h"

/* V consecutive elements a turn where pointers allow it, else V = 1. The last, incomplete turn
 * belongs to exactly one thread: turns start at the multiples of V. */
#define FOR_TURNS(i, n, V)                                                                         \
    int64_t turn_step_ = (int64_t)gridDim.x * blockDim.x * V;                                      \
    int64_t i = ((int64_t)blockIdx.x * blockDim.x + threadIdx.x) * V;                              \
    for (; i + V <= n; i += turn_step_)

/* Float to float by way of fp32; integer to integer, cut to the low bits where it does not fit. */
template <class To, class From> static __device__ inline To convert(From x) {
    return from_float<To>(to_float(x));
}
template <> __device__ inline int32_t convert<int32_t, int64_t>(int64_t x) { return (int32_t)x; }
template <> __device__ inline int64_t convert<int64_t, int32_t>(int32_t x) { return x; }
template <> __device__ inline int32_t convert<int32_t, int32_t>(int32_t x) { return x; }
template <> __device__ inline int64_t convert<int64_t, int64_t>(int64_t x) { return x; }

template <class To, class From, int V>
static __global__ void cast(To *y, const From *x, int64_t n) {
    FOR_TURNS(i, n, V) {
        pack<From, V> in = *reinterpret_cast<const pack<From, V> *>(x + i);
        pack<To, V> out;
#pragma unroll
        for (int j = 0; j < V; j++) out.v[j] = convert<To, From>(in.v[j]);
        *reinterpret_cast<pack<To, V> *>(y + i) = out;
    }
    for (; i < n; i++) y[i] = convert<To, From>(x[i]);
}

template <class T, int V> static __global__ void fill(T *y, T value, int64_t n) {
    pack<T, V> out;
#pragma unroll
    for (int j = 0; j < V; j++) out.v[j] = value;
    FOR_TURNS(i, n, V) * reinterpret_cast<pack<T, V> *>(y + i) = out;
    for (; i < n; i++) y[i] = value;
}

struct add_op {
    static __device__ float of(float a, float b) { return a + b; }
};
struct mul_op {
    static __device__ float of(float a, float b) { return a * b; }
};

template <class Op, class T, bool ACCUMULATE, int V>
static __global__ void binary(T *y, const T *a, const T *b, int64_t n) {
    FOR_TURNS(i, n, V) {
        float u[V], v[V], r[V];
        load<V>(a + i, u);
        load<V>(b + i, v);
        if (ACCUMULATE) load<V>(y + i, r);
#pragma unroll
        for (int j = 0; j < V; j++)
            r[j] = ACCUMULATE ? r[j] + Op::of(u[j], v[j]) : Op::of(u[j], v[j]);
        store<V>(y + i, r);
    }
    for (; i < n; i++) {
        float r = Op::of(to_float(a[i]), to_float(b[i]));
        y[i] = from_float<T>(ACCUMULATE ? to_float(y[i]) + r : r);
    }
}

template <class Y, class X, bool ACCUMULATE, int V>
static __global__ void scale(Y *y, const X *x, float alpha, int64_t n) {
    FOR_TURNS(i, n, V) {
        float u[V], r[V];
        load<V>(x + i, u);
        if (ACCUMULATE) load<V>(y + i, r);
#pragma unroll
        for (int j = 0; j < V; j++) r[j] = ACCUMULATE ? r[j] + alpha * u[j] : alpha * u[j];
        store<V>(y + i, r);
    }
    for (; i < n; i++) {
        float r = alpha * to_float(x[i]);
        y[i] = from_float<Y>(ACCUMULATE ? to_float(y[i]) + r : r);
    }
}

cudaError_t fmk_probe(void) {
    cudaFuncAttributes attributes;
    return cudaFuncGetAttributes(&attributes, (const void *)fill<float, 4>);
}

template <class To, class From>
static cudaError_t launch_cast(cudaStream_t s, void *y, const void *x, int64_t n) {
    const int V = width<To, From>::value;
    if (aligned16(y, x)) {
        LAUNCH((cast<To, From, V>), grid_for(n, BLOCK * V), BLOCK, s, (To *)y, (const From *)x, n);
    } else {
        LAUNCH((cast<To, From, 1>), grid_for(n, BLOCK), BLOCK, s, (To *)y, (const From *)x, n);
    }
    return cudaGetLastError();
}

cudaError_t fmk_cast(cudaStream_t s, fm_dtype to, void *y, fm_dtype from, const void *x,
                     int64_t n) {
    if (fm_dtype_is_float(to) != fm_dtype_is_float(from)) return cudaErrorInvalidValue;
    if (n <= 0) return cudaSuccess;
    if (fm_dtype_is_float(to)) {
        WITH_FLOAT_TYPE(to, To,
                        { WITH_FLOAT_TYPE(from, From, return launch_cast<To, From>(s, y, x, n)); });
    }
    if (to == FM_I32) {
        return from == FM_I32 ? launch_cast<int32_t, int32_t>(s, y, x, n)
                              : launch_cast<int32_t, int64_t>(s, y, x, n);
    }
    return from == FM_I32 ? launch_cast<int64_t, int32_t>(s, y, x, n)
                          : launch_cast<int64_t, int64_t>(s, y, x, n);
}

template <class T> static cudaError_t launch_fill(cudaStream_t s, void *y, T value, int64_t n) {
    const int V = width<T>::value;
    if (aligned16(y)) {
        LAUNCH((fill<T, V>), grid_for(n, BLOCK * V), BLOCK, s, (T *)y, value, n);
    } else {
        LAUNCH((fill<T, 1>), grid_for(n, BLOCK), BLOCK, s, (T *)y, value, n);
    }
    return cudaGetLastError();
}

cudaError_t fmk_fill(cudaStream_t s, fm_dtype dt, void *y, float value, int64_t n) {
    if (n <= 0) return cudaSuccess;
    switch (dt) {
    case FM_F32:
        return launch_fill(s, y, value, n);
    case FM_BF16:
        return launch_fill(s, y, fm_f32_to_bf16(value), n);
    case FM_I32:
        return launch_fill(s, y, (int32_t)value, n);
    case FM_I64:
        return launch_fill(s, y, (int64_t)value, n);
    }
    return cudaErrorInvalidValue;
}

template <class Op, class T, bool ACCUMULATE>
static cudaError_t launch_binary(cudaStream_t s, T *y, const T *a, const T *b, int64_t n) {
    const int V = width<T>::value;
    if (aligned16(y, a, b)) {
        LAUNCH((binary<Op, T, ACCUMULATE, V>), grid_for(n, BLOCK * V), BLOCK, s, y, a, b, n);
    } else {
        LAUNCH((binary<Op, T, ACCUMULATE, 1>), grid_for(n, BLOCK), BLOCK, s, y, a, b, n);
    }
    return cudaGetLastError();
}

cudaError_t fmk_add(cudaStream_t s, fm_dtype dt, void *y, const void *a, const void *b, int64_t n) {
    if (n <= 0) return cudaSuccess;
    WITH_FLOAT_TYPE(
        dt, T, return launch_binary<add_op, T, false>(s, (T *)y, (const T *)a, (const T *)b, n));
}

cudaError_t fmk_mul(cudaStream_t s, fm_dtype dt, void *y, const void *a, const void *b, int64_t n,
                    bool accumulate) {
    if (n <= 0) return cudaSuccess;
    WITH_FLOAT_TYPE(dt, T, {
        if (accumulate) {
            return launch_binary<mul_op, T, true>(s, (T *)y, (const T *)a, (const T *)b, n);
        }
        return launch_binary<mul_op, T, false>(s, (T *)y, (const T *)a, (const T *)b, n);
    });
}

template <class Y, class X, bool ACCUMULATE>
static cudaError_t launch_scale(cudaStream_t s, Y *y, const X *x, float alpha, int64_t n) {
    const int V = width<Y, X>::value;
    if (aligned16(y, x)) {
        LAUNCH((scale<Y, X, ACCUMULATE, V>), grid_for(n, BLOCK * V), BLOCK, s, y, x, alpha, n);
    } else {
        LAUNCH((scale<Y, X, ACCUMULATE, 1>), grid_for(n, BLOCK), BLOCK, s, y, x, alpha, n);
    }
    return cudaGetLastError();
}

cudaError_t fmk_scale(cudaStream_t s, fm_dtype y_dt, void *y, fm_dtype x_dt, const void *x,
                      float alpha, int64_t n, bool accumulate) {
    if (n <= 0) return cudaSuccess;
    WITH_FLOAT_TYPE(y_dt, Y, {
        WITH_FLOAT_TYPE(x_dt, X, {
            if (accumulate) {
                return launch_scale<Y, X, true>(s, (Y *)y, (const X *)x, alpha, n);
            }
            return launch_scale<Y, X, false>(s, (Y *)y, (const X *)x, alpha, n);
        });
    });
}
