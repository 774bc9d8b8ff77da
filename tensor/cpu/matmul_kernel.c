#include "tensor/cpu/matmul_kernel.h"

#include <omp.h>
#include <stdint.h>

/* [rows, cols] of an array whose rows (its columns, where transposed) are ld elements apart. */
static dnnl_status_t describe(dnnl_memory_desc_t *md, dnnl_data_type_t dt, int64_t rows,
                              int64_t cols, bool trans, int64_t ld) {
    dnnl_dims_t dims = {rows, cols};
    dnnl_dims_t strides = {trans ? 1 : ld, trans ? ld : 1};
    return fm_onednn_describe(md, 2, dims, dt, strides);
}

static dnnl_status_t add_to_result(dnnl_primitive_attr_t attr) {
    dnnl_post_ops_t post;
    dnnl_status_t e = dnnl_post_ops_create(&post);
    if (e != dnnl_success) return e;
    e = fm_onednn_append_sum(post);
    if (e == dnnl_success) e = dnnl_primitive_attr_set_post_ops(attr, post);
    dnnl_post_ops_destroy(post);
    return e;
}

/* Scratch memory is the caller's: oneDNN's own belongs to the thread that made the primitive. */
static dnnl_status_t plan(dnnl_primitive_desc_t *pd, const fm_matmul_kernel *k,
                          dnnl_engine_t engine) {
    dnnl_primitive_attr_t attr;
    dnnl_status_t e = dnnl_primitive_attr_create(&attr);
    if (e != dnnl_success) return e;
    e = dnnl_primitive_attr_set_scratchpad_mode(attr, dnnl_scratchpad_mode_user);
    if (e == dnnl_success && k->tile.add) e = add_to_result(attr);
    if (e == dnnl_success) e = fm_onednn_matmul(pd, engine, &k->a, &k->b, &k->c, attr);
    dnnl_primitive_attr_destroy(attr);
    return e;
}

/* The scratch memory that the primitive will ask for, and the primitive. */
static dnnl_status_t build(fm_matmul_kernel *k, dnnl_primitive_desc_t pd) {
    fm_onednn_desc_arg scratch = dnnl_primitive_desc_query_md(pd, dnnl_query_scratchpad_md, 0);
    if (scratch) {
        dnnl_status_t e = fm_onednn_copy(&k->scratch, scratch);
        if (e != dnnl_success) return e;
        k->scratch_bytes = dnnl_memory_desc_get_size(scratch);
    }
    dnnl_status_t e = dnnl_primitive_create(&k->primitive, pd);
    if (e != dnnl_success) k->primitive = NULL;
    return e;
}

dnnl_status_t fm_matmul_kernel_make(fm_matmul_kernel *k, dnnl_engine_t engine,
                                    const fm_matmul *tile) {
    *k = (fm_matmul_kernel){.tile = *tile};
    dnnl_data_type_t dt = tile->dt == FM_BF16 ? dnnl_bf16 : dnnl_f32;
    dnnl_status_t e = describe(&k->a, dt, tile->m, tile->k, tile->trans_a, tile->lda);
    if (e == dnnl_success) e = describe(&k->b, dt, tile->k, tile->n, tile->trans_b, tile->ldb);
    if (e == dnnl_success) e = describe(&k->c, dnnl_f32, tile->m, tile->n, false, tile->ldc);
    /* The number of threads is baked in: one. */
    int threads = omp_get_max_threads();
    omp_set_num_threads(1);
    dnnl_primitive_desc_t pd;
    if (e == dnnl_success) e = plan(&pd, k, engine);
    if (e == dnnl_success) {
        e = build(k, pd);
        dnnl_primitive_desc_destroy(pd);
    }
    omp_set_num_threads(threads);
    if (e != dnnl_success) fm_matmul_kernel_clear(k);
    return e;
}

void fm_matmul_kernel_clear(fm_matmul_kernel *k) {
    if (k->primitive) dnnl_primitive_destroy(k->primitive);
    k->primitive = NULL;
    fm_onednn_forget(&k->a);
    fm_onednn_forget(&k->b);
    fm_onednn_forget(&k->c);
    fm_onednn_forget(&k->scratch);
}

dnnl_status_t fm_matmul_kernel_run(const fm_matmul_kernel *k, dnnl_engine_t engine,
                                   dnnl_stream_t stream, void *scratch, const void *a,
                                   const void *b, float *c) {
    /* oneDNN's interface has no const; it reads a and b only. */
    const struct {
        int argument;
        fm_onednn_desc_arg desc;
        void *data;
    } operands[] = {{DNNL_ARG_SRC, fm_onednn_arg(&k->a), (void *)(uintptr_t)a},
                    {DNNL_ARG_WEIGHTS, fm_onednn_arg(&k->b), (void *)(uintptr_t)b},
                    {DNNL_ARG_DST, fm_onednn_arg(&k->c), c},
                    {DNNL_ARG_SCRATCHPAD, fm_onednn_arg(&k->scratch), scratch}};
    dnnl_exec_arg_t args[4];
    dnnl_status_t e = dnnl_success;
    int n = 0, count = k->scratch_bytes > 0 ? 4 : 3;
    while (n < count) {
        args[n].arg = operands[n].argument;
        e = dnnl_memory_create(&args[n].memory, operands[n].desc, engine, operands[n].data);
        if (e != dnnl_success) break;
        n++;
    }
    if (e == dnnl_success) e = dnnl_primitive_execute(k->primitive, stream, n, args);
    if (e == dnnl_success) e = dnnl_stream_wait(stream);
    while (n > 0) dnnl_memory_destroy(args[--n].memory);
    return e;
}
