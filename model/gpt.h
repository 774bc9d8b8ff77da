/* GPT: pre-norm decoder, dense or with MoE feed-forward layers.
 *
 *   x = embed(tokens)  (+ position)
 *   per block   x += attention(norm1(x));  x += ffn(norm2(x))
 *   logits = norm(x) · headᵀ
 */
#ifndef FM_MODEL_GPT_H
#define FM_MODEL_GPT_H
#include "fmoe/moe.h"

typedef enum fm_norm { FM_NORM_LAYER, FM_NORM_RMS } fm_norm;
typedef enum fm_position { FM_POSITION_LEARNED, FM_POSITION_ROPE } fm_position;

typedef struct fm_gpt_config {
    int64_t vocab_size, n_layer, d_model, n_head, seq_len;
    int64_t d_hidden;   /* 0: 4·d_model */
    int64_t n_kv_head;  /* 0: n_head */
    fm_act activation;  /* of the dense feed-forward layers */
    fm_norm norm;
    double norm_eps;
    fm_position position;
    double rope_theta;
    double dropout;
    bool bias, tie_embeddings;
    fm_dtype dtype;     /* FM_F32 or FM_BF16 */
    bool recompute;     /* each block's activations are computed again in backward */
    bool has_moe;
    fm_moe_config moe;
    int64_t moe_every;  /* layer I is MoE when (I+1) % every == 0; 0: moe_layers decides */
    const int64_t *moe_layers; /* borrowed during fm_gpt_new only */
    int n_moe_layers;
} fm_gpt_config;

fm_gpt_config fm_gpt_config_default(int64_t vocab_size, int64_t n_layer, int64_t d_model,
                                    int64_t n_head, int64_t seq_len);
/* Ranges, and pairs that exclude each other; fills in the zeros. */
fm_status fm_gpt_config_check(fm_ctx *ctx, fm_gpt_config *c);

typedef struct fm_norm_params {
    fm_tensor *weight, *bias;
} fm_norm_params;

typedef struct fm_block {
    fm_norm_params norm1, norm2;
    fm_tensor *qkv_w, *qkv_b, *out_w, *out_b;
    fm_tensor *up_w, *up_b, *down_w, *down_b; /* dense blocks */
    fm_moe *moe;                              /* NULL in dense blocks */
    uint64_t dropout_attn, dropout_ffn;       /* streams */
} fm_block;

typedef struct fm_gpt {
    fm_ctx *ctx;
    fm_gpt_config config;
    fm_mesh *mesh; /* borrowed */
    fm_param_set *params;
    fm_tensor *embed_token, *embed_position, *head_w;
    fm_norm_params norm;
    fm_block *blocks;
    uint64_t dropout_embed;
    bool training;
} fm_gpt;

/* What a forward gives. loss = lm_loss + aux losses, on the tape. */
typedef struct fm_gpt_out {
    fm_tensor *loss, *lm_loss; /* [1] fp32 */
    fm_tensor *balance_loss, *z_loss; /* [1] weighted means over the MoE layers; NULL where none */
} fm_gpt_out;
void fm_gpt_out_free(fm_gpt_out *o);

fm_status fm_gpt_new(fm_ctx *ctx, const fm_gpt_config *config, fm_mesh *mesh, fm_gpt **out);
void fm_gpt_free(fm_gpt *m);

/* tokens, targets int32 [B, S], S <= seq_len; targets -1 are ignored. */
fm_status fm_gpt_forward(fm_gpt *m, fm_tensor *tokens, fm_tensor *targets, fm_gpt_out *out);
/* fp32 or bf16 [B, S, vocab_size] */
fm_status fm_gpt_logits(fm_gpt *m, fm_tensor *tokens, fm_tensor **logits);

void fm_gpt_train(fm_gpt *m, bool training);

int64_t fm_gpt_num_parameters(const fm_gpt *m);        /* global */
int64_t fm_gpt_num_active_parameters(const fm_gpt *m); /* of which one token uses */
/* FLOPs of one token of a sequence of S: 3 × forward, attention counted causally. */
double fm_gpt_flops_per_token(const fm_gpt *m, int64_t S);

/* Bytes that a training step of B sequences of S needs, by role. */
typedef struct fm_memory_plan {
    size_t parameters, gradients, moments, activations;
} fm_memory_plan;
fm_memory_plan fm_gpt_memory_plan(const fm_gpt *m, int64_t B, int64_t S);

/* ---- generation */
typedef struct fm_sampling {
    double temperature; /* 0: the most likely token */
    int64_t top_k;      /* 0: all */
    double top_p;       /* 1: all */
    uint64_t seed;
} fm_sampling;
/* Continues B prompts of length S by n tokens into out [B, S + n] (host memory), with a KV cache;
 * the window slides when S + n > seq_len (learned positions: the cache is rebuilt from the last
 * seq_len/2 tokens). Dropless, no noise. */
fm_status fm_gpt_generate(fm_gpt *m, const int32_t *prompt, int64_t B, int64_t S, int64_t n,
                          const fm_sampling *s, int32_t *out);

#endif
