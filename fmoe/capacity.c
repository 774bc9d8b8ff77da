#include "fmoe/gate.h"

#include <math.h>
#include <stdlib.h>

int64_t fm_capacity(double factor, int64_t k, int64_t rows, int64_t E) {
    /* The factor is meant as written: 1.1 · 10 is 11, though it is 11.000000000000002 in binary. */
    double c = factor * (double)(k * rows) / (double)E;
    /* As much as any number of rows; an infinite factor too means that nothing is dropped. */
    return c < 0x1p62 ? (int64_t)ceil(c - 1e-9 * c) : INT64_MAX;
}

typedef struct candidate {
    float score;
    int32_t token, choice;
} candidate;

/* Highest score first; ties to the earlier token. NaN cannot occur: the layer refuses it. */
static int better_first(const void *a, const void *b) {
    const candidate *x = a, *y = b;
    if (x->score != y->score) return x->score > y->score ? -1 : 1;
    return x->token < y->token ? -1 : x->token > y->token;
}

/* Drops choices of rows [start, stop): the first `capacity` of each expert in order stay. */
static void drop_by_position(int32_t *index, int64_t *used, int64_t E, int64_t k, int64_t start,
                             int64_t stop, int64_t capacity) {
    for (int64_t e = 0; e < E; e++) used[e] = 0;
    for (int64_t i = start * k; i < stop * k; i++)
        if (index[i] >= 0 && used[index[i]]++ >= capacity) index[i] = -1;
}

static void drop_by_score(int32_t *index, const float *score, candidate *queue, int64_t E,
                          int64_t k, int64_t start, int64_t stop, int64_t capacity) {
    for (int32_t e = 0; e < E; e++) {
        size_t n = 0;
        for (int64_t i = start * k; i < stop * k; i++)
            if (index[i] == e)
                queue[n++] = (candidate){score[i], (int32_t)(i / k), (int32_t)(i % k)};
        if ((int64_t)n <= capacity) continue;
        qsort(queue, n, sizeof *queue, better_first);
        for (size_t j = (size_t)capacity; j < n; j++)
            index[queue[j].token * k + queue[j].choice] = -1;
    }
}

fm_status fm_capacity_drop(fm_ctx *ctx, fm_tensor *indices, const fm_tensor *scores, int64_t E,
                           int64_t B, double factor, bool per_sequence, bool by_score) {
    int64_t T = fm_rows_of(indices), k = fm_cols_of(indices);
    int64_t groups = per_sequence ? B : 1, rows = T / groups;
    int64_t capacity = fm_capacity(factor, k, rows, E);
    int32_t *index = NULL;
    float *score = NULL;
    int64_t *used = NULL;
    candidate *queue = NULL;
    fm_status status = FM_OK;
    FM_TRY_GOTO(fm_host_view(ctx, indices, (void **)&index));
    FM_TRY_GOTO(fm_host_view(ctx, scores, (void **)&score));
    used = malloc((size_t)E * sizeof *used);
    queue = malloc((size_t)(rows * k) * sizeof *queue + 1);
    FM_CHECK_GOTO(used && queue, FM_ERR_OOM, "out of memory: capacity of %lld experts",
                  (long long)E);
    for (int64_t g = 0; g < groups; g++) {
        int64_t start = g * rows, stop = start + rows;
        if (by_score)
            drop_by_score(index, score, queue, E, k, start, stop, capacity);
        else
            drop_by_position(index, used, E, k, start, stop, capacity);
    }
    FM_TRY_GOTO(fm_host_commit(ctx, indices, index));
out:
    free(queue);
    free(used);
    fm_host_release(ctx, score);
    fm_host_release(ctx, index);
    return status;
}
