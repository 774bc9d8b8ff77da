/* attention_forward: FlashAttention's tiles (Dao et al. 2022) with the online softmax of Milakov and
 * Gimelshein 2018, on one core per (sequence, head, run of queries).
 *
 * A tile of scores is computed transposed, a row per key and a column per query: the softmax then
 * runs down the columns, a vector of queries at a time, and K needs no transposition.
 *
 * Cost: 4·dh FLOPs a visible pair of positions (causal: half of all) and one exp; bytes are q, k, v
 * and o once, k and v once more per tile of queries, from cache. What is masked whole is not visited.
 * bf16 is widened when tiles are packed.
 */
#include "tensor/cpu/attention.h"

/* Queries of a task: enough that packing all keys for it is nothing, few enough to share out. */
enum { TASK_Q = FM_TILE(512, 7) };

typedef struct workspace {
    float *k, *v; /* where packed: [Skv, dh], [Skv, width] */
    float *qt;    /* [dh, FM_TILE_Q_LANES], times scale / ln 2 */
    float *st;    /* [FM_TILE_K, FM_TILE_Q_LANES] scores, then exp of them */
    float *o;     /* [FM_TILE_Q, width] */
} workspace;

/* The keys of one (sequence, key head): in place, or packed. */
typedef struct key_rows {
    const float *k, *v;
    int64_t k_row, v_row;
} key_rows;

/* Packed rows do not fall on the same few lines of the cache, as rows 4 KiB apart do; for a single
 * tile of queries (decoding) packing would cost more than it gives. K is read number by number, V
 * by whole vectors. */
static bool packs_k(const fm_attention_args *a) { return a->dt == FM_BF16 || a->Sq > FM_TILE_Q; }
static bool packs_v(const fm_attention_args *a) { return packs_k(a) || a->dh % FM_VEC != 0; }

static int64_t k_floats(const fm_attention_args *a) {
    return packs_k(a) ? fm_round_up(a->Skv * a->dh, FM_VEC) : 0;
}
static int64_t v_floats(const fm_attention_args *a, int64_t width) {
    return packs_v(a) ? a->Skv * width : 0;
}

static int64_t workspace_floats(const fm_attention_args *a, int64_t width) {
    return k_floats(a) + v_floats(a, width) + (a->dh + FM_TILE_K) * FM_TILE_Q_LANES +
           FM_TILE_Q * width;
}

static workspace carve(float *p, const fm_attention_args *a, int64_t width) {
    workspace w = {.k = p};
    w.v = w.k + k_floats(a);
    w.qt = w.v + v_floats(a, width);
    w.st = w.qt + a->dh * FM_TILE_Q_LANES;
    w.o = w.st + FM_TILE_K * FM_TILE_Q_LANES;
    return w;
}

FM_INLINE void pack_queries(fm_dtype dt, float *qt, const void *q, int64_t row, int64_t rows,
                            int64_t dh, float alpha) {
    for (int64_t r = 0; r < FM_TILE_Q_LANES; r++) {
        const void *in = fm_at(dt, q, r * row);
        for (int64_t c = 0; c < dh; c++)
            qt[c * FM_TILE_Q_LANES + r] = r < rows ? alpha * fm_get(dt, in, c) : 0.0f;
    }
}

/* Keys [j, j + n), n <= FM_BLOCK_ROWS, of a tile: their scores, from column `first` on, and the
 * columns' maxima. Query r sees the tile's keys below r + d; the others' scores become -inf. */
FM_INLINE void score_block(const workspace *w, const float *k, int64_t k_row, int64_t dh, int64_t j,
                           int64_t n, int64_t first, int64_t lanes, int64_t d, float *top) {
    enum { LD = FM_TILE_Q_LANES };
    float *s = w->st + j * LD;
    fm_tile_product(n, lanes - first, dh, k + j * k_row, k_row, 1, w->qt + first, LD, s + first, LD,
                    false);
    for (int64_t i = 0; i < n; i++)
        for (int64_t r = first; r < fm_min_i64(lanes, j + i - d + 1); r++)
            s[i * LD + r] = -INFINITY;
    if (n == 8) { /* one load and store of `top` for all */
#pragma omp simd
        for (int64_t r = first; r < lanes; r++) {
            float t = top[r];
#pragma GCC unroll 8
            for (int i = 0; i < 8; i++) t = s[i * LD + r] > t ? s[i * LD + r] : t;
            top[r] = t;
        }
        return;
    }
    for (int64_t i = 0; i < n; i++) {
#pragma omp simd
        for (int64_t r = first; r < lanes; r++)
            top[r] = s[i * LD + r] > top[r] ? s[i * LD + r] : top[r];
    }
}

/* The first column of a block of keys that sees one of them, down to a whole vector. */
FM_INLINE int64_t first_column(int64_t j, int64_t d) {
    return fm_clamp_i64(j - d + 1, 0, FM_TILE_Q_LANES) / FM_VEC * FM_VEC;
}

/* One tile of keys: st becomes exp(s - m) where it is seen, m and l move on, and `shrink` is what
 * the rows of o are to be scaled down by. A column that sees nothing keeps m = -inf and l = 0. */
FM_INLINE void score_tile(const workspace *w, const float *k, int64_t k_row, int64_t dh,
                          int64_t keys, int64_t lanes, int64_t d, float *m, float *l,
                          float *shrink) {
    enum { LD = FM_TILE_Q_LANES };
    float top[LD], base[LD], sum[LD];
    for (int64_t r = 0; r < lanes; r++) top[r] = m[r], sum[r] = 0.0f;
    for (int64_t j = 0; j < keys && first_column(j, d) < lanes; j += FM_BLOCK_ROWS)
        score_block(w, k, k_row, dh, j, fm_min_i64(FM_BLOCK_ROWS, keys - j), first_column(j, d),
                    lanes, d, top);
#pragma omp simd
    for (int64_t r = 0; r < lanes; r++) {
        /* -inf: nothing was seen, or NaN only, which exp must still see. */
        base[r] = top[r] == -INFINITY ? 0.0f : top[r];
        shrink[r] = fm_exp2(m[r] - base[r]);
        m[r] = top[r];
    }
    for (int64_t j = 0; j < keys; j++) {
        float *s = w->st + j * LD;
#pragma omp simd
        for (int64_t r = first_column(j / FM_BLOCK_ROWS * FM_BLOCK_ROWS, d); r < lanes; r++) {
            s[r] = fm_exp2(s[r] - base[r]);
            sum[r] += s[r];
        }
    }
#pragma omp simd
    for (int64_t r = 0; r < lanes; r++) l[r] = l[r] * shrink[r] + sum[r];
}

/* Queries [i0, i0 + rows) of head h of sequence b. */
FM_INLINE void query_tile(fm_dtype dt, const fm_attention_args *a, const workspace *w, key_rows kv,
                          int64_t width, int64_t b, int64_t h, int64_t i0, int64_t rows) {
    float m[FM_TILE_Q_LANES], l[FM_TILE_Q_LANES], shrink[FM_TILE_Q_LANES];
    int64_t lanes = fm_round_up(rows, FM_VEC);
    pack_queries(dt, w->qt, fm_at(dt, a->q, b * a->q_batch + i0 * a->q_row + h * a->dh), a->q_row,
                 rows, a->dh, a->scale * FM_LOG2_E);
    for (int64_t r = 0; r < lanes; r++) m[r] = -INFINITY, l[r] = 0.0f;
    for (int64_t i = 0; i < rows * width; i++) w->o[i] = 0.0f;
    int64_t last = fm_visible(a, i0 + rows - 1);
    for (int64_t j0 = 0; j0 < last; j0 += FM_TILE_K) {
        int64_t d = fm_tile_diagonal(a, i0, j0), keys = fm_min_i64(FM_TILE_K, a->Skv - j0);
        score_tile(w, kv.k + j0 * kv.k_row, kv.k_row, a->dh, keys, lanes, d, m, l, shrink);
        for (int64_t r = 0; r < rows; r++) {
            float *o = w->o + r * width, by = shrink[r];
            if (j0 == 0 || by == 1.0f) continue;
#pragma omp simd
            for (int64_t c = 0; c < width; c++) o[c] *= by;
        }
        fm_tile_product_lower(rows, width, keys, d, w->st, 1, FM_TILE_Q_LANES, kv.v + j0 * kv.v_row,
                              kv.v_row, w->o, width);
    }
    for (int64_t r = 0; r < rows; r++) {
        void *out = fm_at_mut(dt, a->o, ((b * a->Sq + i0 + r) * a->H + h) * a->dh);
        float inverse = l[r] == 0.0f ? 0.0f : 1.0f / l[r];
        const float *row = w->o + r * width;
#pragma omp simd
        for (int64_t c = 0; c < a->dh; c++) fm_put(dt, out, c, row[c] * inverse);
        if (a->lse) {
            float base = m[r] == -INFINITY ? 0.0f : m[r] * FM_LN_2;
            a->lse[(b * a->H + h) * a->Sq + i0 + r] = base + logf(l[r]);
        }
    }
}

FM_INLINE void task(fm_dtype dt, const fm_attention_args *a, const workspace *w, int64_t width,
                    int64_t b, int64_t h, int64_t start, int64_t stop) {
    int64_t g = h / (a->H / a->KV), keys = fm_visible(a, stop - 1);
    if (keys < 0) keys = 0;
    const void *k = fm_at(dt, a->k, b * a->k_batch + g * a->dh);
    const void *v = fm_at(dt, a->v, b * a->v_batch + g * a->dh);
    key_rows kv = {k, v, a->k_row, a->v_row};
    if (packs_k(a)) {
        fm_pack_rows(dt, w->k, k, a->k_row, keys, keys, a->dh, a->dh, 1.0f);
        kv.k = w->k;
        kv.k_row = a->dh;
    }
    if (packs_v(a)) {
        fm_pack_rows(dt, w->v, v, a->v_row, keys, keys, a->dh, width, 1.0f);
        kv.v = w->v;
        kv.v_row = width;
    }
    for (int64_t i = start; i < stop; i += FM_TILE_Q)
        query_tile(dt, a, w, kv, width, b, h, i, fm_min_i64(FM_TILE_Q, stop - i));
}

fm_status FM_ISA_NAME(cpu_attention_forward)(fm_device *dev, const fm_attention_args *a) {
    int64_t width = fm_round_up(a->dh, FM_VEC), runs = (a->Sq + TASK_Q - 1) / TASK_Q;
    int64_t per_thread = fm_round_up(workspace_floats(a, width), 16);
    void *scratch;
    FM_TRY(fm_cpu_scratch(dev, FM_CPU_SCRATCH_PRODUCT,
                          (size_t)(per_thread * omp_get_max_threads()) * sizeof(float), &scratch));
#pragma omp parallel for schedule(dynamic)
    for (int64_t i = 0; i < a->B * a->H * runs; i++) {
        workspace w = carve((float *)scratch + omp_get_thread_num() * per_thread, a, width);
        /* The longest runs of queries first, so that no thread starts one at the end. */
        int64_t run = runs - 1 - i / (a->B * a->H), bh = i % (a->B * a->H);
        FM_FLOAT_CALL(a->dt, task, a, &w, width, bh / a->H, bh % a->H, run * TASK_Q,
                      fm_min_i64((run + 1) * TASK_Q, a->Sq));
    }
    return FM_OK;
}
