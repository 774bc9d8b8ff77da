#include "tests/tensor/cpu/kernel_calls.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- arrays */

static void *array(call *c, fm_dtype dt, int64_t n, bool is_output) {
    size_t bytes = (size_t)n * (dt == FM_BF16 ? 2 : 4);
    void *p = aligned_alloc(64, (bytes + 128) / 64 * 64);
    if (!p || c->n_arrays == CALL_MAX_ARRAYS) abort();
    c->arrays[c->n_arrays++] = (struct call_array){p, dt, n, is_output};
    return p;
}

static void put(fm_dtype dt, void *p, int64_t i, float v) {
    if (dt == FM_BF16)
        ((fm_bf16 *)p)[i] = fm_f32_to_bf16(v);
    else
        ((float *)p)[i] = v;
}

/* Numbers in (-2, 2), fixed by the array's place in the call. */
static void randomise(call *c, fm_dtype dt, void *p, int64_t n) {
    uint64_t seed = fm_mix64((uint64_t)c->n_arrays);
    for (int64_t i = 0; i < n; i++) {
        uint32_t bits = (uint32_t)(fm_mix64(seed + (uint64_t)i) >> 32);
        put(dt, p, i, 4.0f * fm_rng_uniform(bits) - 2.0f);
    }
}

static void *in(call *c, fm_dtype dt, int64_t n) {
    void *p = array(c, dt, n, false);
    randomise(c, dt, p, n);
    if (c->poison == c->n_inputs++ && n > 0) put(dt, p, 0, NAN);
    return p;
}

/* fp32 and positive: rstd, second moments. */
static float *in_positive(call *c, int64_t n) {
    float *p = in(c, FM_F32, n);
    for (int64_t i = 0; i < n; i++) p[i] = 0.1f + fabsf(p[i]);
    return p;
}

/* An output starts with numbers too: what accumulates adds to them, what overwrites hides them. */
static void *out(call *c, fm_dtype dt, int64_t n) {
    void *p = array(c, dt, n, true);
    randomise(c, dt, p, n);
    return p;
}

/* Indices in [0, limit), some -1 where `dropped`. */
static int32_t *indices(call *c, int64_t n, int64_t limit, bool dropped) {
    int32_t *p = array(c, FM_I32, n, false);
    uint64_t seed = fm_mix64(77u + (uint64_t)c->n_arrays);
    for (int64_t i = 0; i < n; i++) {
        uint32_t bits = (uint32_t)(fm_mix64(seed + (uint64_t)i) >> 32);
        p[i] = dropped && bits % 11 == 0 ? -1 : (int32_t)((bits >> 8) % (uint32_t)limit);
    }
    return p;
}

static int32_t *out_i32(call *c, int64_t n) {
    int32_t *p = array(c, FM_I32, n, true);
    memset(p, 0x55, (size_t)n * 4);
    return p;
}

double *call_outputs(const call *c, int64_t *n) {
    *n = 0;
    for (int i = 0; i < c->n_arrays; i++)
        if (c->arrays[i].is_output) *n += c->arrays[i].n;
    double *all = malloc((size_t)(*n + 1) * sizeof *all), *next = all;
    for (int a = 0; all && a < c->n_arrays; a++) {
        const struct call_array *x = &c->arrays[a];
        for (int64_t i = 0; x->is_output && i < x->n; i++) {
            switch (x->dt) {
            case FM_BF16:
                *next++ = (double)fm_bf16_to_f32(((fm_bf16 *)x->data)[i]);
                break;
            case FM_I32:
                *next++ = (double)((int32_t *)x->data)[i];
                break;
            default:
                *next++ = (double)((float *)x->data)[i];
                break;
            }
        }
    }
    return all;
}

int call_nan_outputs(const call *c) {
    int reached = 0;
    for (int a = 0; a < c->n_arrays; a++) {
        const struct call_array *x = &c->arrays[a];
        bool found = false;
        for (int64_t i = 0; x->is_output && x->dt != FM_I32 && i < x->n; i++)
            found |= isnan(x->dt == FM_BF16 ? fm_bf16_to_f32(((fm_bf16 *)x->data)[i])
                                            : ((float *)x->data)[i]) != 0;
        reached += found;
    }
    return reached;
}

void call_free(call *c) {
    for (int i = 0; i < c->n_arrays; i++) free(c->arrays[i].data);
    c->n_arrays = c->n_inputs = 0;
}

/* ---- calls; n = T*d. Each evaluates its arrays before the kernel, in order. */

#define OPS c->dev->ops
#define N (c->T * c->d)

static fm_status call_cast(call *c) {
    fm_dtype to = c->dt == FM_BF16 ? FM_F32 : FM_BF16;
    void *x = in(c, c->dt, N), *y = out(c, to, N);
    return OPS->cast(c->dev, to, y, c->dt, x, N);
}
static fm_status call_fill(call *c) { return OPS->fill(c->dev, c->dt, out(c, c->dt, N), 0.3f, N); }
static fm_status call_add(call *c) {
    void *a = in(c, c->dt, N), *b = in(c, c->dt, N), *y = out(c, c->dt, N);
    return OPS->add(c->dev, c->dt, y, a, b, N);
}
static fm_status call_mul(call *c) {
    void *a = in(c, c->dt, N), *b = in(c, c->dt, N), *y = out(c, c->dt, N);
    return OPS->mul(c->dev, c->dt, y, a, b, N, c->accumulate);
}
static fm_status call_scale(call *c) {
    void *x = in(c, c->dt, N), *y = out(c, FM_F32, N);
    return OPS->scale(c->dev, FM_F32, y, c->dt, x, 0.7f, N, c->accumulate);
}
static fm_status call_add_rows(call *c) {
    void *a = in(c, c->dt, N), *b = in(c, c->dt, 3 * c->d), *y = out(c, c->dt, N);
    return OPS->add_rows(c->dev, c->dt, y, a, b, c->T, c->d, 3);
}
static fm_status sum_rows(call *c, int64_t period) {
    void *dy = in(c, c->dt, N);
    float *db = out(c, FM_F32, period * c->d);
    return OPS->sum_rows(c->dev, c->dt, db, dy, c->T, c->d, period, c->accumulate);
}
static fm_status call_sum_rows(call *c) { return sum_rows(c, 1); }
static fm_status call_sum_rows_3(call *c) { return sum_rows(c, 3); }
static fm_status call_sum_rows_many(call *c) { return sum_rows(c, 90); }

static fm_status activation(call *c, fm_act act) {
    int64_t glu = fm_act_is_glu(act) ? 2 : 1;
    void *x = in(c, c->dt, N * glu), *y = out(c, c->dt, N);
    void *dy = in(c, c->dt, N), *dx = out(c, c->dt, N * glu);
    FM_TRY(OPS->act_forward(c->dev, c->dt, act, y, x, c->T, c->d));
    return OPS->act_backward(c->dev, c->dt, act, dx, x, dy, c->T, c->d, c->accumulate);
}
static fm_status call_none(call *c) { return activation(c, FM_ACT_NONE); }
static fm_status call_gelu(call *c) { return activation(c, FM_ACT_GELU); }
static fm_status call_gelu_erf(call *c) { return activation(c, FM_ACT_GELU_ERF); }
static fm_status call_relu(call *c) { return activation(c, FM_ACT_RELU); }
static fm_status call_relu2(call *c) { return activation(c, FM_ACT_RELU2); }
static fm_status call_silu(call *c) { return activation(c, FM_ACT_SILU); }
static fm_status call_swiglu(call *c) { return activation(c, FM_ACT_SWIGLU); }
static fm_status call_geglu(call *c) { return activation(c, FM_ACT_GEGLU); }

static fm_status call_dropout(call *c) {
    fm_rng_key key = {.key = 5, .step = 2, .row_offset = 3, .row_block = 2, .row_stride = 6};
    void *x = in(c, c->dt, N), *y = out(c, c->dt, N);
    return OPS->dropout(c->dev, c->dt, y, x, c->T, c->d, 0.3f, &key, c->accumulate);
}
static fm_status call_layer_norm(call *c) {
    if (c->d == 0) return FM_OK; /* the mean of nothing is NaN */
    void *x = in(c, c->dt, N), *w = in(c, c->dt, c->d), *b = in(c, c->dt, c->d);
    void *dy = in(c, c->dt, N), *y = out(c, c->dt, N), *dx = out(c, c->dt, N);
    float *mean = out(c, FM_F32, c->T), *rstd = out(c, FM_F32, c->T);
    float *dw = out(c, FM_F32, c->d), *db = out(c, FM_F32, c->d);
    FM_TRY(OPS->layer_norm_forward(c->dev, c->dt, y, mean, rstd, x, w, b, c->T, c->d, 1e-5f));
    return OPS->layer_norm_backward(c->dev, c->dt, dx, c->accumulate, dw, c->accumulate, db,
                                    c->accumulate, dy, x, w, mean, rstd, c->T, c->d);
}
static fm_status call_rms_norm(call *c) {
    if (c->d == 0) return FM_OK; /* the mean of nothing is NaN */
    void *x = in(c, c->dt, N), *w = in(c, c->dt, c->d), *dy = in(c, c->dt, N);
    void *y = out(c, c->dt, N), *dx = out(c, c->dt, N);
    float *rstd = out(c, FM_F32, c->T), *dw = out(c, FM_F32, c->d);
    FM_TRY(OPS->rms_norm_forward(c->dev, c->dt, y, rstd, x, w, c->T, c->d, 1e-5f));
    return OPS->rms_norm_backward(c->dev, c->dt, dx, c->accumulate, dw, c->accumulate, dy, x, w,
                                  rstd, c->T, c->d);
}
static fm_status call_embedding(call *c) {
    void *table = in(c, c->dt, 37 * c->d), *dy = in(c, c->dt, N), *y = out(c, c->dt, N);
    float *dtable = out(c, FM_F32, 37 * c->d);
    int32_t *ids = indices(c, c->T, 37, true);
    if (c->T > 0) ids[0] = 0; /* the row that a NaN is put into */
    FM_TRY(OPS->embedding_forward(c->dev, c->dt, y, table, ids, c->T, c->d));
    return OPS->embedding_backward(c->dev, c->dt, dtable, dy, ids, c->T, c->d, 37, c->accumulate);
}
static fm_status call_softmax(call *c) {
    void *x = in(c, c->dt, N), *dy = in(c, c->dt, N);
    void *y = out(c, c->dt, N), *dx = out(c, c->dt, N);
    FM_TRY(OPS->softmax_forward(c->dev, c->dt, y, x, c->T, c->d));
    return OPS->softmax_backward(c->dev, c->dt, dx, y, dy, c->T, c->d, c->accumulate);
}
static fm_status call_cross_entropy(call *c) {
    if (c->d == 0) return FM_OK; /* no class, no loss: the checked call refuses it */
    void *logits = in(c, c->dt, N), *dlogits = out(c, c->dt, N);
    float *loss = out(c, FM_F32, c->T), *lse = out(c, FM_F32, c->T), *scale = in(c, FM_F32, 1);
    int32_t *target = indices(c, c->T, c->d, true);
    for (int64_t t = 2; t < c->T; t += 3) target[t] = -2; /* a class that is elsewhere */
    if (c->T > 0) target[0] = 0;
    FM_TRY(OPS->cross_entropy_forward(c->dev, c->dt, loss, lse, logits, target, c->T, c->d));
    return OPS->cross_entropy_backward(c->dev, c->dt, dlogits, logits, lse, target, scale, 0.5f,
                                       c->T, c->d);
}
static fm_status call_local_ids(call *c) {
    int32_t *ids = indices(c, c->T, c->d + 1, true);
    return OPS->local_ids(c->dev, out_i32(c, c->T), ids, c->d / 3, c->d / 2, c->T);
}
static fm_status call_cross_entropy_merge(call *c) {
    if (c->d == 0) return FM_OK;
    float *parts = in(c, FM_F32, 2 * N), *loss = out(c, FM_F32, c->T), *lse = out(c, FM_F32, c->T);
    int32_t *target = indices(c, c->T, 3 * c->d, true);
    return OPS->cross_entropy_merge(c->dev, loss, lse, parts, target, 3, c->d, c->T);
}
static fm_status call_sum(call *c) {
    float *x = in(c, FM_F32, N), *y = out(c, FM_F32, 1);
    return OPS->sum(c->dev, y, x, 0.5f, N, c->accumulate);
}
static fm_status call_sum_squares(call *c) {
    float *x = in(c, FM_F32, N), *y = out(c, FM_F32, 1);
    double s = 3;
    FM_TRY(OPS->sum_squares(c->dev, &s, x, N, c->accumulate));
    *y = (float)s;
    return FM_OK;
}
static fm_status call_top_k(call *c) {
    int64_t k = c->d < 3 ? c->d : 3;
    float *x = in(c, FM_F32, N), *values = out(c, FM_F32, c->T * k);
    for (int64_t i = 0; i < N; i++) x[i] = roundf(4.0f * x[i]); /* many are equal */
    return OPS->top_k(c->dev, values, out_i32(c, c->T * k), x, c->T, c->d, k);
}
static fm_status call_cols(call *c) {
    if (c->d == 0) return FM_OK;
    float *x = in(c, FM_F32, N), *y = out(c, FM_F32, c->T * 2);
    float *dy = in(c, FM_F32, c->T * 2), *dx = out(c, FM_F32, N);
    int32_t *idx = indices(c, c->T * 2, c->d, true);
    if (c->T > 0) idx[0] = 0;
    FM_TRY(OPS->gather_cols(c->dev, y, x, idx, c->T, c->d, 2));
    return OPS->scatter_cols(c->dev, dx, dy, idx, c->T, c->d, 2, c->accumulate);
}
static fm_status call_moe_sort(call *c) {
    int64_t E = 5;
    int32_t *counts = out_i32(c, E), *offsets = out_i32(c, E + 1);
    int32_t *slot = out_i32(c, N), *source = out_i32(c, N), *idx = indices(c, N, E, true);
    return OPS->moe_sort(c->dev, counts, offsets, slot, source, idx, c->T, c->d, E);
}
static fm_status permute(call *c, bool weighted) {
    int64_t k = 2, n = c->T * k;
    void *x = in(c, c->dt, N), *z = in(c, c->dt, n * c->d), *dy = in(c, c->dt, N);
    float *w = in(c, FM_F32, n);
    void *y = out(c, c->dt, n * c->d), *back = out(c, c->dt, N);
    float *dw = out(c, FM_F32, n);
    int32_t *counts = out_i32(c, 5), *offsets = out_i32(c, 6);
    int32_t *slot = out_i32(c, n), *source = out_i32(c, n), *idx = indices(c, n, 5, true);
    if (n > 0) idx[0] = 0; /* choice 0 goes to row 0, where a NaN is put */
    FM_TRY(OPS->moe_sort(c->dev, counts, offsets, slot, source, idx, c->T, k, 5));
    FM_TRY(OPS->moe_gather(c->dev, c->dt, y, x, weighted ? w : NULL, source, n, k, c->d));
    FM_TRY(OPS->moe_combine(c->dev, c->dt, back, z, weighted ? w : NULL, slot, c->T, k, c->d,
                            c->accumulate));
    return OPS->moe_combine_weight(c->dev, c->dt, dw, dy, z, slot, c->T, k, c->d, c->accumulate);
}
static fm_status call_permute(call *c) { return permute(c, false); }
static fm_status call_permute_weighted(call *c) { return permute(c, true); }

static fm_status call_adamw(call *c) {
    fm_adamw_args a = {.n = N, .model_dt = c->dt, .lr = 0.01f, .beta1 = 0.9f, .beta2 = 0.95f};
    a.eps = 1e-8f, a.weight_decay = 0.1f, a.bias1 = 0.19f, a.bias2 = 0.1f, a.g_scale = 0.5f;
    a.p = out(c, FM_F32, N), a.m = out(c, FM_F32, N), a.v = in_positive(c, N);
    c->arrays[c->n_arrays - 1].is_output = true;
    a.g = in(c, FM_F32, N);
    a.model = c->accumulate ? NULL : out(c, c->dt, N);
    return OPS->adamw(c->dev, &a);
}
static fm_status sgd(call *c, float momentum, bool nesterov) {
    fm_sgd_args a = {.n = N, .model_dt = c->dt, .lr = 0.01f, .momentum = momentum};
    a.weight_decay = 0.1f, a.g_scale = 0.5f, a.nesterov = nesterov, a.first = c->accumulate;
    a.p = out(c, FM_F32, N), a.mom = momentum != 0 ? out(c, FM_F32, N) : NULL;
    a.g = in(c, FM_F32, N);
    a.model = c->accumulate ? NULL : out(c, c->dt, N);
    return OPS->sgd(c->dev, &a);
}
static fm_status call_sgd(call *c) { return sgd(c, 0.0f, false); }
static fm_status call_sgd_momentum(call *c) { return sgd(c, 0.9f, false); }
static fm_status call_sgd_nesterov(call *c) { return sgd(c, 0.9f, true); }

const kernel_call kernel_calls[] = {
    {"cast", call_cast, true, "1"},
    {"fill", call_fill, true, ""},
    {"add", call_add, true, "11"},
    {"mul", call_mul, true, "11"},
    {"scale", call_scale, true, "1"},
    {"add_rows", call_add_rows, true, "11"},
    {"sum_rows(period=1)", call_sum_rows, true, "1"},
    {"sum_rows(period=3)", call_sum_rows_3, true, "1"},
    {"sum_rows(period=90)", call_sum_rows_many, true, "1"},
    {"act(none)", call_none, true, "11"},
    {"act(gelu)", call_gelu, true, "21"},
    {"act(gelu_erf)", call_gelu_erf, true, "21"},
    {"act(relu)", call_relu, true, "21"},
    {"act(relu2)", call_relu2, true, "21"},
    {"act(silu)", call_silu, true, "21"},
    {"act(swiglu)", call_swiglu, true, "21"},
    {"act(geglu)", call_geglu, true, "21"},
    {"dropout", call_dropout, true, "1"},
    {"layer_norm", call_layer_norm, true, "5213"},
    {"rms_norm", call_rms_norm, true, "422"},
    {"embedding", call_embedding, true, "11"},
    {"softmax", call_softmax, true, "21"},
    {"cross_entropy", call_cross_entropy, true, "31"},
    {"local_ids", call_local_ids, false, ""},
    {"cross_entropy_merge", call_cross_entropy_merge, false, "2"},
    {"sum", call_sum, false, "1"},
    {"sum_squares", call_sum_squares, false, "1"},
    {"top_k", call_top_k, false, ""},
    {"gather_scatter_cols", call_cols, false, "11"},
    {"moe_sort", call_moe_sort, false, ""},
    {"permute", call_permute, true, "1210"},
    {"permute_weighted", call_permute_weighted, true, "1212"},
    {"adamw", call_adamw, true, "34"},
    {"sgd", call_sgd, true, "2"},
    {"sgd(momentum)", call_sgd_momentum, true, "3"},
    {"sgd(nesterov)", call_sgd_nesterov, true, "3"},
};
const int kernel_calls_count = sizeof kernel_calls / sizeof *kernel_calls;
