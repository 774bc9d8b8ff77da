#include "parallel/param_layout.h"

#include <stdlib.h>

/* fp32 first: their offsets are those of the masters, which they are. */
enum { DTYPES = 2 };
static const fm_dtype dtypes[DTYPES] = {FM_F32, FM_BF16};

static int64_t round_up(int64_t n, int64_t unit) { return (n + unit - 1) / unit * unit; }

/* The parameters of a segment, from `at` on, and what fills it up to whole pieces. */
static fm_span place(fm_param_set *s, fm_replicas replicas, fm_dtype dtype, int64_t at,
                     int *placed) {
    fm_span segment = {at, 0};
    for (int i = 0; i < s->n; i++) {
        fm_param *p = s->items[i];
        if (p->spec.placement.replicas != replicas || p->spec.dtype != dtype) continue;
        p->offset = segment.start + segment.n;
        p->order = *placed;
        p->defined = i;
        s->by_offset[(*placed)++] = p;
        segment.n += round_up(p->numel, FM_ALIGN);
    }
    segment.n = round_up(segment.n, FM_ALIGN * (int64_t)fm_mesh_replicas(s->mesh, replicas)->size);
    return segment;
}

static fm_status add_buckets(fm_param_set *s, fm_replicas replicas, fm_dtype dtype,
                             fm_span segment) {
    fm_ctx *ctx = s->ctx;
    fm_comm *comm = fm_mesh_replicas(s->mesh, replicas);
    bool sharded = s->mesh->config.zero == 1;
    int n = fm_cut_segment(comm, dtype, sharded, segment, s->mesh->bucket_elements, NULL);
    if (n == 0) return FM_OK;
    fm_bucket *more = realloc(s->buckets, (size_t)(s->n_buckets + n) * sizeof *more);
    FM_CHECK(more, FM_ERR_OOM, "out of memory: %d buckets", s->n_buckets + n);
    s->buckets = more;
    fm_cut_segment(comm, dtype, sharded, segment, s->mesh->bucket_elements, more + s->n_buckets);
    s->n_buckets += n;
    return FM_OK;
}

/* Which parameters are in which buckets: both are in the order of their offsets. */
static void link_both(fm_param_set *s) {
    for (int i = 0; i < s->n; i++) {
        fm_param *p = s->by_offset[i];
        p->first_bucket = p->end_bucket = 0;
    }
    int first = 0;
    for (int k = 0; k < s->n_buckets; k++) {
        fm_bucket *b = &s->buckets[k];
        int64_t start = b->all.start, stop = start + b->all.n;
        while (first < s->n && s->by_offset[first]->offset + s->by_offset[first]->numel <= start)
            first++;
        int end = first;
        for (; end < s->n && s->by_offset[end]->offset < stop; end++) {
            fm_param *p = s->by_offset[end];
            if (p->numel == 0) continue;
            if (p->end_bucket == 0) p->first_bucket = k;
            p->end_bucket = k + 1;
        }
        b->first = first;
        b->end = end;
    }
}

fm_status fm_param_lay_out(fm_param_set *s, int64_t *masters) {
    fm_ctx *ctx = s->ctx;
    int placed = 0;
    int64_t fp32 = 0;
    s->numel = 0;
    s->by_offset = calloc((size_t)s->n + 1, sizeof(*s->by_offset));
    FM_CHECK(s->by_offset, FM_ERR_OOM, "out of memory: a table of %d parameters", s->n);
    for (int d = 0; d < DTYPES; d++) {
        for (int r = 0; r < FM_REPLICAS_KINDS; r++) {
            fm_span segment = place(s, (fm_replicas)r, dtypes[d], s->numel, &placed);
            FM_TRY(add_buckets(s, (fm_replicas)r, dtypes[d], segment));
            s->numel += segment.n;
        }
        if (dtypes[d] == FM_F32) fp32 = s->numel;
    }
    link_both(s);
    s->state_numel = 0;
    *masters = fp32;
    for (int k = 0; k < s->n_buckets; k++) {
        fm_bucket *b = &s->buckets[k];
        b->state = s->state_numel;
        s->state_numel += b->update.n;
        b->master = b->dtype == FM_F32 ? b->update.start : *masters;
        if (b->dtype != FM_F32) *masters += b->update.n;
    }
    return FM_OK;
}
