#include "tensor/cpu/matmul.h"

#include "tensor/cpu/device.h"
#include "tensor/cpu/matmul_kernel.h"

#include <omp.h>
#include <stdlib.h>

enum {
    PLACES = 1024, /* of the hash table, a power of two */
    MAX_KERNELS =
        512, /* beyond, all are dropped: some 20 KiB of code each, tens of shapes a model */
};

/* The device's `products`. */
typedef struct cache {
    dnnl_engine_t engine;
    dnnl_stream_t *streams; /* one per thread: a stream is not for several at once */
    int threads;
    int kernels;
    size_t scratch_bytes; /* of each thread: the most that any kernel wants */
    char *scratch;
    fm_matmul_kernel places[PLACES];
} cache;

bool fm_matmul_serves(fm_dtype dt) {
#if defined(__x86_64__)
    /* The bits of a wider set contain the narrower one's. */
    unsigned wanted = dnnl_cpu_isa_avx512_core_bf16;
    return dt == FM_BF16 && ((unsigned)dnnl_get_effective_cpu_isa() & wanted) == wanted;
#else
    (void)dt;
    return false;
#endif
}

static fm_status fail(fm_device *dev, const char *what, dnnl_status_t e) {
    return fm_fail(dev->error, e == dnnl_out_of_memory ? FM_ERR_OOM : FM_ERR_DEVICE,
                   "%s: oneDNN failed with dnnl_status_t %d", what, (int)e);
}

static void drop_kernels(cache *c) {
    for (int i = 0; i < PLACES; i++) fm_matmul_kernel_clear(&c->places[i]);
    c->kernels = 0;
}

static void free_cache(void *products) {
    cache *c = products;
    drop_kernels(c);
    for (int t = 0; t < c->threads; t++) dnnl_stream_destroy(c->streams[t]);
    free(c->streams);
    free(c->scratch);
    dnnl_engine_destroy(c->engine);
    free(c);
}

static fm_status new_cache(fm_device *dev) {
    fm_cpu *cpu = dev->impl;
    cache *c = calloc(1, sizeof *c);
    if (!c) return fm_fail(dev->error, FM_ERR_OOM, "cpu: no memory for %zu bytes", sizeof *c);
    dnnl_status_t e = dnnl_engine_create(&c->engine, dnnl_cpu, 0);
    if (e != dnnl_success) {
        free(c);
        return fail(dev, "cpu: the engine of products", e);
    }
    cpu->products = c;
    cpu->free_products = free_cache;
    return FM_OK;
}

static fm_status add_streams(fm_device *dev, cache *c, int threads) {
    if (threads <= c->threads) return FM_OK;
    dnnl_stream_t *grown = realloc(c->streams, (size_t)threads * sizeof *grown);
    if (!grown) return fm_fail(dev->error, FM_ERR_OOM, "cpu: no memory for %d streams", threads);
    c->streams = grown;
    for (; c->threads < threads; c->threads++) {
        dnnl_status_t e = dnnl_stream_create(&c->streams[c->threads], c->engine,
                                             dnnl_stream_default_flags);
        if (e != dnnl_success) return fail(dev, "cpu: a stream of products", e);
    }
    c->scratch_bytes = 0; /* one for each thread: allocate anew */
    return FM_OK;
}

fm_status fm_matmul_begin(fm_device *dev) {
    fm_cpu *cpu = dev->impl;
    if (!cpu->products) FM_TRY(new_cache(dev));
    cache *c = cpu->products;
    if (c->kernels >= MAX_KERNELS) drop_kernels(c);
    return add_streams(dev, c, omp_get_max_threads());
}

static bool same(const fm_matmul *a, const fm_matmul *b) {
    return a->dt == b->dt && a->trans_a == b->trans_a && a->trans_b == b->trans_b &&
           a->add == b->add && a->m == b->m && a->n == b->n && a->k == b->k && a->lda == b->lda &&
           a->ldb == b->ldb && a->ldc == b->ldc;
}

/* The kernel of a tile, or the unused place where it belongs; NULL: the table is full. */
static fm_matmul_kernel *find(cache *c, const fm_matmul *t) {
    uint64_t h = (uint64_t)t->dt | (uint64_t)t->trans_a << 4 | (uint64_t)t->trans_b << 5 |
                 (uint64_t)t->add << 6;
    const int64_t sizes[] = {t->m, t->n, t->k, t->lda, t->ldb, t->ldc};
    for (int i = 0; i < 6; i++) h = fm_mix64(h ^ (uint64_t)sizes[i]);
    for (uint64_t i = 0; i < PLACES; i++) {
        fm_matmul_kernel *k = &c->places[(h + i) & (PLACES - 1)];
        if (!k->primitive || same(&k->tile, t)) return k;
    }
    return NULL;
}

static fm_status grow_scratch(fm_device *dev, cache *c, size_t bytes) {
    enum { ALIGN = 4096 };
    bytes = (bytes + ALIGN - 1) / ALIGN * ALIGN;
    if (c->scratch && bytes <= c->scratch_bytes) return FM_OK;
    free(c->scratch);
    c->scratch = aligned_alloc(ALIGN, (size_t)c->threads * (bytes > 0 ? bytes : ALIGN));
    c->scratch_bytes = c->scratch ? bytes : 0;
    if (!c->scratch)
        return fm_fail(dev->error, FM_ERR_OOM, "cpu: no memory for %zu bytes of %d threads", bytes,
                       c->threads);
    return FM_OK;
}

fm_status fm_matmul_prepare(fm_device *dev, const fm_matmul *tile) {
    cache *c = ((fm_cpu *)dev->impl)->products;
    fm_matmul_kernel *k = find(c, tile);
    if (!k)
        return fm_fail(dev->error, FM_ERR_UNSUPPORTED,
                       "cpu: an operation of more than %d shapes of tiles", PLACES);
    if (!k->primitive) {
        dnnl_status_t e = fm_matmul_kernel_make(k, c->engine, tile);
        if (e != dnnl_success) return fail(dev, "cpu: making a product", e);
        c->kernels++;
    }
    return grow_scratch(dev, c, k->scratch_bytes);
}

int fm_matmul_run(fm_device *dev, const fm_matmul *tile, const void *a, const void *b, float *out) {
    cache *c = ((fm_cpu *)dev->impl)->products;
    const fm_matmul_kernel *k = find(c, tile);
    if (!k || !k->primitive) return dnnl_invalid_arguments; /* not prepared */
    int thread = omp_get_thread_num();
    void *scratch = c->scratch + (size_t)thread * c->scratch_bytes;
    return (int)fm_matmul_kernel_run(k, c->engine, c->streams[thread], scratch, a, b, out);
}

fm_status fm_matmul_failed(fm_device *dev, const char *slot, int error) {
    return fail(dev, slot, (dnnl_status_t)error);
}
