/* Scores of the surviving choices, divided by their sum. [T, k] is small, so the host does it. */
#include "fmoe/gate.h"

#include <float.h>

/* False where the survivors' scores have rounded to nothing: then y and dx are 0, not NaN. */
static bool divides(float sum) { return sum >= FLT_MIN; }

/*   y_j = x_j / s,  s = Σ_i x_i over the survivors
 *   dx_j = (dy_j - Σ_i dy_i y_i) / s */
static fm_status backward(fm_ctx *ctx, fm_node *node) {
    const fm_tensor *indices = node->saved[0], *x = node->inputs[0];
    int64_t T = fm_rows_of(x), k = fm_cols_of(x);
    float *score = NULL, *dy = NULL, *dx = NULL;
    int32_t *index = NULL;
    fm_tensor *d = NULL;
    fm_status status = FM_OK;
    FM_TRY_GOTO(FM_NEW(ctx, &d, FM_F32, T, k));
    FM_TRY_GOTO(fm_host_view(ctx, x, (void **)&score));
    FM_TRY_GOTO(fm_host_view(ctx, node->dout[0], (void **)&dy));
    FM_TRY_GOTO(fm_host_view(ctx, indices, (void **)&index));
    FM_TRY_GOTO(fm_host_view(ctx, d, (void **)&dx));
    for (int64_t t = 0; t < T; t++) {
        float sum = 0, dot = 0;
        for (int64_t i = t * k; i < (t + 1) * k; i++)
            if (index[i] >= 0) sum += score[i], dot += dy[i] * score[i];
        for (int64_t i = t * k; i < (t + 1) * k; i++)
            dx[i] = divides(sum) && index[i] >= 0 ? (dy[i] - dot / sum) / sum : 0.0f;
    }
    FM_TRY_GOTO(fm_host_commit(ctx, d, dx));
    FM_TRY_GOTO(fm_grad_pass(ctx, node->inputs[0], d));
out:
    fm_host_release(ctx, score);
    fm_host_release(ctx, dy);
    fm_host_release(ctx, index);
    fm_host_release(ctx, dx);
    fm_tensor_free(d);
    return status;
}

fm_status fm_renormalize(fm_ctx *ctx, fm_tensor **y, fm_tensor *scores, fm_tensor *indices) {
    *y = NULL;
    int64_t T = fm_rows_of(scores), k = fm_cols_of(scores);
    float *x = NULL, *out = NULL;
    int32_t *index = NULL;
    fm_status status = FM_OK;
    FM_TRY_GOTO(FM_NEW(ctx, y, FM_F32, T, k));
    FM_TRY_GOTO(fm_host_view(ctx, scores, (void **)&x));
    FM_TRY_GOTO(fm_host_view(ctx, indices, (void **)&index));
    FM_TRY_GOTO(fm_host_view(ctx, *y, (void **)&out));
    for (int64_t t = 0; t < T; t++) {
        float sum = 0;
        for (int64_t i = t * k; i < (t + 1) * k; i++) sum += index[i] >= 0 ? x[i] : 0.0f;
        for (int64_t i = t * k; i < (t + 1) * k; i++)
            out[i] = divides(sum) && index[i] >= 0 ? x[i] / sum : 0.0f;
    }
    FM_TRY_GOTO(fm_host_commit(ctx, *y, out));
    fm_record r = {.name = "renormalize",
                   .backward = backward,
                   .inputs = {scores},
                   .n_inputs = 1,
                   .saved = {indices},
                   .n_saved = 1,
                   .outputs = {*y},
                   .n_outputs = 1};
    FM_TRY_GOTO(fm_tape_record(ctx, &r));
out:
    fm_host_release(ctx, x);
    fm_host_release(ctx, index);
    fm_host_release(ctx, out);
    if (status != FM_OK) fm_tensor_free(*y), *y = NULL;
    return status;
}
