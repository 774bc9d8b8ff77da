/* A dense layer: one product, with bias and gelu in its epilogue where cuBLASLt can.
 *
 *   forward          y = act(x wᵀ + b)
 *   backward_input   dx (+)= dy w
 *   backward_weight  dw (+)= dyᵀ x, db (+)= Σ_t dy
 *
 * By a kernel of ours instead of the epilogue: gelu in fp32 (how exact cuBLASLt's is, its manual
 * does not say), relu (nor what becomes of a NaN, which must stay one), and every other activation.
 *
 * Floor: 2 T in out FLOPs each; a kernel of ours adds two passes over y [T, out].
 */
#include "tensor/cuda/kernels.h"
#include "tensor/cuda/state.h"

static fm_status only_dense(fm_device *dev, const char *slot, const fm_linear_args *a) {
    if (a->E == 1 && !a->offsets) return FM_OK;
    return fm_fail(dev->error, FM_ERR_UNSUPPORTED,
                   "%s on %s: %lld experts%s: the CUDA backend has grouped layers not yet, only "
                   "E = 1 without offsets",
                   slot, dev->name, (long long)a->E, a->offsets ? " with offsets" : "");
}

fm_status fm_cuda_linear_forward(fm_device *dev, const fm_linear_args *a) {
    fm_cuda *cuda;
    FM_TRY(only_dense(dev, "linear_forward", a));
    if (fm_act_is_glu(a->act)) {
        return fm_fail(dev->error, FM_ERR_UNSUPPORTED,
                       "linear_forward on %s: activation %s: a glu is an operation of its own",
                       dev->name, fm_act_name(a->act));
    }
    if (a->T == 0 || a->out == 0) return FM_OK;
    FM_TRY(fm_cuda_enter(dev, &cuda));

    fm_gemm_args g = {.dt = a->dt,
                      .c_dt = a->dt,
                      .trans_b = true,
                      .m = a->T,
                      .n = a->out,
                      .k = a->in,
                      .batch = 1,
                      .a = a->x,
                      .b = a->w,
                      .c = a->y,
                      .lda = a->in,
                      .ldb = a->in,
                      .ldc = a->out};
    bool done;
    /* Always with the second output, into scratch where nobody wants it: whether a pass keeps `pre`
     * must not choose another kernel, since recomputation has to give the same bits. That output
     * wants rows of a multiple of 8. */
    if (a->act == FM_ACT_GELU && a->dt == FM_BF16 && a->out % 8 == 0) {
        void *aux = a->pre;
        if (!aux) {
            FM_TRY(fm_cuda_scratch(dev, (size_t)(a->T * a->out) * fm_dtype_size(a->dt), &aux));
        }
        FM_TRY(fm_cuda_gemm_epilogue(dev, &g, a->b, true, aux, &done));
        if (done) return FM_OK;
    }
    if (a->pre) g.c = a->pre;
    FM_TRY(fm_cuda_gemm_epilogue(dev, &g, a->b, false, NULL, &done));
    if (!done) {
        FM_TRY(fm_cuda_gemm(dev, &g));
        if (a->b) CUDA_TRY(dev, fmk_add_rows(cuda->stream, a->dt, g.c, g.c, a->b, a->T, a->out, 1));
    }
    if (a->act == FM_ACT_NONE && g.c == a->y) return FM_OK;
    CUDA_TRY(dev, fmk_act_forward(cuda->stream, a->dt, a->act, a->y, g.c, a->T, a->out));
    return FM_OK;
}

fm_status fm_cuda_linear_backward_input(fm_device *dev, const fm_linear_args *a, void *dx,
                                        const void *dy, bool accumulate) {
    FM_TRY(only_dense(dev, "linear_backward_input", a));
    fm_gemm_args g = {.dt = a->dt,
                      .c_dt = a->dt,
                      .accumulate = accumulate,
                      .m = a->T,
                      .n = a->in,
                      .k = a->out,
                      .batch = 1,
                      .a = dy,
                      .b = a->w,
                      .c = dx,
                      .lda = a->out,
                      .ldb = a->in,
                      .ldc = a->in};
    return fm_cuda_gemm(dev, &g);
}

fm_status fm_cuda_linear_backward_weight(fm_device *dev, const fm_linear_args *a, float *dw,
                                         bool accumulate_w, float *db, bool accumulate_b,
                                         const void *dy) {
    FM_TRY(only_dense(dev, "linear_backward_weight", a));
    if (dw) {
        fm_gemm_args g = {.dt = a->dt,
                          .c_dt = FM_F32,
                          .trans_a = true,
                          .accumulate = accumulate_w,
                          .m = a->out,
                          .n = a->in,
                          .k = a->T,
                          .batch = 1,
                          .a = dy,
                          .b = a->x,
                          .c = dw,
                          .lda = a->out,
                          .ldb = a->in,
                          .ldc = a->in};
        FM_TRY(fm_cuda_gemm(dev, &g));
    }
    if (!db) return FM_OK;
    return fm_cuda_sum_rows(dev, a->dt, db, dy, a->T, a->out, 1, accumulate_b);
}
