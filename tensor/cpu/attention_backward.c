/* attention_backward: the tiles of the forward again, from the saved logsumexp (Dao et al. 2022).
 *
 *   P = exp(S - lse), S = scale·q kᵀ      D_i = Σ_c do_ic o_ic
 *   dv += Pᵀ do     dP = do vᵀ     dS = P (dP - D)     dq = scale dS k     dk += scale dSᵀ q
 *
 * Cost: 10·dh FLOPs a visible pair and one exp. One core per (sequence, key head), which adds up dk
 * and dv over the group's query heads in order: nothing is shared, no atomics. Where those are few, the
 * tiles of queries are dealt out into parts (attention_parts.h).
 */
#include "tensor/cpu/attention.h"

typedef struct workspace {
    float *k, *kt, *vt;  /* [keys, width], [tiles][dh][FM_TILE_K] twice */
    float *dk, *dv;      /* [keys, width], of one part */
    float *q, *d_o, *dq; /* a tile, [FM_TILE_Q, width]; q times scale / ln 2 */
    float *p, *ds;       /* a tile, [FM_TILE_Q, FM_TILE_K] */
} workspace;

/* `sums`: where dk and dv are */
static workspace carve(float *at, float *sums, const fm_attention_args *a, int64_t width) {
    int64_t keys = fm_attention_keys(a);
    workspace w = {.k = at, .dk = sums, .dv = sums + keys * width};
    w.kt = w.k + keys * width;
    w.vt = w.kt + keys * a->dh;
    w.q = w.vt + keys * a->dh;
    w.d_o = w.q + FM_TILE_Q * width;
    w.dq = w.d_o + FM_TILE_Q * width;
    w.p = w.dq + FM_TILE_Q * width;
    w.ds = w.p + FM_TILE_Q * FM_TILE_K;
    return w;
}

/* Scores and dP of one row become P and dS, for whole vectors of keys up to the last one seen:
 * the products do not read what is masked. lse is in units of ln 2. */
FM_INLINE void softmax_grad(float *p, float *ds, int64_t seen, float lse, float delta) {
    float base = lse == -INFINITY ? 0.0f : lse;
#pragma omp simd
    for (int64_t j = 0; j < fm_round_up(seen, FM_VEC); j++) {
        p[j] = fm_exp2(p[j] - base);
        ds[j] = p[j] * (ds[j] - delta);
    }
}

/* Queries [i0, i0 + rows) of head h: writes dq, adds to dk and dv. */
FM_INLINE void query_tile(fm_dtype dt, const fm_attention_grad_args *g, const workspace *w,
                          int64_t width, int64_t b, int64_t h, int64_t i0, int64_t rows) {
    const fm_attention_args *a = &g->fwd;
    int64_t q_at = b * a->q_batch + i0 * a->q_row + h * a->dh;
    int64_t o_at = ((b * a->Sq + i0) * a->H + h) * a->dh, o_row = a->H * a->dh;
    float delta[FM_TILE_Q];
    const float *lse = a->lse + (b * a->H + h) * a->Sq + i0;
    fm_pack_rows(dt, w->q, fm_at(dt, a->q, q_at), a->q_row, rows, rows, a->dh, width,
                 a->scale * FM_LOG2_E);
    fm_pack_rows(dt, w->d_o, fm_at(dt, g->d_o, o_at), o_row, rows, rows, a->dh, width, 1.0f);
    for (int64_t r = 0; r < rows; r++) {
        const void *o = fm_at(dt, a->o, o_at + r * o_row);
        const float *d = w->d_o + r * width;
        float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
        for (int64_t c = 0; c < a->dh; c++) sum += d[c] * fm_get(dt, o, c);
        delta[r] = sum;
    }
    for (int64_t i = 0; i < rows * width; i++) w->dq[i] = 0.0f;
    int64_t last = fm_visible(a, i0 + rows - 1);
    for (int64_t j0 = 0; j0 < last; j0 += FM_TILE_K) {
        int64_t keys = fm_min_i64(FM_TILE_K, a->Skv - j0);
        fm_tile_product(rows, FM_TILE_K, a->dh, w->q, width, 1, w->kt + j0 * a->dh, FM_TILE_K, w->p,
                        FM_TILE_K, false);
        fm_tile_product(rows, FM_TILE_K, a->dh, w->d_o, width, 1, w->vt + j0 * a->dh, FM_TILE_K,
                        w->ds, FM_TILE_K, false);
        for (int64_t r = 0; r < rows; r++)
            softmax_grad(w->p + r * FM_TILE_K, w->ds + r * FM_TILE_K,
                         fm_clamp_i64(fm_visible(a, i0 + r) - j0, 0, keys), lse[r] * FM_LOG2_E,
                         delta[r]);
        int64_t d = fm_tile_diagonal(a, i0, j0);
        fm_tile_product_upper(keys, width, rows, d, w->p, 1, FM_TILE_K, w->d_o, width,
                              w->dv + j0 * width, width);
        fm_tile_product_upper(keys, width, rows, d, w->ds, 1, FM_TILE_K, w->q, width,
                              w->dk + j0 * width, width);
        fm_tile_product_lower(rows, width, keys, d, w->ds, FM_TILE_K, 1, w->k + j0 * width, width,
                              w->dq, width);
    }
    for (int64_t r = 0; r < rows; r++) {
        void *dq = fm_at_mut(dt, g->dq, q_at + r * a->q_row);
#pragma omp simd
        for (int64_t c = 0; c < a->dh; c++) fm_put(dt, dq, c, a->scale * w->dq[r * width + c]);
    }
}

FM_INLINE void store(fm_dtype dt, void *out, int64_t row, const float *x, int64_t n, int64_t width,
                     int64_t dh, float alpha) {
    for (int64_t r = 0; r < n; r++) {
        void *y = fm_at_mut(dt, out, r * row);
#pragma omp simd
        for (int64_t c = 0; c < dh; c++) fm_put(dt, y, c, alpha * x[r * width + c]);
    }
}

FM_INLINE void pack(fm_dtype dt, const fm_attention_args *a, const workspace *w, int64_t width,
                    int64_t b, int64_t kv) {
    int64_t padded = fm_round_up(a->Skv, FM_TILE_K);
    int64_t k_at = b * a->k_batch + kv * a->dh, v_at = b * a->v_batch + kv * a->dh;
    fm_pack_rows(dt, w->k, fm_at(dt, a->k, k_at), a->k_row, a->Skv, padded, a->dh, width, 1.0f);
    fm_pack_transposed(dt, w->kt, fm_at(dt, a->k, k_at), a->k_row, a->Skv, a->dh);
    fm_pack_transposed(dt, w->vt, fm_at(dt, a->v, v_at), a->v_row, a->Skv, a->dh);
}

FM_INLINE void run_part(fm_dtype dt, const fm_attention_grad_args *g, const workspace *w,
                        int64_t width, int64_t b, int64_t kv, int64_t part, int64_t parts) {
    const fm_attention_args *a = &g->fwd;
    int64_t group = a->H / a->KV, tiles = fm_attention_tiles(a);
    for (int64_t i = 0; i < fm_attention_sums(a, width); i++) w->dk[i] = 0.0f;
    for (int64_t n = 0;; n++) {
        int64_t t = fm_attention_dealt(n, part, parts), i = fm_attention_tile_of(a, t) * FM_TILE_Q;
        if (t >= tiles) return;
        query_tile(dt, g, w, width, b, kv * group + fm_attention_head_of(a, t), i,
                   fm_min_i64(FM_TILE_Q, a->Sq - i));
    }
}

static void add_sums(float *total, const float *part, int64_t n) {
#pragma omp simd
    for (int64_t i = 0; i < n; i++) total[i] += part[i];
}

/* Keys [j, j + n) of dk and dv, out of the sums. */
FM_INLINE void store_sums(fm_dtype dt, const fm_attention_grad_args *g, const float *sums,
                          int64_t width, int64_t b, int64_t kv, int64_t j, int64_t n) {
    const fm_attention_args *a = &g->fwd;
    const float *dk = sums + j * width, *dv = dk + fm_attention_keys(a) * width;
    int64_t k_at = b * a->k_batch + kv * a->dh + j * a->k_row;
    int64_t v_at = b * a->v_batch + kv * a->dh + j * a->v_row;
    store(dt, fm_at_mut(dt, g->dk, k_at), a->k_row, dk, n, width, a->dh, FM_LN_2);
    store(dt, fm_at_mut(dt, g->dv, v_at), a->v_row, dv, n, width, a->dh, 1.0f);
}

/* All parts of one key head, on one core. */
FM_INLINE void whole_task(fm_dtype dt, const fm_attention_grad_args *g, workspace w, int64_t width,
                          int64_t b, int64_t kv, int64_t parts) {
    const fm_attention_args *a = &g->fwd;
    int64_t n = fm_attention_sums(a, width);
    float *total = w.dk;
    pack(dt, a, &w, width, b, kv);
    run_part(dt, g, &w, width, b, kv, 0, parts);
    w.dk = total + n;
    w.dv = w.dk + n / 2;
    for (int64_t part = 1; part < parts; part++) {
        run_part(dt, g, &w, width, b, kv, part, parts);
        add_sums(total, w.dk, n);
    }
    store_sums(dt, g, total, width, b, kv, 0, a->Skv);
}

FM_INLINE void part_task(fm_dtype dt, const fm_attention_grad_args *g, const workspace *w,
                         int64_t width, int64_t b, int64_t kv, int64_t part, int64_t parts) {
    pack(dt, &g->fwd, w, width, b, kv);
    run_part(dt, g, w, width, b, kv, part, parts);
}

/* Too few key heads for the threads: a task is a part. */
static void run_parts(const fm_attention_grad_args *g, float *scratch, int threads) {
    const fm_attention_args *a = &g->fwd;
    int64_t width = fm_round_up(a->dh, FM_VEC), heads = a->B * a->KV;
    int64_t parts = fm_attention_parts(a), n = fm_attention_sums(a, width);
    int64_t per_thread = fm_attention_per_thread(a, width, 0);
    int64_t key_tiles = fm_attention_keys(a) / FM_TILE_K;
    float *sums = scratch + per_thread * threads;
#pragma omp parallel for schedule(dynamic) num_threads(threads)
    for (int64_t i = 0; i < heads * parts; i++) {
        int64_t head = i / parts;
        workspace w = carve(scratch + omp_get_thread_num() * per_thread, sums + i * n, a, width);
        FM_FLOAT_CALL(a->dt, part_task, g, &w, width, head / a->KV, head % a->KV, i % parts, parts);
    }
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < heads * key_tiles; i++) {
        int64_t head = i / key_tiles, j = i % key_tiles * FM_TILE_K;
        float *total = sums + head * parts * n, *dk = total + j * width, *dv = dk + n / 2;
        for (int64_t part = 1; part < parts; part++) {
            add_sums(dk, dk + part * n, FM_TILE_K * width);
            add_sums(dv, dv + part * n, FM_TILE_K * width);
        }
        FM_FLOAT_CALL(a->dt, store_sums, g, total, width, head / a->KV, head % a->KV, j,
                      fm_min_i64(FM_TILE_K, a->Skv - j));
    }
}

fm_status FM_ISA_NAME(cpu_attention_backward)(fm_device *dev, const fm_attention_grad_args *g) {
    const fm_attention_args *a = &g->fwd;
    int threads = omp_get_max_threads();
    int64_t parts = fm_attention_parts(a), width = fm_round_up(a->dh, FM_VEC);
    void *scratch;
    FM_TRY(fm_cpu_scratch(dev, FM_CPU_SCRATCH_PRODUCT,
                          (size_t)fm_attention_floats(a, width, threads) * sizeof(float),
                          &scratch));
    if (fm_attention_by_parts(a, threads)) {
        run_parts(g, scratch, threads);
        return FM_OK;
    }
    int64_t sums = fm_attention_sums(a, width) * (parts > 1 ? 2 : 1);
    int64_t per_thread = fm_attention_per_thread(a, width, sums);
#pragma omp parallel for schedule(dynamic) num_threads(threads)
    for (int64_t i = 0; i < a->B * a->KV; i++) {
        float *own = (float *)scratch + omp_get_thread_num() * per_thread;
        FM_FLOAT_CALL(a->dt, whole_task, g, carve(own + sums, own, a, width), width, i / a->KV,
                      i % a->KV, parts);
    }
    return FM_OK;
}
