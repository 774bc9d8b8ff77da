/* Self-attention over one packed projection, and attention over three. */
#include "tensor/cpu/attention_parts.h"
#include "tensor/ops/check.h"

#include <math.h>
#include <omp.h>

typedef struct attention_attrs {
    int64_t H, KV;
    bool causal;
    float scale;
} attention_attrs;

/* q, k, v (and their gradients) where they lie: three tensors, or one that packs them. */
static fm_attention_args arguments(const attention_attrs *at, const fm_tensor *q,
                                   const fm_tensor *k, const fm_tensor *v) {
    fm_attention_args a = {.dt = q->dtype,
                           .B = q->shape[0],
                           .Sq = q->shape[1],
                           .H = at->H,
                           .KV = at->KV,
                           .scale = at->scale,
                           .causal = at->causal,
                           .q = q->data,
                           .q_row = q->shape[2],
                           .q_batch = q->shape[1] * q->shape[2]};
    if (!k) { /* packed */
        size_t size = fm_dtype_size(q->dtype);
        a.dh = q->shape[2] / (at->H + 2 * at->KV);
        a.Skv = a.Sq;
        a.k = (const char *)q->data + (size_t)(at->H * a.dh) * size;
        a.v = (const char *)q->data + (size_t)((at->H + at->KV) * a.dh) * size;
        a.k_row = a.v_row = a.q_row;
        a.k_batch = a.v_batch = a.q_batch;
    } else {
        a.dh = q->shape[2] / at->H;
        a.Skv = k->shape[1];
        a.k = k->data;
        a.v = v->data;
        a.k_row = k->shape[2];
        a.v_row = v->shape[2];
        a.k_batch = k->shape[1] * k->shape[2];
        a.v_batch = v->shape[1] * v->shape[2];
    }
    return a;
}

static fm_status gradient_like(fm_ctx *ctx, fm_tensor **d, const fm_tensor *x) {
    return fm_tensor_new(ctx, d, x->dtype, x->ndim, x->shape);
}

/* Inputs q, k, v (k and v NULL: packed); saved: o, lse */
static fm_status attention_backward(fm_ctx *ctx, fm_node *node) {
    fm_tensor *dy = node->dout[0], *d[3] = {0};
    if (!dy) return FM_OK;
    fm_attention_grad_args g = {
        .fwd = arguments(node->attrs, node->inputs[0], node->inputs[1], node->inputs[2]),
        .d_o = dy->data};
    g.fwd.o = node->saved[0]->data;
    g.fwd.lse = node->saved[1]->data;
    fm_status status;
    FM_TRY_GOTO(gradient_like(ctx, &d[0], node->inputs[0]));
    for (int i = 1; i < node->n_inputs; i++) {
        FM_TRY_GOTO(gradient_like(ctx, &d[i], node->inputs[i]));
    }
    /* the same places in the gradients */
    fm_attention_args to = arguments(node->attrs, d[0], d[1], d[2]);
    g.dq = d[0]->data;
    g.dk = (void *)to.k;
    g.dv = (void *)to.v;
    FM_TRY_GOTO(FM_KERNEL(ctx, attention_backward, &g));
    for (int i = 0; i < node->n_inputs; i++) {
        FM_TRY_GOTO(fm_grad_pass(ctx, node->inputs[i], d[i]));
    }
out:
    for (int i = 0; i < 3; i++) fm_tensor_free(d[i]);
    return status;
}

static fm_status attention(fm_ctx *ctx, const char *op, fm_tensor **y, const attention_attrs *attrs,
                           fm_tensor *q, fm_tensor *k, fm_tensor *v) {
    fm_tensor *o = NULL, *lse = NULL, *saved_o = NULL;
    fm_status status;
    fm_attention_args a = arguments(attrs, q, k, v);
    if (attrs->scale == 0.0f) a.scale = (float)(1.0 / sqrt((double)a.dh));
    attention_attrs kept = *attrs;
    kept.scale = a.scale;
    FM_TRY_GOTO(FM_NEW(ctx, &o, q->dtype, a.B, a.Sq, a.H * a.dh));
    a.o = o->data;
    if (fm_needs_grad(ctx, q) || fm_needs_grad(ctx, k) || fm_needs_grad(ctx, v)) {
        FM_TRY_GOTO(FM_NEW(ctx, &lse, FM_F32, a.B, a.H, a.Sq));
        FM_TRY_GOTO(fm_save_output(ctx, &saved_o, o));
        a.lse = lse->data;
    }
    FM_TRY_GOTO(FM_KERNEL(ctx, attention_forward, &a));
    FM_TRY_GOTO(fm_tape_record(ctx, &(fm_record){.name = op,
                                                 .backward = attention_backward,
                                                 .inputs = {q, k, v},
                                                 .n_inputs = k ? 3 : 1,
                                                 .saved = {saved_o, lse},
                                                 .n_saved = 2,
                                                 .outputs = {o},
                                                 .n_outputs = 1,
                                                 .attrs = &kept,
                                                 .attrs_size = sizeof kept}));
out:
    fm_tensor_free(saved_o);
    fm_tensor_free(lse);
    return fm_op_end(status, y, o);
}

static fm_status check_attention(fm_ctx *ctx, const char *op, int64_t H, int64_t KV, float scale) {
    FM_CHECK(H > 0, FM_ERR_VALUE, "%s: n_head is %" PRId64 "; it must be at least 1", op, H);
    FM_CHECK(KV > 0 && H % KV == 0, FM_ERR_VALUE,
             "%s: n_kv_head is %" PRId64 "; it must divide n_head, %" PRId64, op, KV, H);
    FM_CHECK(scale >= 0.0f && isfinite(scale), FM_ERR_VALUE,
             "%s: scale is %g; it must be finite and at least 0", op, (double)scale);
    return FM_OK;
}

fm_status fm_attention_qkv(fm_ctx *ctx, fm_tensor **y, fm_tensor *qkv, int64_t n_head,
                           int64_t n_kv_head, bool causal, float scale) {
    static const char op[] = "attention_qkv";
    *y = NULL;
    FM_TRY(fm_check_float(ctx, op, "qkv", qkv));
    FM_TRY(fm_check_ndim(ctx, op, "qkv", qkv, 3, 3));
    FM_TRY(check_attention(ctx, op, n_head, n_kv_head, scale));
    int64_t heads = n_head + 2 * n_kv_head;
    FM_CHECK(qkv->shape[2] > 0 && qkv->shape[2] % heads == 0, FM_ERR_SHAPE,
             "attention_qkv: qkv is %s; its last dimension must be a multiple of "
             "the %" PRId64 " heads of q, k and v (n_head is %" PRId64 ", n_kv_head %" PRId64 ")",
             FM_TEXT(qkv), heads, n_head, n_kv_head);
    return attention(ctx, op, y, &(attention_attrs){n_head, n_kv_head, causal, scale}, qkv, NULL,
                     NULL);
}

fm_status fm_attention(fm_ctx *ctx, fm_tensor **y, fm_tensor *q, fm_tensor *k, fm_tensor *v,
                       int64_t n_head, int64_t n_kv_head, bool causal, float scale) {
    static const char op[] = "attention";
    *y = NULL;
    FM_TRY(fm_check_float(ctx, op, "q", q));
    FM_TRY(fm_check_ndim(ctx, op, "q", q, 3, 3));
    FM_TRY(fm_check_same_dtype(ctx, op, "k", k, "q", q));
    FM_TRY(fm_check_ndim(ctx, op, "k", k, 3, 3));
    FM_TRY(fm_check_same_dtype(ctx, op, "v", v, "q", q));
    FM_TRY(fm_check_same_shape(ctx, op, "v", v, "k", k));
    FM_TRY(check_attention(ctx, op, n_head, n_kv_head, scale));
    FM_CHECK(q->shape[2] > 0 && q->shape[2] % n_head == 0, FM_ERR_SHAPE,
             "attention: q is %s; its last dimension must be a multiple of "
             "n_head, %" PRId64,
             FM_TEXT(q), n_head);
    FM_CHECK(
        k->shape[0] == q->shape[0] && k->shape[2] == q->shape[2] / n_head * n_kv_head, FM_ERR_SHAPE,
        "attention: k is %s; it must be [%" PRId64 ", Skv, %" PRId64 "] (q is %s, n_head is "
        "%" PRId64 ", n_kv_head %" PRId64 ")",
        FM_TEXT(k), q->shape[0], q->shape[2] / n_head * n_kv_head, FM_TEXT(q), n_head, n_kv_head);
    FM_CHECK(!causal || q->shape[1] <= k->shape[1], FM_ERR_SHAPE,
             "attention: q is %s; being causal it may not have more positions "
             "than k (%s)",
             FM_TEXT(q), FM_TEXT(k));
    return attention(ctx, op, y, &(attention_attrs){n_head, n_kv_head, causal, scale}, q, k, v);
}

size_t fm_attention_scratch(const fm_ctx *ctx, int64_t B, int64_t S, int64_t n_head,
                            int64_t n_kv_head, int64_t dh) {
    enum { LONGEST_VECTOR = 16 }; /* floats: a head's row is padded to whole ones */
    if (ctx->plugin) return 0;
    fm_attention_args a = {.B = B, .Sq = S, .Skv = S, .H = n_head, .KV = n_kv_head, .dh = dh};
    int64_t width = (dh + LONGEST_VECTOR - 1) / LONGEST_VECTOR * LONGEST_VECTOR;
    return (size_t)fm_attention_floats(&a, width, omp_get_max_threads()) * sizeof(float);
}
