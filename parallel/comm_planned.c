#include "parallel/planned.h"

#include "tensor/plan.h"

#include <string.h>

/* y[i] *= size */
static void multiply(fm_dtype dt, void *y, int64_t n, int size) {
    for (int64_t i = 0; i < n; i++) {
        if (dt == FM_I32)
            ((int32_t *)y)[i] *= size;
        else
            ((int64_t *)y)[i] *= size;
    }
}

static void sum(const fm_collective *w, void *y, int64_t n, int size) {
    if (w->op == FM_SUM) multiply(w->dt, y, n, size);
}

/* The device's memory is the host's. */
static fm_status start(fm_comm *c, fm_ctx *ctx, const fm_collective *w, void **state) {
    (void)ctx, (void)state;
    if (w->dt != FM_I32 && w->dt != FM_I64) return FM_OK;
    size_t size = fm_dtype_size(w->dt), bytes = (size_t)w->n * size;
    char *y = w->y;
    const char *x = w->x;
    switch (w->kind) {
    case FM_ALL_REDUCE:
        sum(w, y, w->n, c->size);
        break;
    case FM_ALL_GATHER:
        for (int r = 0; r < c->size; r++) memmove(y + (size_t)r * bytes, x, bytes);
        break;
    case FM_REDUCE_SCATTER:
        memmove(y, x + (size_t)c->rank * bytes, bytes);
        sum(w, y, w->n, c->size);
        break;
    case FM_ALL_TO_ALL_V:
        for (int r = 0; r < c->size; r++) {
            int64_t n = w->recv_counts[r] < w->send_counts[c->rank] ? w->recv_counts[r]
                                                                    : w->send_counts[c->rank];
            memcpy(y + (size_t)w->recv_displs[r] * size, x + (size_t)w->send_displs[c->rank] * size,
                   (size_t)n * size);
        }
        break;
    default:
        break;
    }
    return FM_OK;
}

static fm_status test(fm_comm *c, fm_ctx *ctx, void **state) {
    (void)c, (void)ctx;
    *state = NULL;
    return FM_OK;
}

static fm_status split(fm_comm *c, fm_ctx *ctx, int color, int key, fm_comm **out) {
    (void)c, (void)color, (void)key;
    *out = NULL;
    return fm_fail(&ctx->error, FM_ERR_UNSUPPORTED,
                   "a plan's ranks are not there to say which group they are in");
}

static fm_status divide(fm_comm *c, fm_ctx *ctx, int rank, int size, fm_comm **out) {
    (void)c;
    return size == 1 ? fm_comm_self(ctx, out) : fm_comm_planned(ctx, rank, size, out);
}

static void free_impl(void *impl) { (void)impl; }

static const fm_transport transport = {"planned", start, test, split, free_impl, divide};

fm_status fm_comm_planned(fm_ctx *ctx, int rank, int size, fm_comm **out) {
    *out = NULL;
    FM_CHECK(fm_device_plans(ctx->dev), FM_ERR_VALUE,
             "planned: the device %s computes; ranks that are not there send it nothing",
             ctx->dev->name);
    FM_CHECK(rank >= 0 && rank < size, FM_ERR_VALUE,
             "planned: rank is %d; the %d ranks are 0 to %d", rank, size, size - 1);
    return fm_comm_new(ctx, &transport, NULL, rank, size, out);
}
