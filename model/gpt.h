/* GPT: pre-norm decoder, dense or with MoE feed-forward layers.
 *
 *   x = embed(tokens)  (+ position)
 *   per block   x += attention(norm1(x));  x += ffn(norm2(x))
 *   logits = norm(x) · headᵀ
 *
 * The forward pass is model/gpt.c, a page. Letters: B sequences, S positions, d = d_model,
 * H heads, KV key/value heads, dh = d / H, h = d_hidden, V vocabulary.
 *
 * With a mesh of tp > 1 ranks each has 1/tp of heads, hidden units and vocabulary, and outside attention
 * and feed-forward 1/tp of the positions (parallel/tensor_parallel.h). All tp ranks call everything
 * together, with the same arguments, and get the same results.
 */
#ifndef FM_MODEL_GPT_H
#define FM_MODEL_GPT_H
#include "fmoe/moe.h"

typedef enum fm_norm { FM_NORM_LAYER, FM_NORM_RMS } fm_norm;
typedef enum fm_position { FM_POSITION_LEARNED, FM_POSITION_ROPE } fm_position;

typedef struct fm_gpt_config {
    int64_t vocab_size, n_layer, d_model, n_head, seq_len;
    int64_t d_hidden;  /* 0: 4·d_model */
    int64_t n_kv_head; /* 0: n_head */
    fm_act activation; /* of the dense feed-forward layers */
    fm_norm norm;
    double norm_eps;
    fm_position position;
    double rope_theta;
    double dropout;
    bool bias, tie_embeddings;
    fm_dtype dtype; /* FM_F32 or FM_BF16 */
    bool recompute; /* each block's activations are computed again in backward */
    bool has_moe;
    fm_moe_config moe;         /* moe.bias is taken from bias */
    int64_t moe_every;         /* layer I is MoE when (I+1) % every == 0; 0: moe_layers decides */
    const int64_t *moe_layers; /* borrowed during fm_gpt_new only */
    int n_moe_layers;
    const fm_gate *gate; /* NULL: the registry's moe.gate; must outlive the model */
} fm_gpt_config;

fm_gpt_config fm_gpt_config_default(int64_t vocab_size, int64_t n_layer, int64_t d_model,
                                    int64_t n_head, int64_t seq_len);
/* Ranges, and pairs that exclude each other, both named; fills in the zeros. */
fm_status fm_gpt_config_check(fm_ctx *ctx, fm_gpt_config *c);
/* Of a checked configuration: tp divides n_head, n_kv_head and the dense layers' d_hidden. */
fm_status fm_gpt_config_check_mesh(fm_ctx *ctx, const fm_gpt_config *c, const fm_mesh_config *mesh);
bool fm_gpt_is_moe_layer(const fm_gpt_config *c, int64_t layer);

typedef struct fm_norm_params {
    fm_tensor *weight, *bias; /* [d]; bias NULL for rmsnorm and without biases */
} fm_norm_params;

/* Shapes of one tp rank: H, KV, h are its share. */
typedef struct fm_block {
    fm_norm_params norm1, norm2;
    fm_tensor *qkv_w, *qkv_b; /* [(H + 2 KV) dh, d], rows q, then k, then v */
    fm_tensor *out_w, *out_b; /* [d, H dh]; biases of what adds to x are whole */
    fm_tensor *up_w, *up_b;   /* dense: [h or 2h, d] */
    fm_tensor *down_w, *down_b;
    fm_moe *moe;                        /* NULL in dense blocks */
    uint64_t dropout_attn, dropout_ffn; /* streams of random numbers */
    int first_param, end_param;         /* its parameters' numbers in the model's set */
} fm_block;

typedef struct fm_gpt {
    fm_ctx *ctx;
    fm_gpt_config config;
    fm_mesh *mesh; /* borrowed */
    fm_param_set *params;
    fm_tensor *embed_token, *embed_position, *head_w; /* head_w == embed_token when tied */
    fm_norm_params norm;
    fm_block *blocks;
    int64_t n_moe; /* MoE layers */
    uint64_t dropout_embed;
    bool training;
    /* What recomputed blocks hold until their backward: the tape of a loss may outlive whoever owns
     * the model. Empty: the caller sees to the order. */
    fm_keep keep;
} fm_gpt;

fm_status fm_gpt_new(fm_ctx *ctx, const fm_gpt_config *config, fm_mesh *mesh, fm_gpt **out);
void fm_gpt_free(fm_gpt *m); /* NULL is legal */

/* What a forward gives: loss = lm_part + balance_loss + z_loss, each [1] fp32 and on the tape. The mean of
 * the dp ranks' losses is that of the global micro-batch. */
typedef struct fm_gpt_out {
    fm_tensor *loss;
    fm_tensor *lm_loss; /* mean over this rank's valid targets, nats */
    fm_tensor *
        lm_part; /* lm_loss by this rank's share of the targets: the dp ranks' mean is the global */
    fm_tensor *balance_loss,
        *z_loss;         /* weight · mean over the MoE layers, all ranks'; NULL: none */
    int64_t num_targets; /* this rank's valid ones */
} fm_gpt_out;
void fm_gpt_out_free(fm_gpt_out *o);

/* tokens, targets int32 [B, S], 1 <= S <= seq_len, a multiple of tp; targets -1 are ignored. All ranks
 * together, each with its dp rank's B sequences of the global micro-batch. */
fm_status fm_gpt_forward(fm_gpt *m, fm_tensor *tokens, fm_tensor *targets, fm_gpt_out *out);
/* [B, S, V] of the model's dtype */
fm_status fm_gpt_logits(fm_gpt *m, fm_tensor *tokens, fm_tensor **logits);

void fm_gpt_train(fm_gpt *m, bool training);

int64_t fm_gpt_num_parameters(const fm_gpt *m);        /* global */
int64_t fm_gpt_num_active_parameters(const fm_gpt *m); /* of which one token uses */
/* FLOPs of one token of a training step with sequences of S: 3 × forward; attention counted
 * causally (2·S·H·dh a layer forward), normalisations and activations not at all. Of MoE layers top_k
 * experts, or, measured, as many as computed a token of the last forward on average. */
double fm_gpt_flops_per_token(const fm_gpt *m, int64_t S, bool measured);

/* Bytes that a training step on B sequences of S holds on this rank at its peak, by role. activations: what the
 * allocator gives, and the scratch of attention's backward on a CPU. */
typedef struct fm_memory_plan {
    size_t parameters, gradients, moments, activations;
} fm_memory_plan;
fm_memory_plan fm_gpt_memory_plan(const fm_gpt *m, int64_t B, int64_t S);

/* ---- generation */

/* Keys and values of the positions so far, per layer [B, capacity, KV dh], of this rank's heads. */
typedef struct fm_kv_cache {
    int64_t B, length, capacity;
    int64_t n_layer;
    fm_tensor **k, **v;
} fm_kv_cache;
fm_status fm_kv_cache_new(fm_gpt *m, int64_t B, int64_t capacity, fm_kv_cache **out);
void fm_kv_cache_free(fm_kv_cache *c);
/* Logits [B, V] of the last of the S new positions tokens [B, S], which enter the cache. */
fm_status fm_gpt_extend(fm_gpt *m, fm_kv_cache *cache, fm_tensor *tokens, fm_tensor **logits);

typedef struct fm_sampling {
    double temperature; /* 0: the most likely token */
    int64_t top_k;      /* 0: all */
    double top_p;       /* 1: all */
    uint64_t seed;
} fm_sampling;
/* Draws one token from V logits; `draw` numbers the draw under the seed. */
int32_t fm_sample(const float *logits, int64_t V, const fm_sampling *s, uint64_t draw,
                  float *scratch);

/* Continues B prompts of S >= 1 tokens (host memory [B, S]) by n tokens into out [B, S + n] (host
 * memory). The KV cache is rebuilt from the last seq_len/2 tokens whenever it is full. Nothing is
 * dropped, no noise is drawn; what a row draws depends on the seed, its number and the position alone.
 * stop (may be NULL) is asked before each token: true ends with FM_ERR_INTERRUPTED, on any rank all that
 * generate together. Those are the tp ranks, with the same prompts; where MoE layers' experts are spread
 * over ranks, all, with the same n. */
fm_status fm_gpt_generate(fm_gpt *m, const int32_t *prompt, int64_t B, int64_t S, int64_t n,
                          const fm_sampling *s, bool (*stop)(void), int32_t *out);

#endif
