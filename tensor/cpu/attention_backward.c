/* attention_backward: the tiles of the forward again, from the saved logsumexp (Dao et al. 2022).
 *
 *   P = exp(S - lse), S = scale·q kᵀ      D_i = Σ_c do_ic o_ic
 *   dv += Pᵀ do     dP = do vᵀ     dS = P (dP - D)     dq = scale dS k     dk += scale dSᵀ q
 *
 * Cost: 10·dh FLOPs a visible pair and one exp. One core per (sequence, key head), which adds up dk
 * and dv over the group's query heads in order: nothing is shared, no atomics.
 */
#include "tensor/cpu/attention.h"

typedef struct workspace {
    float *k, *kt, *vt;  /* [keys, width], [tiles][dh][FM_TILE_K] twice */
    float *dk, *dv;      /* [keys, width] */
    float *q, *d_o, *dq; /* a tile, [FM_TILE_Q, width]; q times scale / ln 2 */
    float *p, *ds;       /* a tile, [FM_TILE_Q, FM_TILE_K] */
} workspace;

static int64_t workspace_floats(const fm_attention_args *a, int64_t width) {
    int64_t keys = fm_round_up(a->Skv, FM_TILE_K);
    return keys * (3 * width + 2 * a->dh) + 3 * FM_TILE_Q * width + 2 * FM_TILE_Q * FM_TILE_K;
}

static workspace carve(float *at, const fm_attention_args *a, int64_t width) {
    int64_t keys = fm_round_up(a->Skv, FM_TILE_K);
    workspace w = {.k = at};
    w.dk = w.k + keys * width;
    w.dv = w.dk + keys * width;
    w.kt = w.dv + keys * width;
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

FM_INLINE void task(fm_dtype dt, const fm_attention_grad_args *g, const workspace *w, int64_t width,
                    int64_t b, int64_t kv) {
    const fm_attention_args *a = &g->fwd;
    int64_t group = a->H / a->KV, padded = fm_round_up(a->Skv, FM_TILE_K);
    int64_t k_at = b * a->k_batch + kv * a->dh, v_at = b * a->v_batch + kv * a->dh;
    fm_pack_rows(dt, w->k, fm_at(dt, a->k, k_at), a->k_row, a->Skv, padded, a->dh, width, 1.0f);
    fm_pack_transposed(dt, w->kt, fm_at(dt, a->k, k_at), a->k_row, a->Skv, a->dh);
    fm_pack_transposed(dt, w->vt, fm_at(dt, a->v, v_at), a->v_row, a->Skv, a->dh);
    for (int64_t i = 0; i < padded * width; i++) w->dk[i] = w->dv[i] = 0.0f;
    for (int64_t h = kv * group; h < (kv + 1) * group; h++)
        for (int64_t i = 0; i < a->Sq; i += FM_TILE_Q)
            query_tile(dt, g, w, width, b, h, i, fm_min_i64(FM_TILE_Q, a->Sq - i));
    store(dt, fm_at_mut(dt, g->dk, k_at), a->k_row, w->dk, a->Skv, width, a->dh, FM_LN_2);
    store(dt, fm_at_mut(dt, g->dv, v_at), a->v_row, w->dv, a->Skv, width, a->dh, 1.0f);
}

fm_status FM_ISA_NAME(cpu_attention_backward)(fm_device *dev, const fm_attention_grad_args *g) {
    const fm_attention_args *a = &g->fwd;
    int64_t width = fm_round_up(a->dh, FM_VEC);
    int64_t per_thread = fm_round_up(workspace_floats(a, width), 16);
    void *scratch;
    FM_TRY(fm_cpu_scratch(dev, FM_CPU_SCRATCH_PRODUCT,
                          (size_t)(per_thread * omp_get_max_threads()) * sizeof(float), &scratch));
#pragma omp parallel for schedule(dynamic)
    for (int64_t i = 0; i < a->B * a->KV; i++) {
        workspace w = carve((float *)scratch + omp_get_thread_num() * per_thread, a, width);
        FM_FLOAT_CALL(a->dt, task, g, &w, width, i / a->KV, i % a->KV);
    }
    return FM_OK;
}
