/* The context: kernels by name, missing slots, the profile. */
#include "tensor/ops.h"
#include "tests/tensor/runner.h"

#include <string.h>

/* A slot that the backend has not is an error with its name and the device's. */
static void missing_slot(test *t) {
    fm_ctx *ctx = t->ctx;
    const fm_ops *real = ctx->dev->ops;
    fm_ops without = *real;
    without.mul = NULL;
    fm_tensor *x, *y;
    EXPECT_OK(t, fm_tensor_zeros(ctx, &x, FM_F32, 1, (int64_t[]){3}));
    ctx->dev->ops = &without;
    fm_status status = fm_mul(ctx, &y, x, x);
    ctx->dev->ops = real;
    EXPECT_ERROR(t, status, FM_ERR_UNSUPPORTED, "mul", ctx->dev->name);
    EXPECT(t, y == NULL, "the output is not NULL");
    EXPECT_OK(t, fm_mul(ctx, &y, x, x));
    fm_tensor_free(y);
    fm_tensor_free(x);
}

static void profile(test *t) {
    fm_ctx *ctx = t->ctx;
    fm_tensor *x, *y;
    fm_profile_entry entries[64];
    EXPECT_OK(t, fm_tensor_zeros(ctx, &x, FM_F32, 1, (int64_t[]){1000}));
    EXPECT_OK(t, fm_profile_start(ctx));
    for (int i = 0; i < 3; i++) {
        EXPECT_OK(t, fm_mul(ctx, &y, x, x));
        fm_tensor_free(y);
    }
    EXPECT_OK(t, fm_sum(ctx, &y, x, 1));
    int n = fm_profile_get(ctx, entries, 64);
    EXPECT(t, n == 2, "%d slots were used", n);
    for (int i = 0; i < n; i++) {
        int64_t want = strcmp(entries[i].slot, "mul") == 0 ? 3 : 1;
        EXPECT(t, entries[i].calls == want, "%s: %d calls", entries[i].slot, (int)entries[i].calls);
        EXPECT(t, entries[i].seconds > 0 && entries[i].seconds < 10, "%s: %g s", entries[i].slot,
               entries[i].seconds);
        EXPECT(t, i == 0 || entries[i].seconds <= entries[i - 1].seconds, "not sorted");
    }
    EXPECT(t, fm_profile_get(ctx, entries, 1) == 2, "the number is cut to the room");
    fm_profile_stop(ctx);
    EXPECT(t, ctx->profile == NULL && fm_profile_get(ctx, entries, 64) == 0, "still on");
    fm_tensor_free(y);
    fm_tensor_free(x);
}

/* The outermost model's clock is the one that counts, and it is given back. */
static void clocks(test *t) {
    fm_ctx *ctx = t->ctx;
    const fm_clock outer = {5, 1}, inner = {9, 2};
    EXPECT(t, fm_rng(ctx, 1).step == 0, "step %u at first", fm_rng(ctx, 1).step);
    const fm_clock *was = fm_clock_enter(ctx, &outer);
    EXPECT(t, fm_rng(ctx, 1).step == 5 && fm_rng(ctx, 1).micro == 1, "the model's clock");
    const fm_clock *was_inside = fm_clock_enter(ctx, &inner);
    EXPECT(t, fm_rng(ctx, 1).step == 5, "a model inside takes over");
    ctx->clock = was_inside;
    EXPECT(t, fm_rng(ctx, 1).step == 5, "nor does it end the outer one");
    ctx->clock = was;
    ctx->own_clock.step = 3;
    EXPECT(t, fm_rng(ctx, 1).step == 3, "the context's own clock");
    ctx->own_clock.step = 0;
    fm_clock_enter(ctx, &inner);
    EXPECT(t, fm_rng(ctx, 1).step == 9, "the other model's clock");
    ctx->clock = was;
}

static const test_case cases[] = {
    {"missing_slot", missing_slot}, {"profile", profile}, {"clocks", clocks}};

static void all(test *t) { test_run(t, cases, sizeof cases / sizeof *cases); }

int main(int argc, char **argv) {
    test t;
    test_init(&t, argc, argv);
    test_each_device(&t, all);
    return test_finish(&t);
}
