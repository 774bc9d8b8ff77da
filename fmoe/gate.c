#include "fmoe/gate.h"

#include "fmoe/gates.h"

#include <stdlib.h>
#include <string.h>

static const fm_gate *const registry[] = {&fm_gate_naive, &fm_gate_gshard, &fm_gate_switch};
enum { N_GATES = sizeof registry / sizeof *registry };

const fm_gate *fm_gate_at(int i) { return i >= 0 && i < N_GATES ? registry[i] : NULL; }

const fm_gate *fm_gate_find(const char *name) {
    for (int i = 0; i < N_GATES; i++)
        if (strcmp(registry[i]->name, name) == 0) return registry[i];
    return NULL;
}

void fm_gate_out_free(fm_gate_out *o) {
    fm_tensor_free(o->indices);
    fm_tensor_free(o->scores);
    fm_tensor_free(o->balance);
    *o = (fm_gate_out){0};
}

fm_status fm_column(fm_ctx *ctx, fm_tensor **out, const fm_tensor *indices, int64_t j) {
    int64_t T = fm_rows_of(indices), k = fm_cols_of(indices);
    FM_TRY(FM_NEW(ctx, out, FM_I32, T, 1));
    fm_status status = FM_KERNEL(ctx, copy_2d, (*out)->data, sizeof(int32_t),
                                 (const int32_t *)indices->data + j, (size_t)k * sizeof(int32_t),
                                 sizeof(int32_t), T);
    if (status != FM_OK) fm_tensor_free(*out), *out = NULL;
    return status;
}

fm_status fm_copy_indices(fm_ctx *ctx, fm_tensor **out, const fm_tensor *indices) {
    FM_TRY(fm_tensor_new(ctx, out, FM_I32, indices->ndim, indices->shape));
    fm_status status = FM_KERNEL(ctx, copy, (*out)->data, indices->data, fm_nbytes(*out));
    if (status != FM_OK) fm_tensor_free(*out), *out = NULL;
    return status;
}

fm_status fm_first_choice_balance(fm_ctx *ctx, fm_tensor **loss, fm_tensor *probs,
                                  fm_tensor *indices, int64_t B, bool per_sequence) {
    *loss = NULL;
    int64_t T = fm_rows_of(probs), E = fm_cols_of(probs), groups = per_sequence ? B : 1;
    fm_tensor *first = NULL, *f = NULL, *terms = NULL;
    int32_t *choice = NULL;
    float *fraction = NULL, *spread = NULL;
    fm_status status = FM_OK;
    FM_TRY_GOTO(per_sequence ? FM_NEW(ctx, &f, FM_F32, T, E) : FM_NEW(ctx, &f, FM_F32, E));
    FM_TRY_GOTO(fm_column(ctx, &first, indices, 0));
    FM_TRY_GOTO(fm_host_view(ctx, first, (void **)&choice));
    fraction = calloc((size_t)(groups * E), sizeof *fraction);
    FM_CHECK_GOTO(fraction, FM_ERR_OOM, "out of memory: the experts' shares");
    int64_t rows = T / groups;
    for (int64_t t = 0; t < T; t++)
        if (choice[t] >= 0) fraction[t / rows * E + choice[t]] += 1.0f; /* exact in any order */
    for (int64_t i = 0; rows > 0 && i < groups * E; i++) fraction[i] /= (float)rows;
    if (!per_sequence) {
        FM_TRY_GOTO(fm_tensor_set(ctx, f, fraction, fm_nbytes(f)));
        FM_TRY_GOTO(fm_balance_loss(ctx, loss, probs, f, (float)E));
    } else {
        /* the mean of the sequences' losses: E/T Σ_t Σ_e f[sequence of t, e] probs[t, e] */
        FM_TRY_GOTO(fm_host_view(ctx, f, (void **)&spread));
        for (int64_t t = 0; t < T; t++)
            memcpy(spread + t * E, fraction + t / rows * E, (size_t)E * sizeof *spread);
        FM_TRY_GOTO(fm_host_commit(ctx, f, spread));
        FM_TRY_GOTO(fm_mul(ctx, &terms, probs, f));
        FM_TRY_GOTO(fm_sum(ctx, loss, terms, T > 0 ? (float)E / (float)T : 0.0f));
    }
out:
    free(fraction);
    fm_host_release(ctx, spread);
    fm_tensor_free(terms);
    fm_host_release(ctx, choice);
    fm_tensor_free(first);
    fm_tensor_free(f);
    return status;
}

fm_status fm_host_view(fm_ctx *ctx, const fm_tensor *t, void **host) {
    if (ctx->dev->on_host) {
        *host = t->data;
        return FM_OK;
    }
    size_t bytes = fm_nbytes(t);
    *host = malloc(bytes ? bytes : 1);
    FM_CHECK(*host, FM_ERR_OOM, "out of memory: a host copy of %zu bytes", bytes);
    fm_status status = fm_tensor_to_host(ctx, t, *host, bytes);
    if (status != FM_OK) free(*host), *host = NULL;
    return status;
}

fm_status fm_host_commit(fm_ctx *ctx, fm_tensor *t, const void *host) {
    return ctx->dev->on_host ? FM_OK : fm_tensor_set(ctx, t, host, fm_nbytes(t));
}

void fm_host_release(const fm_ctx *ctx, void *host) {
    if (!ctx->dev->on_host) free(host);
}
