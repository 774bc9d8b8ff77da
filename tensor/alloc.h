/* A caching allocator over a backend's alloc and free.
 *
 * Training allocates the same sizes every step; freed blocks are kept in bins by
 * size class and handed out again; those that do not fit are given back while more than 1.5 times the
 * peak in use is reserved. Not thread-safe: one owner, the context.
 * Blocks are 64-byte aligned. FM_HOSTILE builds fill new blocks with NaN patterns,
 * put guard words around them and check those on free.
 */
#ifndef FM_TENSOR_ALLOC_H
#define FM_TENSOR_ALLOC_H
#include "tensor/status.h"

#include <stddef.h>
#include <stdint.h>

struct fm_device;
typedef struct fm_allocator fm_allocator;

typedef struct fm_alloc_stats {
    size_t in_use;      /* bytes handed out now, after rounding */
    size_t peak_in_use; /* most of them since creation or fm_alloc_reset_peak */
    size_t reserved;    /* bytes taken from the backend */
    size_t peak_reserved;
    int64_t n_alloc;   /* calls of fm_alloc */
    int64_t n_backend; /* of which had to ask the backend */
} fm_alloc_stats;

fm_status fm_allocator_new(struct fm_device *dev, fm_error *err, fm_allocator **out);
void fm_allocator_free(fm_allocator *a); /* every block must be back; NULL is legal */

/* At least `bytes` bytes (0 gives a valid block). FM_ERR_OOM names the size and what is in use;
 * cached blocks are released and the call tried again before it fails. */
fm_status fm_alloc(fm_allocator *a, size_t bytes, void **out);
void fm_dealloc(fm_allocator *a, void *p); /* NULL is legal */

/* From now on what is freed stays as it is, for ever: a message that failed may still be written into it. */
void fm_alloc_keep_all(fm_allocator *a);

fm_alloc_stats fm_alloc_get_stats(const fm_allocator *a);
void fm_alloc_reset_peak(fm_allocator *a);
void fm_alloc_trim(fm_allocator *a); /* gives cached blocks back to the backend */

/* Testing: the n-th fm_alloc from now fails (0 = the next one); -1 turns it off. */
void fm_alloc_fail_at(fm_allocator *a, int64_t n);

#endif
