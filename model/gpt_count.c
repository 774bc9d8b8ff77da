/* What a GPT costs: parameters, FLOPs, bytes. */
#include "model/gpt.h"

int64_t fm_gpt_num_parameters(const fm_gpt *m) {
    int64_t n = 0;
    for (int i = 0; i < m->params->n; i++)
        n += fm_placement_global_numel(&m->params->items[i]->spec.placement);
    return n;
}

int64_t fm_gpt_num_active_parameters(const fm_gpt *m) {
    int64_t n = fm_gpt_num_parameters(m);
    for (int64_t i = 0; i < m->config.n_layer; i++) {
        const fm_moe *moe = m->blocks[i].moe;
        if (moe) n += fm_moe_num_active_parameters(moe) - fm_moe_num_parameters(moe);
    }
    return n;
}

double fm_gpt_flops_per_token(const fm_gpt *m, int64_t S, bool measured) {
    const fm_gpt_config *c = &m->config;
    double d = (double)c->d_model, dh = d / (double)c->n_head;
    double qkv = (double)(c->n_head + 2 * c->n_kv_head) * dh;
    double up = (double)c->d_hidden * (fm_act_is_glu(c->activation) ? 2 : 1);
    double forward = 2 * d * (double)c->vocab_size;
    for (int64_t i = 0; i < c->n_layer; i++) {
        forward += 2 * d * qkv + 2 * d * d; /* qkv, out */
        forward += 2 * (double)(S + 1) * d; /* q·k and p·v, (S+1)/2 keys on average */
        forward += m->blocks[i].moe ? fm_moe_flops_per_token(m->blocks[i].moe, measured)
                                    : 2 * d * (up + (double)c->d_hidden);
    }
    return 3 * forward;
}

/* Floats per token that a block's forward leaves for its backward. */
static double block_activations(const fm_gpt *m, int64_t layer) {
    const fm_gpt_config *c = &m->config;
    const fm_moe *moe = m->blocks[layer].moe;
    double d = (double)c->d_model, dh = d / (double)c->n_head;
    double qkv = (double)(c->n_head + 2 * c->n_kv_head) * dh;
    /* x, norm1(x), qkv, attention's output, x + attention, norm2 of it. Dropout keeps no mask (it is
     * drawn again) and rope not the unrotated qkv. */
    double n = d + d + qkv + d + d + d;
    if (moe) {
        double k = (double)moe->config.top_k, h = (double)moe->config.d_hidden;
        double hidden = fm_act_is_glu(moe->config.activation) ? 3 * h : 2 * h;
        n += k * (d + hidden + d); /* permuted, before and after the activation, output */
        n += (double)moe->config.num_shared_experts * hidden;
    } else {
        n += (double)c->d_hidden * (fm_act_is_glu(c->activation) ? 3 : 2);
    }
    return n;
}

/* Floats per token that exist only while a block's backward runs, beside what its forward left: the
 * gradients of its widest part, less the activation that they replace. */
static double block_transients(const fm_gpt *m, int64_t layer) {
    const fm_gpt_config *c = &m->config;
    const fm_moe *moe = m->blocks[layer].moe;
    double d = (double)c->d_model;
    double k = moe ? (double)moe->config.top_k : 1;
    double h = (double)(moe ? moe->config.d_hidden : c->d_hidden);
    fm_act act = moe ? moe->config.activation : c->activation;
    return d + k * (d + h * (fm_act_is_glu(act) ? 2 : 1));
}

/* Reduced gradients that lie beside a rank's own. */
static size_t sums(const fm_param_set *s) {
    int64_t n = 0;
    for (int i = 0; i < s->n_buckets; i++) n += s->buckets[i].sharded ? s->buckets[i].own.n : 0;
    return (size_t)n * sizeof(float);
}

/* With tp ranks each keeps its share of everything: heads and hidden units of all positions, or own
 * positions of the whole width. Whole are, while a layer's backward runs, its input gathered again
 * and the input's gradient, one of them twice where the sequences of several have to be sorted. */
fm_memory_plan fm_gpt_memory_plan(const fm_gpt *m, int64_t B, int64_t S) {
    const fm_gpt_config *c = &m->config;
    size_t flat = (size_t)m->params->numel * sizeof(float);
    size_t copies = m->params->models ? fm_nbytes(m->params->models) : 0;
    int64_t ranks = m->mesh->config.tp;
    double T = (double)(B * S), size = (double)fm_dtype_size(c->dtype), tp = (double)ranks;
    double blocks = 0, widest = 0, transients = 0;
    for (int64_t i = 0; i < c->n_layer; i++) {
        double a = block_activations(m, i) / tp, t = block_transients(m, i) / tp;
        blocks += c->recompute ? (double)c->d_model / tp : a;
        if (a > widest) widest = a;
        if (t > transients) transients = t;
    }
    if (ranks > 1) transients += (B > 1 ? 3 : 2) * (double)c->d_model;
    if (c->recompute) transients += widest; /* one block at a time is whole */
    double logits = T * (double)m->head_w->shape[0] * size;
    double budget = (double)m->ctx->logits_budget;
    /* The loss's backward is over when the last block's begins. */
    double last = T * transients * size;
    double ends = T * 2 * (double)c->d_model * size + (logits < budget ? logits : budget);
    size_t scratch = fm_attention_scratch(m->ctx, B, S, c->n_head / ranks, c->n_kv_head / ranks,
                                          c->d_model / c->n_head);
    return (fm_memory_plan){
        .parameters = fm_nbytes(m->params->masters) + copies,
        .gradients = flat + sums(m->params),
        .moments = 2 * sizeof(float) * (size_t)m->params->state_numel,
        .activations = (size_t)(T * blocks * size + (last > ends ? last : ends)) + scratch,
    };
}
