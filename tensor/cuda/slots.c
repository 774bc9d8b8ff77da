/* The slots that are one launch: set the GPU, find scratch, launch, check. */
#include "tensor/cuda/kernels.h"
#include "tensor/cuda/state.h"

/* Enters the device and calls the launcher with its stream. */
#define LAUNCH_SLOT(launcher, ...)                                                                 \
    do {                                                                                           \
        fm_cuda *cuda_;                                                                            \
        FM_TRY(fm_cuda_enter(dev, &cuda_));                                                        \
        CUDA_TRY(dev, launcher(cuda_->stream, __VA_ARGS__));                                       \
        return FM_OK;                                                                              \
    } while (0)

fm_status fm_cuda_cast(fm_device *dev, fm_dtype to, void *y, fm_dtype from, const void *x,
                       int64_t n) {
    if (fm_dtype_is_float(to) != fm_dtype_is_float(from)) {
        return fm_fail(dev->error, FM_ERR_UNSUPPORTED,
                       "cast: %s to %s: only float to float and int to int", fm_dtype_name(from),
                       fm_dtype_name(to));
    }
    LAUNCH_SLOT(fmk_cast, to, y, from, x, n);
}

fm_status fm_cuda_fill(fm_device *dev, fm_dtype dt, void *y, float value, int64_t n) {
    LAUNCH_SLOT(fmk_fill, dt, y, value, n);
}

fm_status fm_cuda_add(fm_device *dev, fm_dtype dt, void *y, const void *a, const void *b,
                      int64_t n) {
    LAUNCH_SLOT(fmk_add, dt, y, a, b, n);
}

fm_status fm_cuda_mul(fm_device *dev, fm_dtype dt, void *y, const void *a, const void *b, int64_t n,
                      bool accumulate) {
    LAUNCH_SLOT(fmk_mul, dt, y, a, b, n, accumulate);
}

fm_status fm_cuda_scale(fm_device *dev, fm_dtype y_dt, void *y, fm_dtype x_dt, const void *x,
                        float alpha, int64_t n, bool accumulate) {
    LAUNCH_SLOT(fmk_scale, y_dt, y, x_dt, x, alpha, n, accumulate);
}

fm_status fm_cuda_add_rows(fm_device *dev, fm_dtype dt, void *y, const void *a, const void *b,
                           int64_t rows, int64_t cols, int64_t period) {
    LAUNCH_SLOT(fmk_add_rows, dt, y, a, b, rows, cols, period);
}

fm_status fm_cuda_sum_rows(fm_device *dev, fm_dtype dt, float *db, const void *dy, int64_t rows,
                           int64_t cols, int64_t period, bool accumulate) {
    fm_cuda *cuda;
    void *scratch;
    FM_TRY(fm_cuda_enter(dev, &cuda));
    FM_TRY(fm_cuda_scratch(dev, fmk_column_scratch(rows, cols, period, 1), &scratch));
    CUDA_TRY(dev, fmk_sum_rows(cuda->stream, dt, db, dy, rows, cols, period, accumulate, scratch));
    return FM_OK;
}

fm_status fm_cuda_act_forward(fm_device *dev, fm_dtype dt, fm_act act, void *y, const void *x,
                              int64_t rows, int64_t cols) {
    LAUNCH_SLOT(fmk_act_forward, dt, act, y, x, rows, cols);
}

fm_status fm_cuda_act_backward(fm_device *dev, fm_dtype dt, fm_act act, void *dx, const void *x,
                               const void *dy, int64_t rows, int64_t cols, bool accumulate) {
    LAUNCH_SLOT(fmk_act_backward, dt, act, dx, x, dy, rows, cols, accumulate);
}

fm_status fm_cuda_dropout(fm_device *dev, fm_dtype dt, void *y, const void *x, int64_t rows,
                          int64_t cols, float p, const fm_rng_key *key, bool accumulate) {
    LAUNCH_SLOT(fmk_dropout, dt, y, x, rows, cols, p, key, accumulate);
}

fm_status fm_cuda_layer_norm_forward(fm_device *dev, fm_dtype dt, void *y, float *mean, float *rstd,
                                     const void *x, const void *w, const void *b, int64_t T,
                                     int64_t d, float eps) {
    LAUNCH_SLOT(fmk_layer_norm_forward, dt, y, mean, rstd, x, w, b, T, d, eps);
}

fm_status fm_cuda_layer_norm_backward(fm_device *dev, fm_dtype dt, void *dx, bool accumulate_x,
                                      float *dw, bool accumulate_w, float *db, bool accumulate_b,
                                      const void *dy, const void *x, const void *w,
                                      const float *mean, const float *rstd, int64_t T, int64_t d) {
    fm_cuda *cuda;
    void *scratch;
    FM_TRY(fm_cuda_enter(dev, &cuda));
    FM_TRY(fm_cuda_scratch(dev, fmk_column_scratch(T, d, 1, 2), &scratch));
    CUDA_TRY(dev, fmk_layer_norm_backward(cuda->stream, dt, dx, accumulate_x, dw, accumulate_w, db,
                                          accumulate_b, dy, x, w, mean, rstd, T, d, scratch));
    return FM_OK;
}

fm_status fm_cuda_rms_norm_forward(fm_device *dev, fm_dtype dt, void *y, float *rstd, const void *x,
                                   const void *w, int64_t T, int64_t d, float eps) {
    LAUNCH_SLOT(fmk_rms_norm_forward, dt, y, rstd, x, w, T, d, eps);
}

fm_status fm_cuda_rms_norm_backward(fm_device *dev, fm_dtype dt, void *dx, bool accumulate_x,
                                    float *dw, bool accumulate_w, const void *dy, const void *x,
                                    const void *w, const float *rstd, int64_t T, int64_t d) {
    fm_cuda *cuda;
    void *scratch;
    FM_TRY(fm_cuda_enter(dev, &cuda));
    FM_TRY(fm_cuda_scratch(dev, fmk_column_scratch(T, d, 1, 1), &scratch));
    CUDA_TRY(dev, fmk_rms_norm_backward(cuda->stream, dt, dx, accumulate_x, dw, accumulate_w, dy, x,
                                        w, rstd, T, d, scratch));
    return FM_OK;
}

fm_status fm_cuda_sum(fm_device *dev, float *y, const float *x, float factor, int64_t n,
                      bool accumulate) {
    fm_cuda *cuda;
    void *scratch;
    FM_TRY(fm_cuda_enter(dev, &cuda));
    FM_TRY(fm_cuda_scratch(dev, FMK_REDUCE_PARTS * sizeof(double), &scratch));
    CUDA_TRY(dev, fmk_sum(cuda->stream, y, x, factor, n, accumulate, scratch));
    return FM_OK;
}

fm_status fm_cuda_adamw(fm_device *dev, const fm_adamw_args *a) { LAUNCH_SLOT(fmk_adamw, a); }

fm_status fm_cuda_sum_squares(fm_device *dev, double *out, const float *g, int64_t n,
                              bool accumulate) {
    fm_cuda *cuda;
    void *scratch;
    FM_TRY(fm_cuda_enter(dev, &cuda));
    FM_TRY(fm_cuda_scratch(dev, (FMK_REDUCE_PARTS + 1) * sizeof(double), &scratch));
    double *parts = scratch, *total = parts + FMK_REDUCE_PARTS;
    CUDA_TRY(dev, fmk_sum_squares(cuda->stream, total, g, n, parts));
    CUDA_TRY(dev, cudaMemcpyAsync(cuda->host, total, sizeof *total, cudaMemcpyDeviceToHost,
                                  cuda->stream));
    CUDA_TRY(dev, cudaStreamSynchronize(cuda->stream));
    *out = accumulate ? *out + *cuda->host : *cuda->host;
    return FM_OK;
}
