/* What oneDNN 2 (Debian 12, Ubuntu 22.04) and oneDNN 3 (Ubuntu 24.04) call by other names.
 *
 * In 2 a memory's description is a structure, in 3 a handle that must be destroyed. A zeroed one is
 * none in both. An operation's description was a step of its own in 2.
 */
#ifndef FM_TENSOR_CPU_ONEDNN_H
#define FM_TENSOR_CPU_ONEDNN_H
#include <dnnl.h>

#if DNNL_VERSION_MAJOR >= 3

typedef const_dnnl_memory_desc_t fm_onednn_desc_arg; /* what oneDNN's calls take */
static inline fm_onednn_desc_arg fm_onednn_arg(const dnnl_memory_desc_t *d) { return *d; }

static inline dnnl_status_t fm_onednn_describe(dnnl_memory_desc_t *d, int ndims,
                                               const dnnl_dims_t dims, dnnl_data_type_t dt,
                                               const dnnl_dims_t strides) {
    return dnnl_memory_desc_create_with_strides(d, ndims, dims, dt, strides);
}

static inline dnnl_status_t fm_onednn_copy(dnnl_memory_desc_t *d, fm_onednn_desc_arg from) {
    return dnnl_memory_desc_clone(d, from);
}

static inline void fm_onednn_forget(dnnl_memory_desc_t *d) {
    if (*d) dnnl_memory_desc_destroy(*d);
    *d = NULL;
}

static inline dnnl_status_t fm_onednn_append_sum(dnnl_post_ops_t post) {
    return dnnl_post_ops_append_sum(post, 1.0f, 0, dnnl_data_type_undef);
}

static inline dnnl_status_t fm_onednn_matmul(dnnl_primitive_desc_t *pd, dnnl_engine_t engine,
                                             const dnnl_memory_desc_t *a,
                                             const dnnl_memory_desc_t *b,
                                             const dnnl_memory_desc_t *c,
                                             const_dnnl_primitive_attr_t attr) {
    return dnnl_matmul_primitive_desc_create(pd, engine, *a, *b, NULL, *c, attr);
}

#else

typedef const dnnl_memory_desc_t *fm_onednn_desc_arg;
static inline fm_onednn_desc_arg fm_onednn_arg(const dnnl_memory_desc_t *d) { return d; }

static inline dnnl_status_t fm_onednn_describe(dnnl_memory_desc_t *d, int ndims,
                                               const dnnl_dims_t dims, dnnl_data_type_t dt,
                                               const dnnl_dims_t strides) {
    return dnnl_memory_desc_init_by_strides(d, ndims, dims, dt, strides);
}

static inline dnnl_status_t fm_onednn_copy(dnnl_memory_desc_t *d, fm_onednn_desc_arg from) {
    *d = *from;
    return dnnl_success;
}

static inline void fm_onednn_forget(dnnl_memory_desc_t *d) { (void)d; }

static inline dnnl_status_t fm_onednn_append_sum(dnnl_post_ops_t post) {
    return dnnl_post_ops_append_sum(post, 1.0f);
}

static inline dnnl_status_t fm_onednn_matmul(dnnl_primitive_desc_t *pd, dnnl_engine_t engine,
                                             const dnnl_memory_desc_t *a,
                                             const dnnl_memory_desc_t *b,
                                             const dnnl_memory_desc_t *c,
                                             const_dnnl_primitive_attr_t attr) {
    dnnl_matmul_desc_t desc;
    dnnl_status_t e = dnnl_matmul_desc_init(&desc, a, b, NULL, c);
    if (e != dnnl_success) return e;
    return dnnl_primitive_desc_create(pd, &desc, attr, engine, NULL);
}

#endif
#endif
