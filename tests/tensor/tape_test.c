/* The tape: what is recorded, added up, shared, freed and refused; recomputation. */
#include "tensor/ops.h"
#include "tests/tensor/runner.h"

#include <string.h>

enum { N = 3 };

/* A vector of N; leaf asks for its gradient. */
static fm_status vector(fm_ctx *ctx, fm_tensor **x, float a, float b, float c, bool leaf) {
    FM_TRY(fm_tensor_from_host(ctx, x, FM_F32, 1, (int64_t[]){N}, (float[]){a, b, c}));
    (*x)->requires_grad = leaf;
    return FM_OK;
}

static bool equals(fm_ctx *ctx, const fm_tensor *x, float a, float b, float c) {
    float got[N] = {0};
    if (!x || fm_tensor_to_host(ctx, x, got, sizeof got) != FM_OK) return false;
    return got[0] == a && got[1] == b && got[2] == c;
}

static int64_t in_use(const test *t) { return (int64_t)fm_alloc_get_stats(t->ctx->alloc).in_use; }

/* Drops tensors from the list and clears it. */
static void drop(fm_tensor **list, int n) {
    for (int i = 0; i < n; i++) fm_tensor_free(list[i]), list[i] = NULL;
}

static void backward_once(test *t) {
    fm_ctx *ctx = t->ctx;
    fm_tensor *v[3];
    EXPECT_OK(t, vector(ctx, &v[0], 1, 2, 3, true));
    EXPECT_OK(t, fm_mul(ctx, &v[1], v[0], v[0]));
    EXPECT_OK(t, fm_sum(ctx, &v[2], v[1], 1));
    EXPECT_OK(t, fm_backward(ctx, v[2], NULL));
    EXPECT(t, equals(ctx, v[0]->grad, 2, 4, 6), "d(x x)/dx is not 2 x");
    EXPECT_ERROR(t, fm_backward(ctx, v[2], NULL), FM_ERR_STATE, "used already");
    EXPECT(t, equals(ctx, v[0]->grad, 2, 4, 6), "the refused backward changed the gradient");
    drop(v, 3);
}

static void add_to_itself(test *t) {
    fm_ctx *ctx = t->ctx;
    fm_tensor *v[3];
    EXPECT_OK(t, vector(ctx, &v[0], 1, 2, 3, true));
    EXPECT_OK(t, fm_add(ctx, &v[1], v[0], v[0]));
    EXPECT_OK(t, fm_sum(ctx, &v[2], v[1], 1));
    EXPECT_OK(t, fm_backward(ctx, v[2], NULL));
    EXPECT(t, equals(ctx, v[0]->grad, 2, 2, 2), "d(x + x)/dx is not 2");
    drop(v, 3);
}

static void accumulates(test *t) {
    fm_ctx *ctx = t->ctx;
    fm_tensor *x, *y, *loss;
    EXPECT_OK(t, vector(ctx, &x, 1, 2, 3, true));
    for (int i = 1; i <= 3; i++) {
        EXPECT_OK(t, fm_scale(ctx, &y, x, 5));
        EXPECT_OK(t, fm_sum(ctx, &loss, y, 1));
        EXPECT_OK(t, fm_backward(ctx, loss, NULL));
        float want = 5 * (float)i;
        EXPECT(t, equals(ctx, x->grad, want, want, want), "after %d backwards", i);
        fm_tensor_free(y);
        fm_tensor_free(loss);
    }
    fm_tensor *grad = x->grad;
    fm_zero_grad(x);
    EXPECT_OK(t, fm_sum(ctx, &loss, x, 1));
    EXPECT_OK(t, fm_backward(ctx, loss, NULL));
    EXPECT(t, equals(ctx, x->grad, 1, 1, 1), "zero_grad: the next one does not overwrite");
    EXPECT(t, x->grad == grad, "the gradient has moved");
    fm_tensor_free(loss);
    fm_tensor_free(x);
}

/* a = 2x; s = a + b; loss = Σ s + Σ a a. The gradient of s is handed to a and to b without a copy;
 * what comes to a from a a must not show in b. */
static void diamond(test *t) {
    fm_ctx *ctx = t->ctx;
    for (int order = 0; order < 2; order++) {
        fm_tensor *v[9];
        EXPECT_OK(t, vector(ctx, &v[0], 1, 2, 3, true));
        EXPECT_OK(t, vector(ctx, &v[1], 1, 1, 1, true));
        EXPECT_OK(t, fm_scale(ctx, &v[2], v[0], 2));
        EXPECT_OK(t, fm_scale(ctx, &v[3], v[1], 3));
        if (order) EXPECT_OK(t, fm_mul(ctx, &v[5], v[2], v[2]));
        EXPECT_OK(t, fm_add(ctx, &v[4], v[2], v[3]));
        if (!order) EXPECT_OK(t, fm_mul(ctx, &v[5], v[2], v[2]));
        EXPECT_OK(t, fm_sum(ctx, &v[6], v[4], 1));
        EXPECT_OK(t, fm_sum(ctx, &v[7], v[5], 1));
        EXPECT_OK(t, fm_add(ctx, &v[8], v[6], v[7]));
        EXPECT_OK(t, fm_backward(ctx, v[8], NULL));
        EXPECT(t, equals(ctx, v[0]->grad, 10, 18, 26), "order %d: dx is not 2 + 8x", order);
        EXPECT(t, equals(ctx, v[1]->grad, 3, 3, 3), "order %d: db is not 3", order);
        drop(v, 9);
    }
}

static void no_grad(test *t) {
    fm_ctx *ctx = t->ctx;
    fm_tensor *x, *y, *constant;
    EXPECT_OK(t, vector(ctx, &x, 1, 2, 3, true));
    EXPECT_OK(t, vector(ctx, &constant, 1, 2, 3, false));
    EXPECT(t, fm_grad_enable(ctx, false), "it was off");
    EXPECT(t, !fm_needs_grad(ctx, x), "x needs a gradient");
    EXPECT_OK(t, fm_mul(ctx, &y, x, x));
    EXPECT(t, !fm_grad_enable(ctx, true), "it was on");
    EXPECT(t, !y->node && !y->requires_grad && ctx->live_nodes == 0, "recorded");
    EXPECT_ERROR(t, fm_backward(ctx, y, y), FM_ERR_STATE, "[3] float32");
    fm_tensor_free(y);
    EXPECT_OK(t, fm_mul(ctx, &y, constant, constant));
    EXPECT(t, !y->node && !fm_needs_grad(ctx, y) && !fm_needs_grad(ctx, NULL), "recorded");
    fm_tensor_free(y);
    fm_tensor_free(x);
    fm_tensor_free(constant);
}

static void refuses(test *t) {
    fm_ctx *ctx = t->ctx;
    fm_tensor *x, *y, *two;
    EXPECT_OK(t, vector(ctx, &x, 1, 2, 3, true));
    EXPECT_OK(t, fm_scale(ctx, &y, x, 2));
    EXPECT_OK(t, fm_tensor_zeros(ctx, &two, FM_F32, 1, (int64_t[]){2}));
    EXPECT_ERROR(t, fm_backward(ctx, y, NULL), FM_ERR_SHAPE, "[3] float32");
    EXPECT_ERROR(t, fm_backward(ctx, y, two), FM_ERR_SHAPE, "[2] float32", "[3] float32");
    EXPECT_OK(t, fm_backward(ctx, y, x)); /* the graph was not used up */
    EXPECT(t, equals(ctx, x->grad, 2, 4, 6), "the given gradient is not the one that was used");
    fm_tensor_free(two);
    fm_tensor_free(y);
    fm_tensor_free(x);
}

/* What a node saved goes with it in backward, though outputs live on. */
static void frees_early(test *t) {
    fm_ctx *ctx = t->ctx;
    enum { BIG = 1 << 16 };
    fm_tensor *x, *y, *z, *loss;
    int64_t base = in_use(t);
    EXPECT_OK(t, fm_tensor_zeros(ctx, &x, FM_F32, 1, (int64_t[]){BIG}));
    int64_t one = in_use(t) - base;
    x->requires_grad = true;
    EXPECT_OK(t, fm_softmax(ctx, &y, x));
    EXPECT_OK(t, fm_mul(ctx, &z, y, y));
    fm_tensor_free(y);
    EXPECT_OK(t, fm_sum(ctx, &loss, z, 1));
    fm_tensor_free(z);
    EXPECT(t, in_use(t) - base >= 2 * one, "the graph does not hold its tensors");
    EXPECT_OK(t, fm_backward(ctx, loss, NULL));
    EXPECT(t, in_use(t) - base < 2 * one + 4096, "%lld bytes besides x and its gradient",
           (long long)(in_use(t) - base - 2 * one));
    fm_tensor_free(loss);
    EXPECT(t, ctx->live_nodes == 0, "%d nodes are left", (int)ctx->live_nodes);
    fm_tensor_free(x);
    EXPECT(t, in_use(t) == base, "leak");
}

/* An operation that only passes gradients on does not keep what it was given. */
static void keeps_no_values(test *t) {
    fm_ctx *ctx = t->ctx;
    enum { BIG = 1 << 16 };
    fm_tensor *x, *a, *b, *sum, *loss;
    EXPECT_OK(t, fm_tensor_zeros(ctx, &x, FM_F32, 1, (int64_t[]){BIG}));
    x->requires_grad = true;
    int64_t base = in_use(t);
    EXPECT_OK(t, fm_scale(ctx, &a, x, 2));
    EXPECT_OK(t, fm_scale(ctx, &b, a, 3));
    int64_t one = (in_use(t) - base) / 2;
    EXPECT_OK(t, fm_add(ctx, &sum, a, b));
    fm_tensor_free(a);
    fm_tensor_free(b);
    EXPECT(t, in_use(t) - base == one, "the terms of a sum are kept");
    EXPECT_OK(t, fm_sum(ctx, &loss, sum, 1));
    fm_tensor_free(sum);
    EXPECT_OK(t, fm_backward(ctx, loss, NULL));
    float first;
    fm_tensor *one_row;
    EXPECT_OK(t, fm_tensor_rows(ctx, &one_row, x->grad, 0, 1));
    EXPECT_OK(t, fm_tensor_to_host(ctx, one_row, &first, sizeof first));
    EXPECT(t, first == 8, "d(2x + 3 (2x))/dx is %g", (double)first);
    fm_tensor_free(one_row);
    fm_tensor_free(loss);
    fm_tensor_free(x);
}

/* A graph that nobody differentiates; long enough to overflow a recursive free. */
static void dropped_graph(test *t) {
    fm_ctx *ctx = t->ctx;
    int64_t base = in_use(t);
    fm_tensor *x, *y;
    EXPECT_OK(t, vector(ctx, &x, 1, 2, 3, true));
    for (int i = 0; i < 200000; i++) {
        EXPECT_OK(t, fm_reshape(ctx, &y, x, 1, (int64_t[]){-1}));
        fm_tensor_free(x);
        x = y;
    }
    fm_tensor_free(x);
    EXPECT(t, in_use(t) == base && ctx->live_nodes == 0 && ctx->live_tensors == 0, "leak");
}

static void long_chain(test *t) {
    fm_ctx *ctx = t->ctx;
    fm_tensor *x, *y, *z;
    EXPECT_OK(t, vector(ctx, &x, 1, 2, 3, true));
    y = fm_tensor_retain(x);
    for (int i = 0; i < 20000; i++) {
        EXPECT_OK(t, fm_scale(ctx, &z, y, i % 2 ? 2.0f : 0.5f));
        fm_tensor_free(y);
        y = z;
    }
    EXPECT_OK(t, fm_backward(ctx, y, x));
    EXPECT(t, equals(ctx, x->grad, 1, 2, 3), "halved and doubled 10000 times");
    fm_tensor_free(y);
    fm_tensor_free(x);
}

/* bf16 leaves have fp32 gradients, in which small terms do not get lost. */
static void bf16_leaf(test *t) {
    fm_ctx *ctx = t->ctx;
    fm_tensor *x, *y, *dy;
    fm_bf16 one = fm_f32_to_bf16(1), host[2];
    EXPECT_OK(t, fm_tensor_from_host(ctx, &x, FM_BF16, 1, (int64_t[]){1}, &one));
    x->requires_grad = true;
    host[0] = fm_f32_to_bf16(1), host[1] = fm_f32_to_bf16(0x1p-12f);
    for (int i = 0; i < 2; i++) {
        EXPECT_OK(t, fm_tensor_from_host(ctx, &dy, FM_BF16, 1, (int64_t[]){1}, &host[i]));
        EXPECT_OK(t, fm_scale(ctx, &y, x, 1));
        EXPECT_OK(t, fm_backward(ctx, y, dy));
        fm_tensor_free(y);
        fm_tensor_free(dy);
    }
    double sum;
    EXPECT(t, x->grad->dtype == FM_F32, "the gradient is %s", fm_dtype_name(x->grad->dtype));
    EXPECT_OK(t, fm_tensor_item(ctx, x->grad, &sum));
    EXPECT(t, sum == 1 + 0x1p-12, "1 + 2^-12 became %.9g", sum);
    fm_tensor_free(x);
}

/* ---- recomputation */

typedef struct block {
    fm_tensor *w; /* a parameter, not an input */
    int *calls;
    bool *recomputing;
    int depth;
} block;

/* outputs: x w with dropout, and x x; both of them, or nested in another recomputation */
static fm_status run_block(fm_ctx *ctx, void *user, fm_tensor **in, fm_tensor **out) {
    block b = *(block *)user;
    ++*b.calls;
    *b.recomputing = ctx->recomputing;
    if (b.depth > 0) {
        b.depth--;
        return fm_recompute(ctx, run_block, &b, sizeof b, NULL, in, 1, out, 2);
    }
    fm_rng_key key = fm_rng(ctx, fm_rng_stream("block"));
    fm_tensor *product;
    FM_TRY(fm_mul(ctx, &product, in[0], b.w));
    fm_status status = fm_dropout(ctx, &out[0], product, 0.5f, &key);
    fm_tensor_free(product);
    if (status == FM_OK) status = fm_mul(ctx, &out[1], in[0], in[0]);
    return status;
}

/* Plain (depth -1) or recomputed; leaves the gradients of x and w in dx, dw. */
static fm_status block_grads(fm_ctx *ctx, int depth, int outputs, float *dx, float *dw, int *calls,
                             bool *recomputing) {
    fm_tensor *x = NULL, *w = NULL, *out[2] = {0}, *dout[2] = {0};
    fm_status status;
    FM_TRY_GOTO(vector(ctx, &x, 1, 2, 3, true));
    FM_TRY_GOTO(vector(ctx, &w, 4, 5, 6, true));
    block b = {.w = w, .depth = depth > 0 ? depth : 0};
    b.calls = calls;
    b.recomputing = recomputing;
    FM_TRY_GOTO(depth < 0 ? run_block(ctx, &b, &x, out)
                          : fm_recompute(ctx, run_block, &b, sizeof b, NULL, &x, 1, out, 2));
    for (int i = 0; i < 2; i++)
        if (outputs & 1 << i) FM_TRY_GOTO(vector(ctx, &dout[i], 0.5f, 3, -1, false));
    FM_TRY_GOTO(fm_backward_many(ctx, out, dout, 2));
    FM_TRY_GOTO(fm_tensor_to_host(ctx, x->grad, dx, N * sizeof *dx));
    if (w->grad) FM_TRY_GOTO(fm_tensor_to_host(ctx, w->grad, dw, N * sizeof *dw));
out:
    for (int i = 0; i < 2; i++) fm_tensor_free(out[i]), fm_tensor_free(dout[i]);
    fm_tensor_free(x);
    fm_tensor_free(w);
    return status;
}

static void recompute(test *t) {
    for (int outputs = 1; outputs < 4; outputs++) {
        for (int depth = 0; depth < 3; depth++) {
            float dx[N], dw[N] = {0}, dx2[N], dw2[N] = {0};
            int calls = 0;
            bool recomputing = false;
            EXPECT_OK(t, block_grads(t->ctx, -1, outputs, dx, dw, &calls, &recomputing));
            EXPECT(t, calls == 1 && !recomputing, "%d calls", calls);
            calls = 0;
            EXPECT_OK(t, block_grads(t->ctx, depth, outputs, dx2, dw2, &calls, &recomputing));
            EXPECT(t, calls >= 2 && recomputing, "depth %d: %d calls", depth, calls);
            EXPECT(t, memcmp(dx, dx2, sizeof dx) == 0 && memcmp(dw, dw2, sizeof dw) == 0,
                   "depth %d, outputs %d: other gradients", depth, outputs);
            EXPECT(t, !t->ctx->recomputing && t->ctx->grad_enabled, "switches were left over");
        }
    }
}

static void recompute_without_grad(test *t) {
    fm_tensor *x, *w, *out[2];
    int calls = 0;
    bool recomputing;
    EXPECT_OK(t, vector(t->ctx, &x, 1, 2, 3, true));
    EXPECT_OK(t, vector(t->ctx, &w, 1, 2, 3, true));
    block b = {w, &calls, &recomputing, 0};
    fm_grad_enable(t->ctx, false);
    fm_status status = fm_recompute(t->ctx, run_block, &b, sizeof b, NULL, &x, 1, out, 2);
    fm_grad_enable(t->ctx, true);
    EXPECT_OK(t, status);
    EXPECT(t, calls == 1 && !out[0]->requires_grad && t->ctx->live_nodes == 0, "recorded");
    drop(out, 2);
    fm_tensor_free(x);
    fm_tensor_free(w);
    fm_tensor *many[FM_NODE_MAX_INPUTS + 1] = {0};
    EXPECT_ERROR(
        t,
        fm_recompute(t->ctx, run_block, &b, sizeof b, NULL, many, FM_NODE_MAX_INPUTS + 1, out, 1),
        FM_ERR_VALUE, "7 inputs", "6");
}

/* The n-th allocation fails, in the first pass or in the second. */
static void recompute_oom(test *t) {
    int64_t base = in_use(t);
    for (int n = 0; n < 200; n++) {
        float dx[N], dw[N];
        int calls = 0;
        bool recomputing;
        fm_alloc_fail_at(t->ctx->alloc, n);
        fm_status status = block_grads(t->ctx, 1, 3, dx, dw, &calls, &recomputing);
        fm_alloc_fail_at(t->ctx->alloc, -1);
        EXPECT(t, in_use(t) == base && !t->ctx->live_nodes && !t->ctx->live_tensors,
               "allocation %d: leak", n);
        EXPECT(t, !t->ctx->recomputing && t->ctx->grad_enabled, "allocation %d: switches", n);
        if (status == FM_OK) {
            EXPECT(t, n > 5, "only %d allocations", n);
            return;
        }
        EXPECT_ERROR(t, status, FM_ERR_OOM, "memory");
    }
    EXPECT(t, false, "never succeeded");
}

/* An error inside a backward names the operation. */
static void errors_name_the_operation(test *t) {
    fm_ctx *ctx = t->ctx;
    fm_tensor *x, *y;
    EXPECT_OK(t, vector(ctx, &x, 1, 2, 3, true));
    EXPECT_OK(t, fm_softmax(ctx, &y, x));
    fm_alloc_fail_at(ctx->alloc, 0);
    fm_status status = fm_backward(ctx, y, y);
    fm_alloc_fail_at(ctx->alloc, -1);
    EXPECT_ERROR(t, status, FM_ERR_OOM, "backward of softmax");
    fm_tensor_free(y);
    fm_tensor_free(x);
}

static const test_case cases[] = {{"backward_once", backward_once},
                                  {"add_to_itself", add_to_itself},
                                  {"accumulates", accumulates},
                                  {"diamond", diamond},
                                  {"no_grad", no_grad},
                                  {"refuses", refuses},
                                  {"frees_early", frees_early},
                                  {"keeps_no_values", keeps_no_values},
                                  {"dropped_graph", dropped_graph},
                                  {"long_chain", long_chain},
                                  {"bf16_leaf", bf16_leaf},
                                  {"recompute", recompute},
                                  {"recompute_without_grad", recompute_without_grad},
                                  {"recompute_oom", recompute_oom},
                                  {"errors_name_the_operation", errors_name_the_operation}};

static void all(test *t) { test_run(t, cases, sizeof cases / sizeof *cases); }

int main(int argc, char **argv) {
    test t;
    test_init(&t, argc, argv);
    test_each_device(&t, all);
    return test_finish(&t);
}
