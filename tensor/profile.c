/* Time per slot of the operation table, and the name of the one that runs. */
#include "tensor/plan.h"
#include "tensor/seconds.h"
#include "tensor/standing.h"

#include <stdlib.h>
#include <string.h>

enum { MAX_SLOTS = 96 };

struct fm_profile {
    double started;
    int n;
    fm_profile_entry entries[MAX_SLOTS];
};

bool fm_kernel_begin(fm_ctx *ctx, const char *slot, bool there) {
    ctx->op = slot;
    FM_STAND(ctx->standing, op, slot);
    if (!there && fm_device_plans(ctx->dev)) return false; /* skipped: nothing went wrong */
    if (!there) {
        fm_fail(&ctx->error, FM_ERR_UNSUPPORTED, "operation %s is not there yet on device %s", slot,
                ctx->dev->name);
        return false;
    }
    if (ctx->profile) {
        if (!ctx->dev->on_host) ctx->dev->ops->sync(ctx->dev);
        ctx->profile->started = fm_seconds();
    }
    return true;
}

fm_status fm_kernel_end(fm_ctx *ctx, fm_status s) {
    if (s == FM_ERR_UNSUPPORTED && fm_device_plans(ctx->dev)) return FM_OK;
    fm_profile *p = ctx->profile;
    if (!p || s != FM_OK) return s;
    if (!ctx->dev->on_host) s = ctx->dev->ops->sync(ctx->dev);
    double seconds = fm_seconds() - p->started;
    int i = 0;
    while (i < p->n && strcmp(p->entries[i].slot, ctx->op) != 0) i++;
    if (i == p->n && p->n < MAX_SLOTS) p->entries[p->n++] = (fm_profile_entry){.slot = ctx->op};
    if (i < p->n) p->entries[i].calls++, p->entries[i].seconds += seconds;
    return s;
}

fm_status fm_profile_start(fm_ctx *ctx) {
    fm_profile_stop(ctx);
    ctx->profile = calloc(1, sizeof *ctx->profile);
    FM_CHECK(ctx->profile, FM_ERR_OOM, "out of memory: the profile");
    return FM_OK;
}

static int slowest_first(const void *a, const void *b) {
    double x = ((const fm_profile_entry *)a)->seconds, y = ((const fm_profile_entry *)b)->seconds;
    return x < y ? 1 : x > y ? -1 : 0;
}

int fm_profile_get(const fm_ctx *ctx, fm_profile_entry *out, int max) {
    if (!ctx->profile) return 0;
    fm_profile_entry all[MAX_SLOTS];
    memcpy(all, ctx->profile->entries, sizeof all);
    qsort(all, (size_t)ctx->profile->n, sizeof *all, slowest_first);
    for (int i = 0; i < max && i < ctx->profile->n; i++) out[i] = all[i];
    return ctx->profile->n;
}

void fm_profile_stop(fm_ctx *ctx) {
    free(ctx->profile);
    ctx->profile = NULL;
}
