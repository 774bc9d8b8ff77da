#include "parallel/shards.h"

int fm_cut_segment(fm_comm *comm, fm_dtype dtype, bool sharded, fm_span segment, int64_t elements,
                   fm_bucket *out) {
    int64_t unit = (int64_t)FM_ALIGN * comm->size;
    /* Alone there is nothing to overlap with. */
    int64_t most = comm->size == 1 ? segment.n : (elements + unit - 1) / unit * unit;
    int n = 0;
    for (int64_t at = 0; at < segment.n; at += most, n++) {
        if (!out) continue;
        int64_t left = segment.n - at, size = left < most ? left : most, piece = size / comm->size;
        fm_bucket *b = &out[n];
        *b = (fm_bucket){.comm = comm,
                         .dtype = dtype,
                         .sharded = sharded && comm->size > 1,
                         .all = {segment.start + at, size},
                         .own = {segment.start + at + comm->rank * piece, piece}};
        b->update = b->sharded ? b->own : b->all;
    }
    return n;
}
