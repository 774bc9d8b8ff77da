#include "parallel/param.h"

#include "parallel/param_layout.h"
#include "tensor/plan.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* What fm_param_add remembers until the set is sealed. */
typedef struct pending {
    fm_param param;
    fm_tensor **out;
} pending;

fm_status fm_param_set_new(fm_ctx *ctx, fm_mesh *mesh, fm_param_set **out) {
    *out = calloc(1, sizeof **out);
    FM_CHECK(*out, FM_ERR_OOM, "out of memory: a parameter set");
    (*out)->ctx = ctx;
    (*out)->mesh = mesh;
    return FM_OK;
}

void fm_param_set_free(fm_param_set *s) {
    if (!s) return;
    for (int i = 0; i < s->n; i++) {
        fm_tensor_free(s->items[i]->weight);
        free(s->items[i]);
    }
    free(s->items);
    free(s->by_offset);
    free(s->buckets);
    free(s->by_name);
    fm_tensor_free(s->grads);
    fm_tensor_free(s->masters);
    fm_tensor_free(s->models);
    free(s);
}

fm_param_spec fm_param_spec_whole(const char *name, int ndim, const int64_t *shape, fm_dtype dtype,
                                  bool decay, fm_init init) {
    fm_param_spec spec = {.dtype = dtype, .decay = decay, .init = init};
    snprintf(spec.name, sizeof spec.name, "%s", name);
    spec.placement.ndim = ndim;
    spec.placement.n_boxes = 1;
    spec.placement.replicas = FM_REPLICATED_STAGE;
    for (int i = 0; i < ndim; i++)
        spec.placement.global_shape[i] = spec.placement.boxes[0].stop[i] = shape[i];
    return spec;
}

/* Where `name` stands in the table, or the empty place where it would. The size is a power of two. */
static size_t place_of(const fm_param_set *s, const char *name) {
    size_t at = (size_t)fm_mix64(fm_rng_stream(name));
    for (;; at++) {
        int i = s->by_name[at &= s->by_name_size - 1];
        if (i == 0 || strcmp(s->items[i - 1]->spec.name, name) == 0) return at;
    }
}

fm_param *fm_param_find(const fm_param_set *s, const char *name) {
    int i = s->by_name ? s->by_name[place_of(s, name)] : 0;
    return i ? s->items[i - 1] : NULL;
}

/* Room for one more parameter, in both tables; they are at most half full. */
static fm_status grow(fm_param_set *s) {
    fm_ctx *ctx = s->ctx;
    if (2 * ((size_t)s->n + 1) <= s->by_name_size) return FM_OK;
    size_t size = s->by_name_size ? 2 * s->by_name_size : 64;
    fm_param **items = realloc(s->items, size / 2 * sizeof *items);
    FM_CHECK(items, FM_ERR_OOM, "out of memory: a table of %zu parameters", size / 2);
    s->items = items;
    int *by_name = calloc(size, sizeof *by_name);
    FM_CHECK(by_name, FM_ERR_OOM, "out of memory: a table of %zu parameters", size / 2);
    free(s->by_name);
    s->by_name = by_name;
    s->by_name_size = size;
    for (int i = 0; i < s->n; i++) s->by_name[place_of(s, s->items[i]->spec.name)] = i + 1;
    return FM_OK;
}

fm_status fm_param_add(fm_param_set *s, const fm_param_spec *spec, fm_tensor **out) {
    fm_ctx *ctx = s->ctx;
    FM_CHECK(!s->sealed, FM_ERR_STATE, "parameter %s: the set is sealed", spec->name);
    FM_CHECK(!fm_param_find(s, spec->name), FM_ERR_VALUE, "parameter %s exists already",
             spec->name);
    FM_CHECK(fm_dtype_is_float(spec->dtype), FM_ERR_DTYPE,
             "parameter %s: dtype %s; allowed are float32 and bfloat16", spec->name,
             fm_dtype_name(spec->dtype));
    FM_CHECK(spec->placement.n_boxes >= 1, FM_ERR_VALUE, "parameter %s has no placement",
             spec->name);
    FM_TRY(grow(s));
    pending *p = calloc(1, sizeof *p);
    FM_CHECK(p, FM_ERR_OOM, "out of memory: parameter %s", spec->name);
    p->param.spec = *spec;
    p->param.numel = fm_placement_numel(&spec->placement);
    p->param.set = s;
    p->out = out;
    s->items[s->n++] = &p->param;
    s->by_name[place_of(s, spec->name)] = s->n;
    return FM_OK;
}

/* [total rows of the boxes, the other dimensions of the first], where nothing else is said. */
static void local_shape(const fm_placement *p, int64_t *shape) {
    if (p->local_shape[0] > 0) {
        memcpy(shape, p->local_shape, sizeof p->local_shape);
        return;
    }
    for (int d = 0; d < p->ndim; d++) shape[d] = p->boxes[0].stop[d] - p->boxes[0].start[d];
    for (int i = 1; i < p->n_boxes; i++) shape[0] += p->boxes[i].stop[0] - p->boxes[i].start[0];
}

static fm_status slice(fm_ctx *ctx, fm_tensor *flat, const fm_param *p, fm_tensor **out) {
    int64_t shape[FM_MAX_DIMS];
    local_shape(&p->spec.placement, shape);
    fm_tensor *part;
    FM_TRY(fm_tensor_rows(ctx, &part, flat, p->offset, p->offset + p->numel));
    fm_status status = fm_tensor_view(ctx, out, part, p->spec.placement.ndim, shape);
    fm_tensor_free(part);
    return status;
}

/* Draws a parameter's initial values by global index, in double, rounded once. */
static fm_status draw(fm_param_set *s, fm_param *p) {
    fm_ctx *ctx = s->ctx;
    const fm_init init = p->spec.init;
    float *values = malloc((size_t)(p->numel ? p->numel : 1) * sizeof *values);
    FM_CHECK(values, FM_ERR_OOM, "out of memory: initial values of %s", p->spec.name);
    fm_rng_key key = fm_rng(ctx, fm_rng_stream(p->spec.name));
    key.step = key.micro = 0; /* initial values do not depend on when the model is made */
#pragma omp parallel for schedule(static) if (p->numel > 4096)
    for (int64_t i = 0; i < p->numel; i++) {
        int64_t global = fm_placement_global_index(&p->spec.placement, i);
        values[i] = init.kind == FM_INIT_CONSTANT
                        ? init.mean
                        : (float)((double)init.mean +
                                  (double)init.std * fm_rng_normal(&key, (uint64_t)global));
    }
    fm_status status = fm_param_set_values(s, p, values, p->numel);
    free(values);
    return status;
}

/* fp32 parameters view the masters, bf16 ones the model's buffer. */
static fm_status make_tensors(fm_param_set *s) {
    fm_ctx *ctx = s->ctx;
    for (int i = 0; i < s->n; i++) {
        fm_param *p = s->items[i];
        fm_tensor *flat = p->spec.dtype == FM_BF16 ? s->models : s->masters;
        FM_TRY(slice(ctx, flat, p, &p->weight));
        p->weight->requires_grad = true;
        p->weight->tag = p;
        FM_TRY(slice(ctx, s->grads, p, &p->weight->grad));
        *((pending *)p)->out = p->weight;
    }
    return FM_OK;
}

fm_status fm_param_set_seal(fm_param_set *s) {
    fm_ctx *ctx = s->ctx;
    FM_CHECK(!s->sealed, FM_ERR_STATE, "the parameter set is sealed already");
    int64_t masters;
    bool any_bf16 = false;
    for (int i = 0; i < s->n; i++) any_bf16 |= s->items[i]->spec.dtype == FM_BF16;
    FM_TRY(fm_param_lay_out(s, &masters));
    FM_TRY(fm_tensor_zeros(ctx, &s->masters, FM_F32, 1, &masters));
    FM_TRY(fm_tensor_zeros(ctx, &s->grads, FM_F32, 1, &s->numel));
    if (any_bf16) FM_TRY(fm_tensor_zeros(ctx, &s->models, FM_BF16, 1, &s->numel));
    s->sealed = true;
    FM_TRY(make_tensors(s));
    if (fm_device_plans(ctx->dev)) return FM_OK; /* nobody looks at the values */
    for (int i = 0; i < s->n; i++) FM_TRY(draw(s, s->items[i]));
    return FM_OK;
}

bool fm_param_stretch(const fm_param *p, int *bucket, fm_stretch *out) {
    while (*bucket < p->end_bucket) {
        const fm_bucket *b = &p->set->buckets[(*bucket)++];
        int64_t start = b->update.start, stop = start + b->update.n;
        int64_t from = start > p->offset ? start : p->offset;
        int64_t to = stop < p->offset + p->numel ? stop : p->offset + p->numel;
        if (from >= to) continue;
        *out = (fm_stretch){
            {from - p->offset, to - from}, b->state + from - start, b->master + from - start};
        return true;
    }
    return false;
}

fm_status fm_param_set_values(fm_param_set *s, fm_param *p, const float *host, int64_t n) {
    fm_ctx *ctx = s->ctx;
    FM_CHECK(n == p->numel, FM_ERR_SHAPE, "parameter %s has %lld elements here; given were %lld",
             p->spec.name, (long long)p->numel, (long long)n);
    if (n == 0) return FM_OK;
    if (p->spec.dtype == FM_F32)
        return FM_KERNEL(ctx, copy_in, p->weight->data, host, (size_t)n * sizeof(float));
    fm_tensor *wide;
    fm_stretch part;
    FM_TRY(fm_tensor_from_host(ctx, &wide, FM_F32, 1, &n, host));
    fm_status status = FM_KERNEL(ctx, cast, FM_BF16, p->weight->data, FM_F32, wide->data, n);
    for (int b = p->first_bucket; status == FM_OK && fm_param_stretch(p, &b, &part);)
        status = FM_KERNEL(ctx, copy, (float *)s->masters->data + part.master,
                           (float *)wide->data + part.local.start,
                           (size_t)part.local.n * sizeof(float));
    fm_tensor_free(wide);
    return status;
}

fm_status fm_param_get_values(fm_param_set *s, const fm_param *p, float *host, int64_t n) {
    fm_ctx *ctx = s->ctx;
    FM_CHECK(n == p->numel, FM_ERR_SHAPE, "parameter %s has %lld elements here; wanted were %lld",
             p->spec.name, (long long)p->numel, (long long)n);
    if (n == 0) return FM_OK;
    if (p->spec.dtype == FM_F32)
        return FM_KERNEL(ctx, copy_out, host, p->weight->data, (size_t)n * sizeof(float));
    fm_tensor *wide;
    fm_stretch part;
    FM_TRY(FM_NEW(ctx, &wide, FM_F32, n));
    fm_status status = FM_KERNEL(ctx, cast, FM_F32, wide->data, FM_BF16, p->weight->data, n);
    for (int b = p->first_bucket; status == FM_OK && fm_param_stretch(p, &b, &part);)
        status = FM_KERNEL(ctx, copy, (float *)wide->data + part.local.start,
                           (float *)s->masters->data + part.master,
                           (size_t)part.local.n * sizeof(float));
    if (status == FM_OK) status = fm_tensor_to_host(ctx, wide, host, fm_nbytes(wide));
    fm_tensor_free(wide);
    return status;
}

void fm_param_zero_grads(fm_param_set *s) {
    for (int i = 0; i < s->n; i++) fm_zero_grad(s->items[i]->weight);
}

fm_status fm_param_complete_grads(fm_param_set *s) {
    fm_ctx *ctx = s->ctx;
    for (int i = 0; i < s->n; i++) {
        fm_tensor *w = s->items[i]->weight;
        if (w->grad_is_set) continue;
        FM_TRY(fm_tensor_zero(ctx, w->grad));
        w->grad_is_set = true;
    }
    return FM_OK;
}
