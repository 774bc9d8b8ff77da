#include "parallel/reduce.h"

#include <stdlib.h>

typedef struct part {
    fm_param_set *set;
    int set_index, bucket; /* number in the set */
    int first_defined; /* of its parameters, the first that was defined: the last to be complete */
    int waits_for;     /* trained parameters whose gradient is not complete */
    bool started;
    int64_t grad; /* sharded: where its sum is in `sums` */
    fm_request reduction, gather;
} part;

typedef struct reduced_set {
    fm_param_set *set;
    int *part_of;   /* [bucket]: number in parts */
    bool *complete; /* [parameter, by offset]: the gradient of this step */
} reduced_set;

struct fm_reducer {
    fm_ctx *ctx;
    int n, n_sets;
    part *parts; /* in the order of reduction */
    reduced_set *sets;
    int next; /* the first part that is not started */
    bool broken;
    fm_tensor *sums; /* fp32: reduced gradients of what is sharded; NULL: nothing is */
};

static const fm_bucket *bucket_of(const part *p) { return &p->set->buckets[p->bucket]; }

/* ---- making one */

/* Later sets and later definitions come first: a backward goes from the end to the beginning. */
static int last_first(const void *a, const void *b) {
    const part *x = a, *y = b;
    if (x->set_index != y->set_index) return x->set_index > y->set_index ? -1 : 1;
    if (x->first_defined != y->first_defined) return x->first_defined > y->first_defined ? -1 : 1;
    return x->bucket > y->bucket ? -1 : x->bucket < y->bucket;
}

static void list_parts(fm_reducer *r, fm_param_set **sets, int n_sets) {
    for (int i = 0; i < n_sets; i++)
        for (int k = 0; k < sets[i]->n_buckets; k++) {
            const fm_bucket *b = &sets[i]->buckets[k];
            part *p = &r->parts[r->n++];
            *p = (part){.set = sets[i], .set_index = i, .bucket = k, .first_defined = sets[i]->n};
            for (int j = b->first; j < b->end; j++) {
                int at = sets[i]->by_offset[j]->defined;
                if (at < p->first_defined) p->first_defined = at;
            }
        }
    if (r->n > 0) qsort(r->parts, (size_t)r->n, sizeof *r->parts, last_first);
}

fm_status fm_reducer_new(fm_ctx *ctx, fm_param_set **sets, int n_sets, fm_reducer **out) {
    *out = NULL;
    fm_reducer *r = calloc(1, sizeof *r);
    FM_CHECK(r, FM_ERR_OOM, "out of memory: a reduction of gradients");
    fm_status status = FM_OK;
    size_t buckets = 0;
    int64_t sharded = 0;
    r->ctx = ctx;
    r->n_sets = n_sets;
    for (int i = 0; i < n_sets; i++) buckets += (size_t)sets[i]->n_buckets;
    r->parts = calloc(buckets + 1, sizeof *r->parts);
    r->sets = calloc((size_t)n_sets + 1, sizeof *r->sets);
    FM_CHECK_GOTO(r->parts && r->sets, FM_ERR_OOM, "out of memory: %zu buckets", buckets);
    list_parts(r, sets, n_sets);
    for (int i = 0; i < n_sets; i++) {
        reduced_set *s = &r->sets[i];
        s->set = sets[i];
        s->part_of = calloc((size_t)sets[i]->n_buckets + 1, sizeof *s->part_of);
        s->complete = calloc((size_t)sets[i]->n + 1, sizeof *s->complete);
        FM_CHECK_GOTO(s->part_of && s->complete, FM_ERR_OOM, "out of memory: %zu buckets", buckets);
    }
    for (int i = 0; i < r->n; i++) {
        part *p = &r->parts[i];
        int *part_of = r->sets[p->set_index].part_of;
        if (part_of) part_of[p->bucket] = i;
        p->grad = sharded;
        if (bucket_of(p)->sharded) sharded += bucket_of(p)->own.n;
    }
    if (sharded > 0) FM_TRY_GOTO(FM_NEW(ctx, &r->sums, FM_F32, sharded));
    r->next = r->n;
    *out = r;
out:
    if (status != FM_OK) fm_reducer_free(r);
    return status;
}

void fm_reducer_settle(fm_reducer *r) {
    if (r->ctx->on_leaf.user == r) r->ctx->on_leaf.fn = NULL;
    for (int i = 0; i < r->n && !r->broken; i++) {
        if (fm_comm_wait(&r->parts[i].reduction, r->ctx) != FM_OK) r->broken = true;
    }
    r->next = r->n;
}

void fm_reducer_free(fm_reducer *r) {
    if (!r) return;
    if (r->parts) fm_reducer_settle(r);
    for (int i = 0; r->sets && i < r->n_sets; i++) {
        free(r->sets[i].part_of);
        free(r->sets[i].complete);
    }
    free(r->sets);
    free(r->parts);
    /* What is on its way may still be written there: better a leak. */
    if (!r->broken) fm_tensor_free(r->sums);
    free(r);
}

size_t fm_reducer_bytes(const fm_reducer *r) { return r->sums ? fm_nbytes(r->sums) : 0; }

int fm_reducer_count(const fm_reducer *r) { return r->n; }

static float *reduced(const fm_reducer *r, const part *p) {
    const fm_bucket *b = bucket_of(p);
    return b->sharded ? (float *)r->sums->data + p->grad
                      : (float *)p->set->grads->data + b->update.start;
}

fm_reduced fm_reducer_at(const fm_reducer *r, int i) {
    const part *p = &r->parts[i];
    return (fm_reduced){p->set, p->set_index, bucket_of(p), reduced(r, p)};
}

/* ---- reducing */

/* Gradients that were not written are zero. */
static fm_status start(fm_reducer *r, part *p) {
    fm_ctx *ctx = r->ctx;
    const fm_bucket *b = bucket_of(p);
    for (int i = b->first; i < b->end; i++) {
        fm_tensor *w = p->set->by_offset[i]->weight;
        if (w->grad_is_set && w->requires_grad) continue;
        FM_TRY(fm_tensor_zero(ctx, w->grad));
        w->grad_is_set = true;
    }
    p->started = true;
    if (b->comm->size == 1) return FM_OK;
    float *g = (float *)p->set->grads->data + b->all.start;
    fm_collective what = {.kind = b->sharded ? FM_REDUCE_SCATTER : FM_ALL_REDUCE,
                          .dt = FM_F32,
                          .op = FM_SUM,
                          .y = b->sharded ? reduced(r, p) : g,
                          .x = b->sharded ? g : NULL,
                          .n = b->sharded ? b->own.n : b->all.n};
    return fm_comm_start(b->comm, ctx, &what, &p->reduction);
}

/* A collective that could not be begun may have begun in part. */
static fm_status start_next(fm_reducer *r) {
    fm_status s = start(r, &r->parts[r->next++]);
    if (s == FM_ERR_COMM) r->broken = true;
    return s;
}

static fm_status start_complete(fm_reducer *r) {
    while (r->next < r->n && r->parts[r->next].waits_for == 0) FM_TRY(start_next(r));
    return FM_OK;
}

/* The number of a parameter's set; n_sets: it is none of ours. */
static int set_of(const fm_reducer *r, const fm_param *p) {
    int i = 0;
    while (i < r->n_sets && r->sets[i].set != p->set) i++;
    return i;
}

/* A leaf's gradient is complete. */
static fm_status complete(void *user, fm_tensor *leaf) {
    fm_reducer *r = user;
    fm_ctx *ctx = r->ctx;
    const fm_param *param = leaf->tag;
    int i = param ? set_of(r, param) : r->n_sets;
    if (i == r->n_sets) return FM_OK;
    const reduced_set *s = &r->sets[i];
    FM_CHECK(
        !s->complete[param->order], FM_ERR_STATE,
        "backward: the gradient of %s was complete twice: it is used in two recomputed blocks, "
        "or inside and outside of one",
        param->spec.name);
    s->complete[param->order] = true;
    for (int b = param->first_bucket; b < param->end_bucket; b++)
        r->parts[s->part_of[b]].waits_for--;
    return start_complete(r);
}

fm_status fm_reducer_begin(fm_reducer *r) {
    fm_ctx *ctx = r->ctx;
    FM_CHECK(!r->broken, FM_ERR_COMM,
             "a step failed while its gradients were on their way: this job has to end");
    for (int i = 0; i < r->n_sets; i++) {
        const fm_param_set *s = r->sets[i].set;
        for (int k = 0; k < s->n; k++) r->sets[i].complete[k] = false;
    }
    for (int i = 0; i < r->n; i++) {
        part *p = &r->parts[i];
        const fm_bucket *b = bucket_of(p);
        p->started = false;
        p->waits_for = 0;
        for (int k = b->first; k < b->end; k++) {
            const fm_param *q = p->set->by_offset[k];
            p->waits_for += q->numel > 0 && q->weight->requires_grad;
        }
    }
    r->next = 0;
    ctx->on_leaf.fn = complete;
    ctx->on_leaf.user = r;
    return FM_OK;
}

fm_status fm_reducer_flush(fm_reducer *r) {
    r->ctx->on_leaf.fn = NULL;
    while (r->next < r->n) FM_TRY(start_next(r));
    return FM_OK;
}

void fm_reducer_abandon(fm_reducer *r) {
    r->ctx->on_leaf.fn = NULL;
    for (int i = 0; i < r->n; i++) r->broken |= r->parts[i].reduction.state != NULL;
    r->next = r->n;
}

fm_status fm_reducer_finish(fm_reducer *r) {
    for (int i = 0; i < r->n; i++) {
        fm_status s = fm_comm_wait(&r->parts[i].reduction, r->ctx);
        if (s == FM_OK) continue;
        r->broken = true;
        return s;
    }
    return FM_OK;
}

/* ---- what is done with the sums */

bool fm_bucket_next_run(const fm_param_set *s, const fm_bucket *b, fm_span within, int64_t *at,
                        fm_run *out) {
    int64_t stop = within.start + within.n;
    const fm_param *first = NULL;
    for (int i = b->first; i < b->end; i++) {
        const fm_param *p = s->by_offset[i];
        int64_t from = p->offset > *at ? p->offset : *at;
        int64_t to = p->offset + p->numel < stop ? p->offset + p->numel : stop;
        if (from >= to) continue;
        bool trained = p->weight->requires_grad;
        if (first && (!trained || p->spec.decay != first->spec.decay)) break;
        if (!trained) continue;
        if (!first) out->span.start = from;
        if (!first) first = p;
        out->span.n = to - out->span.start;
    }
    if (!first) return false;
    out->first = first;
    *at = out->span.start + out->span.n;
    return true;
}

fm_status fm_reducer_own_squares(fm_reducer *r, double *sum) {
    fm_ctx *ctx = r->ctx;
    bool any = false;
    *sum = 0;
    for (int i = 0; i < r->n; i++) {
        const part *p = &r->parts[i];
        const fm_bucket *b = bucket_of(p);
        const float *g = reduced(r, p) - b->update.start; /* by offset in the flat buffers */
        fm_run run;
        for (int64_t at = b->own.start; fm_bucket_next_run(p->set, b, b->own, &at, &run);) {
            FM_TRY(FM_KERNEL(ctx, sum_squares, sum, g + run.span.start, run.span.n, any));
            any = true;
        }
    }
    return FM_OK;
}

fm_status fm_reducer_gather(fm_reducer *r, int i) {
    part *p = &r->parts[i];
    const fm_bucket *b = bucket_of(p);
    if (!b->sharded) return FM_OK;
    fm_tensor *weights = b->dtype == FM_F32 ? p->set->masters : p->set->models;
    size_t size = fm_dtype_size(b->dtype);
    fm_collective what = {.kind = FM_ALL_GATHER,
                          .dt = b->dtype,
                          .y = (char *)weights->data + (size_t)b->all.start * size,
                          .x = (char *)weights->data + (size_t)b->own.start * size,
                          .n = b->own.n};
    return fm_comm_start(b->comm, r->ctx, &what, &p->gather);
}

fm_status fm_reducer_gathered(fm_reducer *r) {
    for (int i = 0; i < r->n; i++) {
        fm_status s = fm_comm_wait(&r->parts[i].gather, r->ctx);
        if (s == FM_OK) continue;
        r->broken = true;
        return s;
    }
    return FM_OK;
}
