/* y = a b or a bᵀ, plain or batched. */
#include "tensor/ops/check.h"

/* dx (+)= op(a) op(b) */
static fm_status product_into(fm_ctx *ctx, fm_tensor *x, fm_gemm_args gemm) {
    fm_grad dx;
    FM_TRY(fm_grad_begin(ctx, x, fm_grad_dtype(x), &dx));
    if (dx.data) {
        gemm.c = dx.data;
        gemm.c_dt = fm_grad_dtype(x);
        gemm.accumulate = dx.accumulate;
        FM_TRY(FM_KERNEL(ctx, gemm, &gemm));
    }
    return fm_grad_end(ctx, &dx);
}

/* y = a b:   da = dy bᵀ,  db = aᵀ dy
 * y = a bᵀ:  da = dy b,   db = dyᵀ a */
static fm_status matmul_backward(fm_ctx *ctx, fm_node *node) {
    fm_tensor *a = node->inputs[0], *b = node->inputs[1], *dy = node->dout[0];
    if (!dy) return FM_OK;
    bool trans_b = *(const bool *)node->attrs;
    int64_t batch = dy->ndim == 3 ? dy->shape[0] : 1;
    int64_t m = dy->shape[dy->ndim - 2], n = fm_cols_of(dy), k = fm_cols_of(a);
    FM_TRY(product_into(ctx, a,
                        (fm_gemm_args){.dt = dy->dtype,
                                       .trans_b = !trans_b,
                                       .m = m,
                                       .n = k,
                                       .k = n,
                                       .batch = batch,
                                       .a = dy->data,
                                       .b = b->data,
                                       .lda = n,
                                       .ldb = trans_b ? k : n,
                                       .ldc = k,
                                       .batch_a = m * n,
                                       .batch_b = k * n,
                                       .batch_c = m * k}));
    fm_gemm_args to_b = {.dt = dy->dtype,
                         .trans_a = true,
                         .m = k,
                         .n = n,
                         .k = m,
                         .batch = batch,
                         .a = a->data,
                         .b = dy->data,
                         .lda = k,
                         .ldb = n,
                         .ldc = n,
                         .batch_a = m * k,
                         .batch_b = m * n,
                         .batch_c = k * n};
    if (trans_b) {
        to_b.m = n, to_b.n = k;
        to_b.a = dy->data, to_b.b = a->data;
        to_b.lda = n, to_b.ldb = k, to_b.ldc = k;
        to_b.batch_a = m * n, to_b.batch_b = m * k;
    }
    return product_into(ctx, b, to_b);
}

fm_status fm_matmul(fm_ctx *ctx, fm_tensor **y, fm_tensor *a, fm_tensor *b, bool trans_b) {
    *y = NULL;
    FM_TRY(fm_check_float(ctx, "matmul", "a", a));
    FM_TRY(fm_check_ndim(ctx, "matmul", "a", a, 2, 3));
    FM_TRY(fm_check_same_dtype(ctx, "matmul", "b", b, "a", a));
    FM_TRY(fm_check_ndim(ctx, "matmul", "b", b, a->ndim, a->ndim));
    int r = a->ndim - 2; /* index of the row dimension */
    FM_CHECK(r == 0 || a->shape[0] == b->shape[0], FM_ERR_SHAPE,
             "matmul: b is %s; its first dimension must be a's, %" PRId64 " (a is %s)", FM_TEXT(b),
             a->shape[0], FM_TEXT(a));
    int64_t m = a->shape[r], k = a->shape[r + 1], n = b->shape[trans_b ? r : r + 1];
    FM_CHECK(b->shape[trans_b ? r + 1 : r] == k, FM_ERR_SHAPE,
             "matmul: b is %s; its %s dimension must be a's last, %" PRId64 " (a is %s)",
             FM_TEXT(b), trans_b ? "last" : "last but one", k, FM_TEXT(a));
    int64_t batch = r == 0 ? 1 : a->shape[0];
    fm_tensor *product = NULL;
    fm_status status;
    if (r == 0) {
        FM_TRY_GOTO(FM_NEW(ctx, &product, a->dtype, m, n));
    } else {
        FM_TRY_GOTO(FM_NEW(ctx, &product, a->dtype, batch, m, n));
    }
    FM_TRY_GOTO(FM_KERNEL(ctx, gemm,
                          &(fm_gemm_args){.dt = a->dtype,
                                          .c_dt = a->dtype,
                                          .trans_b = trans_b,
                                          .m = m,
                                          .n = n,
                                          .k = k,
                                          .batch = batch,
                                          .a = a->data,
                                          .b = b->data,
                                          .c = product->data,
                                          .lda = k,
                                          .ldb = trans_b ? k : n,
                                          .ldc = n,
                                          .batch_a = m * k,
                                          .batch_b = k * n,
                                          .batch_c = m * n}));
    FM_TRY_GOTO(fm_tape_record(ctx, &(fm_record){.name = "matmul",
                                                 .backward = matmul_backward,
                                                 .inputs = {a, b},
                                                 .n_inputs = 2,
                                                 .outputs = {product},
                                                 .n_outputs = 1,
                                                 .attrs = &trans_b,
                                                 .attrs_size = sizeof trans_b}));
out:
    return fm_op_end(status, y, product);
}
