/* attention_forward: FlashAttention's tiles (Dao et al. 2022) with the online softmax of Milakov and
 * Gimelshein 2018, on one core per (sequence, head, run of queries).
 *
 * Cost: 4·dh FLOPs a visible pair of positions (causal: half of all) and one exp; bytes are q, k, v
 * and o once, k and v once more per TASK_Q queries. Tiles that are masked whole are not visited.
 * bf16 is widened when tiles are packed.
 */
#include "tensor/cpu/attention.h"
#include "tensor/cpu/row.h"

/* Queries of a task: enough that packing all keys for it is nothing, few enough to share out. */
enum { TASK_Q = FM_TILE(512, 7) };

typedef struct workspace {
    float *kt; /* [tiles][dh][FM_TILE_K] */
    float *v;  /* [padded Skv, width] */
    float *q;  /* [FM_TILE_Q, width] */
    float *s;  /* [FM_TILE_Q, FM_TILE_K] */
    float *o;  /* [FM_TILE_Q, width] */
} workspace;

static int64_t workspace_floats(const fm_attention_args *a, int64_t width) {
    int64_t keys = fm_round_up(a->Skv, FM_TILE_K);
    return keys * a->dh + keys * width + 2 * FM_TILE_Q * width + FM_TILE_Q * FM_TILE_K;
}

static workspace carve(float *p, const fm_attention_args *a, int64_t width) {
    int64_t keys = fm_round_up(a->Skv, FM_TILE_K);
    workspace w = {.kt = p};
    w.v = w.kt + keys * a->dh;
    w.q = w.v + keys * width;
    w.o = w.q + FM_TILE_Q * width;
    w.s = w.o + FM_TILE_Q * width;
    return w;
}

/* One row of a tile: s[j] for j < seen becomes exp(s - m), the rest 0; m and l move on, and what o
 * held is scaled down to the new m. A row that sees nothing keeps m = -inf and l = 0. */
FM_INLINE void online_softmax(float *s, int64_t seen, float *m, float *l, float *o, int64_t width) {
    float tile_max = fm_row_max(FM_F32, s, seen);
    float next = tile_max > *m ? tile_max : *m;
    /* -inf: nothing was seen, or NaN only, which exp must still see. */
    float base = next == -INFINITY ? 0.0f : next;
    float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
    for (int64_t j = 0; j < seen; j++) {
        s[j] = fm_vexp(s[j] - base);
        sum += s[j];
    }
    for (int64_t j = seen; j < FM_TILE_K; j++) s[j] = 0.0f;
    if (next != *m && *l != 0.0f) {
        float shrink = expf(*m - base);
        *l *= shrink;
#pragma omp simd
        for (int64_t c = 0; c < width; c++) o[c] *= shrink;
    }
    *l += sum;
    *m = next;
}

/* Queries [i0, i0 + rows) of head h of sequence b. */
FM_INLINE void query_tile(fm_dtype dt, const fm_attention_args *a, const workspace *w,
                          int64_t width, int64_t b, int64_t h, int64_t i0, int64_t rows) {
    float m[FM_TILE_Q], l[FM_TILE_Q];
    fm_pack_rows(dt, w->q, fm_at(dt, a->q, b * a->q_batch + i0 * a->q_row + h * a->dh), a->q_row,
                 rows, rows, a->dh, width, a->scale);
    for (int64_t r = 0; r < rows; r++) m[r] = -INFINITY, l[r] = 0.0f;
    for (int64_t i = 0; i < rows * width; i++) w->o[i] = 0.0f;
    int64_t last = fm_visible(a, i0 + rows - 1);
    for (int64_t j0 = 0; j0 < last; j0 += FM_TILE_K) {
        fm_tile_product(rows, FM_TILE_K, a->dh, w->q, width, 1, w->kt + j0 * a->dh, FM_TILE_K, w->s,
                        FM_TILE_K, false);
        for (int64_t r = 0; r < rows; r++) {
            int64_t seen = fm_visible(a, i0 + r) - j0;
            seen = seen < 0 ? 0 : fm_min_i64(seen, FM_TILE_K);
            online_softmax(w->s + r * FM_TILE_K, seen, &m[r], &l[r], w->o + r * width, width);
        }
        fm_tile_product_lower(rows, width, fm_min_i64(FM_TILE_K, a->Skv - j0),
                              fm_tile_diagonal(a, i0, j0), w->s, FM_TILE_K, 1, w->v + j0 * width,
                              width, w->o, width);
    }
    for (int64_t r = 0; r < rows; r++) {
        void *out = fm_at_mut(dt, a->o, ((b * a->Sq + i0 + r) * a->H + h) * a->dh);
        float inverse = l[r] == 0.0f ? 0.0f : 1.0f / l[r];
        const float *row = w->o + r * width;
#pragma omp simd
        for (int64_t c = 0; c < a->dh; c++) fm_put(dt, out, c, row[c] * inverse);
        if (a->lse) {
            float base = m[r] == -INFINITY ? 0.0f : m[r];
            a->lse[(b * a->H + h) * a->Sq + i0 + r] = base + logf(l[r]);
        }
    }
}

FM_INLINE void task(fm_dtype dt, const fm_attention_args *a, const workspace *w, int64_t width,
                    int64_t b, int64_t h, int64_t start, int64_t stop) {
    int64_t g = h / (a->H / a->KV), keys = fm_visible(a, stop - 1);
    if (keys < 0) keys = 0;
    fm_pack_transposed(dt, w->kt, fm_at(dt, a->k, b * a->k_batch + g * a->dh), a->k_row, keys,
                       a->dh);
    fm_pack_rows(dt, w->v, fm_at(dt, a->v, b * a->v_batch + g * a->dh), a->v_row, keys,
                 fm_round_up(keys, FM_TILE_K), a->dh, width, 1.0f);
    for (int64_t i = start; i < stop; i += FM_TILE_Q)
        query_tile(dt, a, w, width, b, h, i, fm_min_i64(FM_TILE_Q, stop - i));
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
