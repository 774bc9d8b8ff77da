/* Balance losses: E·Σ f_e·P_e of Switch and GShard. */
#include "fmoe/census.h"

#include <stdlib.h>
#include <string.h>

fm_status fm_balance_of_shares(fm_ctx *ctx, fm_tensor **loss, fm_tensor *probs,
                               const int64_t *first, int64_t tokens) {
    *loss = NULL;
    int64_t E = fm_cols_of(probs);
    fm_tensor *f = NULL;
    fm_status status = FM_OK;
    float *share = malloc((size_t)E * sizeof *share);
    FM_CHECK_GOTO(share, FM_ERR_OOM, "out of memory: the experts' shares");
    for (int64_t e = 0; e < E; e++) share[e] = tokens > 0 ? (float)first[e] / (float)tokens : 0;
    FM_TRY_GOTO(fm_tensor_from_host(ctx, &f, FM_F32, 1, &E, share));
    FM_TRY_GOTO(fm_balance_loss(ctx, loss, probs, f, (float)E));
out:
    free(share);
    fm_tensor_free(f);
    return status;
}

/* count [B, E]: first choices of each sequence, of all tp ranks that hold parts of it. */
static fm_status count_sequences(fm_ctx *ctx, const fm_mesh *mesh, const int32_t *indices,
                                 int64_t k, int64_t T, int64_t B, int64_t E, int32_t *count) {
    int64_t n = B * E;
    fm_tensor *sum = NULL;
    for (int64_t t = 0; t < T; t++)
        if (indices[t * k] >= 0) count[t / (T / B) * E + indices[t * k]]++;
    if (mesh->tp_comm->size == 1) return FM_OK;
    FM_TRY(fm_tensor_from_host(ctx, &sum, FM_I32, 1, &n, count));
    fm_status s = fm_all_reduce_now(mesh->tp_comm, ctx, FM_I32, sum->data, n, FM_SUM);
    if (s == FM_OK) s = fm_tensor_to_host(ctx, sum, count, fm_nbytes(sum));
    fm_tensor_free(sum);
    return s;
}

fm_status fm_balance_of_sequences(fm_ctx *ctx, const fm_mesh *mesh, fm_tensor **loss,
                                  fm_tensor *probs, const int32_t *indices, int64_t k, int64_t B) {
    *loss = NULL;
    int64_t T = fm_rows_of(probs), E = fm_cols_of(probs), own = T / B;
    fm_tensor *f = NULL, *terms = NULL;
    float *spread = NULL, whole = (float)(own * mesh->config.tp);
    fm_status status = FM_OK;
    int32_t *count = calloc((size_t)(B * E), sizeof *count);
    FM_CHECK_GOTO(count, FM_ERR_OOM, "out of memory: the experts' shares");
    FM_TRY_GOTO(count_sequences(ctx, mesh, indices, k, T, B, E, count));
    /* E/T Σ_t Σ_e f[sequence of t, e] probs[t, e] */
    FM_TRY_GOTO(FM_NEW(ctx, &f, FM_F32, T, E));
    FM_TRY_GOTO(fm_host_view(ctx, f, (void **)&spread));
    for (int64_t t = 0; t < T; t++) {
        const int32_t *sequence = count + t / own * E;
        for (int64_t e = 0; e < E; e++) spread[t * E + e] = (float)sequence[e] / whole;
    }
    FM_TRY_GOTO(fm_host_commit(ctx, f, spread));
    FM_TRY_GOTO(fm_mul(ctx, &terms, probs, f));
    FM_TRY_GOTO(fm_sum(ctx, loss, terms, T > 0 ? (float)E / (float)T : 0.0f));
out:
    free(count);
    fm_host_release(ctx, spread);
    fm_tensor_free(terms);
    fm_tensor_free(f);
    return status;
}
