#include "tensor/alloc.h"

#include "tensor/plan.h"

#include <stdlib.h>
#include <string.h>

/* Sizes are rounded up to an eighth of their power of two (64 bytes at least), which wastes at most
 * 12.5 % and gives blocks of similar sizes a common bin. */
enum { N_BINS = 8 * 48, GUARD = 64, MIN_SIZE = 64 };

typedef struct block {
    void *base;   /* from the backend */
    void *data;   /* what the caller sees */
    size_t size;  /* rounded */
    size_t bytes; /* wanted */
    int bin;
    struct block *next; /* in its bin, while free; in its hash chain, while used */
} block;

enum { N_CHAINS = 1024 };

struct fm_allocator {
    fm_device *dev;
    fm_error *err;
    fm_alloc_stats stats;
    int64_t fail_at;
    bool keep_all;
    block *bins[N_BINS];
    block *used[N_CHAINS]; /* by address: device memory can hold no headers */
};

static int bin_of(size_t bytes, size_t *rounded) {
    size_t size = bytes < MIN_SIZE ? MIN_SIZE : bytes;
    int log2 = 63 - __builtin_clzll((unsigned long long)size);
    size_t step = (size_t)1 << (log2 > 3 + 6 ? log2 - 3 : 6);
    size = (size + step - 1) / step * step;
    log2 = 63 - __builtin_clzll((unsigned long long)size);
    *rounded = size;
    int eighth = log2 > 3 ? (int)((size >> (log2 - 3)) & 7) : 0;
    return (log2 - 6) * 8 + eighth;
}

static size_t chain_of(const void *p) {
    return (size_t)(((uintptr_t)p >> 6) * 0x9e3779b97f4a7c15ull >> 54) % N_CHAINS;
}

#ifdef FM_HOSTILE
/* Uninitialised memory reads as NaN (or -1), and a write in front of it or behind what was asked
 * for is found on free. */
static void poison(fm_allocator *a, block *b) {
    if (!a->dev->on_host || fm_device_plans(a->dev)) return;
    memset(b->base, 0xa5, GUARD);
    memset(b->data, 0xff, b->bytes);
    memset((char *)b->data + b->bytes, 0xa5, b->size - b->bytes + GUARD);
}
static void check_guards(const fm_allocator *a, const block *b) {
    if (!a->dev->on_host || fm_device_plans(a->dev)) return;
    const unsigned char *front = b->base, *data = b->data;
    bool whole = true;
    for (size_t i = 0; i < GUARD; i++) whole &= front[i] == 0xa5;
    for (size_t i = b->bytes; i < b->size + GUARD; i++) whole &= data[i] == 0xa5;
    if (!whole) abort(); /* memory is corrupt: nothing is safe */
}
#else
static void poison(fm_allocator *a, block *b) { (void)a, (void)b; }
static void check_guards(const fm_allocator *a, const block *b) { (void)a, (void)b; }
#endif

fm_status fm_allocator_new(fm_device *dev, fm_error *err, fm_allocator **out) {
    *out = calloc(1, sizeof **out);
    if (!*out) return fm_fail(err, FM_ERR_OOM, "allocator: no memory for its own tables");
    (*out)->dev = dev;
    (*out)->err = err;
    (*out)->fail_at = -1;
    return FM_OK;
}

static void give_back(fm_allocator *a, block *b) {
    a->dev->ops->mem_free(a->dev, b->base);
    a->stats.reserved -= b->size;
    free(b);
}

/* Gives cached blocks back, the largest first, until `limit` bytes are reserved. */
static void shrink(fm_allocator *a, size_t limit) {
    for (int i = N_BINS - 1; i >= 0; i--)
        while (a->bins[i] && a->stats.reserved > limit) {
            block *b = a->bins[i];
            a->bins[i] = b->next;
            give_back(a, b);
        }
}

void fm_alloc_trim(fm_allocator *a) { shrink(a, 0); }

/* `size` more bytes are wanted, and no cached block is of that size. Where sizes change from step to
 * step, blocks of sizes that do not come again would pile up: half of the most that was in use at one
 * time is enough to keep. */
static void make_room(fm_allocator *a, size_t size) {
    size_t most = a->stats.peak_in_use;
    if (most < a->stats.in_use + size) most = a->stats.in_use + size;
    size_t limit = most + most / 2;
    shrink(a, limit > size ? limit - size : 0);
}

void fm_allocator_free(fm_allocator *a) {
    if (!a) return;
    fm_alloc_trim(a);
    /* Blocks still out belong to tensors that outlive their context: freed all the same. */
    for (int i = 0; i < N_CHAINS; i++)
        while (a->used[i]) {
            block *b = a->used[i];
            a->used[i] = b->next;
            give_back(a, b);
        }
    free(a);
}

static fm_status from_backend(fm_allocator *a, int bin, size_t size, block **out) {
    block *b = calloc(1, sizeof *b);
    if (!b) return fm_fail(a->err, FM_ERR_OOM, "allocator: no memory for a block's record");
    size_t guards = 0;
#ifdef FM_HOSTILE
    guards = 2 * GUARD;
#endif
    fm_status status = a->dev->ops->mem_alloc(a->dev, size + guards, &b->base);
    if (status != FM_OK) {
        free(b);
        return status;
    }
    b->data = (char *)b->base + guards / 2;
    b->size = size;
    b->bin = bin;
    a->stats.n_backend++;
    a->stats.reserved += size;
    if (a->stats.reserved > a->stats.peak_reserved) a->stats.peak_reserved = a->stats.reserved;
    *out = b;
    return FM_OK;
}

fm_status fm_alloc(fm_allocator *a, size_t bytes, void **out) {
    *out = NULL;
    a->stats.n_alloc++;
    if (a->fail_at >= 0 && a->fail_at-- == 0)
        return fm_fail(a->err, FM_ERR_OOM, "out of memory: %zu bytes wanted (injected failure)",
                       bytes);
    if (bytes > (size_t)1 << 52)
        return fm_fail(a->err, FM_ERR_OOM, "out of memory: %zu bytes wanted, more than any machine",
                       bytes);
    size_t size;
    int bin = bin_of(bytes, &size);
    block *b = NULL;
    /* A block of the next two classes serves as well and saves a call; more would waste memory. */
    for (int i = bin; !b && i <= bin + 2 && i < N_BINS; i++)
        if (a->bins[i]) {
            b = a->bins[i];
            a->bins[i] = b->next;
        }
    if (!b) make_room(a, size);
    if (!b && from_backend(a, bin, size, &b) != FM_OK) {
        /* The backend is full; what is cached in other sizes may be what is missing. */
        fm_alloc_trim(a);
        fm_error_clear(a->err);
        if (from_backend(a, bin, size, &b) != FM_OK) {
            fm_error_clear(a->err);
            return fm_fail(a->err, FM_ERR_OOM,
                           "out of memory on %s: %zu bytes wanted, %zu bytes in use (peak %zu)",
                           a->dev->name, bytes, a->stats.in_use, a->stats.peak_in_use);
        }
    }
    b->bytes = bytes;
    size_t chain = chain_of(b->data);
    b->next = a->used[chain];
    a->used[chain] = b;
    a->stats.in_use += b->size;
    if (a->stats.in_use > a->stats.peak_in_use) a->stats.peak_in_use = a->stats.in_use;
    poison(a, b);
    *out = b->data;
    return FM_OK;
}

void fm_alloc_keep_all(fm_allocator *a) { a->keep_all = true; }

void fm_dealloc(fm_allocator *a, void *p) {
    if (!p || a->keep_all) return;
    for (block **at = &a->used[chain_of(p)]; *at; at = &(*at)->next) {
        block *b = *at;
        if (b->data != p) continue;
        check_guards(a, b);
        *at = b->next;
        a->stats.in_use -= b->size;
        if (fm_device_plans(a->dev)) { /* its fresh memory is zero, what was used is not */
            give_back(a, b);
            return;
        }
        b->next = a->bins[b->bin];
        a->bins[b->bin] = b;
        return;
    }
}

fm_alloc_stats fm_alloc_get_stats(const fm_allocator *a) { return a->stats; }

void fm_alloc_reset_peak(fm_allocator *a) {
    a->stats.peak_in_use = a->stats.in_use;
    a->stats.peak_reserved = a->stats.reserved;
}

void fm_alloc_fail_at(fm_allocator *a, int64_t n) { a->fail_at = n; }
