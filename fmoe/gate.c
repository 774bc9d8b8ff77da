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
    fm_tensor_free(o->chosen);
    fm_tensor_free(o->scores);
    fm_tensor_free(o->probs);
    fm_tensor_free(o->balance);
    *o = (fm_gate_out){0};
}

fm_status fm_gate_choose(fm_ctx *ctx, const fm_gate_in *in, int64_t k, fm_tensor **values,
                         fm_tensor **chosen) {
    if (!in->replayed) return fm_top_k(ctx, values, chosen, in->logits, k);
    *values = NULL;
    FM_TRY(fm_copy_indices(ctx, chosen, in->replayed));
    int32_t *e = NULL;
    fm_status status = FM_OK;
    FM_TRY_GOTO(fm_host_view(ctx, *chosen, (void **)&e));
    for (int64_t i = 0; i < in->T * k; i++) e[i] = e[i] < -1 ? -2 - e[i] : e[i];
    FM_TRY_GOTO(fm_host_commit(ctx, *chosen, e));
    FM_TRY_GOTO(fm_gather_cols(ctx, values, in->logits, *chosen));
out:
    fm_host_release(ctx, e);
    if (status != FM_OK) fm_tensor_free(*chosen), *chosen = NULL;
    return status;
}

fm_status fm_copy_indices(fm_ctx *ctx, fm_tensor **out, const fm_tensor *indices) {
    FM_TRY(fm_tensor_new(ctx, out, FM_I32, indices->ndim, indices->shape));
    fm_status status = FM_KERNEL(ctx, copy, (*out)->data, indices->data, fm_nbytes(*out));
    if (status != FM_OK) fm_tensor_free(*out), *out = NULL;
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
