#include "tests/fmoe/layer.h"

#include <stdlib.h>

fm_status layer_new(fm_ctx *ctx, layer *l, const fm_moe_config *config, int64_t d_model) {
    *l = (layer){0};
    fm_mesh_config c = fm_mesh_config_default();
    FM_TRY(fm_mesh_new(ctx, &c, NULL, &l->mesh));
    FM_TRY(fm_param_set_new(ctx, l->mesh, &l->params));
    FM_TRY(fm_moe_init(ctx, &l->moe, "moe", config, NULL, l->mesh, d_model, FM_F32, 0.3f, 0.3f,
                       l->params));
    return fm_param_set_seal(l->params);
}

void layer_free(layer *l) {
    fm_moe_free(&l->moe);
    fm_param_set_free(l->params);
    fm_mesh_free(l->mesh);
}

fm_status layer_input(fm_ctx *ctx, fm_tensor **x, int64_t B, int64_t S, int64_t d, int seed) {
    int64_t shape[] = {B, S, d}, n = B * S * d;
    float *host = malloc((size_t)n * sizeof *host);
    FM_CHECK(host, FM_ERR_OOM, "out of memory: a test's input");
    for (int64_t i = 0; i < n; i++)
        host[i] = (float)((double)(fm_mix64((uint64_t)(i * 7919 + seed)) >> 11) * 0x1p-52 - 1.0);
    fm_status status = fm_tensor_from_host(ctx, x, FM_F32, 3, shape, host);
    free(host);
    if (status == FM_OK) (*x)->requires_grad = true;
    return status;
}

fm_status layer_step(fm_ctx *ctx, layer *l, fm_tensor *x, double *loss) {
    fm_moe_out out = {0};
    fm_tensor *square = NULL, *main = NULL, *aux = NULL, *total = NULL;
    fm_status status = FM_OK;
    FM_TRY_GOTO(fm_moe_forward(ctx, &l->moe, x, NULL, &out));
    FM_TRY_GOTO(fm_mul(ctx, &square, out.y, out.y));
    FM_TRY_GOTO(fm_sum(ctx, &main, square, 0.5f));
    FM_TRY_GOTO(fm_moe_aux_loss(ctx, &l->moe, &out, 1, &aux));
    if (aux)
        FM_TRY_GOTO(fm_add(ctx, &total, main, aux));
    else
        total = fm_tensor_retain(main);
    FM_TRY_GOTO(fm_tensor_item(ctx, total, loss));
    FM_TRY_GOTO(fm_backward(ctx, total, NULL));
out:
    fm_moe_out_free(&out);
    fm_tensor_free(square);
    fm_tensor_free(main);
    fm_tensor_free(aux);
    fm_tensor_free(total);
    return status;
}
