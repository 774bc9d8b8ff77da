#include "tensor/ctx.h"

#include "tensor/device.h"
#include "tensor/standing.h"

#include <stdlib.h>

fm_status fm_ctx_new(const char *device, fm_error *err, char *why, size_t n, fm_ctx **out) {
    *out = NULL;
    fm_ctx *ctx = calloc(1, sizeof *ctx);
    if (!ctx) return fm_fail(err, FM_ERR_OOM, "out of memory: a context");
    fm_status status = fm_device_open(device, &ctx->error, why, n, &ctx->dev, &ctx->plugin,
                                      &ctx->close_device);
    if (status == FM_OK) status = fm_allocator_new(ctx->dev, &ctx->error, &ctx->alloc);
    if (status != FM_OK) {
        fm_fail(err, status, "%s", ctx->error.message);
        fm_ctx_free(ctx);
        return status;
    }
    ctx->clock = &ctx->own_clock;
    ctx->grad_enabled = true;
    ctx->logits_budget = (size_t)64 << 20;
    *out = ctx;
    return FM_OK;
}

void fm_ctx_free(fm_ctx *ctx) {
    if (!ctx) return;
    fm_profile_stop(ctx);
    fm_allocator_free(ctx->alloc);
    if (ctx->dev) ctx->close_device(ctx->dev);
    free(ctx); /* the plugin stays loaded: CUDA's own threads may still run in it */
}

fm_rng_key fm_rng(const fm_ctx *ctx, uint64_t stream) {
    return (fm_rng_key){
        .key = fm_mix64(fm_mix64(ctx->seed) ^ stream),
        .step = ctx->clock->step,
        .micro = ctx->clock->micro,
        .row_offset = ctx->rows.offset,
        .row_block = ctx->rows.block,
        .row_stride = ctx->rows.stride,
    };
}

const fm_clock *fm_clock_enter(fm_ctx *ctx, const fm_clock *clock) {
    const fm_clock *was = ctx->clock;
    if (was == &ctx->own_clock) ctx->clock = clock;
    FM_STAND(ctx->standing, step, clock->step);
    return was;
}

fm_rows fm_rows_enter(fm_ctx *ctx, fm_rows rows) {
    fm_rows was = ctx->rows;
    ctx->rows = rows;
    return was;
}
