/* A GPT on a mesh beside the same GPT on one rank, which every rank computes for itself: weights, losses,
 * logits, and the gradients, summed over each parameter's replicas. */
#ifndef FM_TESTS_MODEL_GPT_BESIDE_H
#define FM_TESTS_MODEL_GPT_BESIDE_H
#include "model/gpt.h"
#include "tests/parallel/ranks.h"

enum { L = 2, D = 32, HEADS = 8, S = 12, B = 2, MAX_DP = 4, MAX_TOKENS = MAX_DP * B * S };

typedef struct variant {
    int64_t V, kv, hidden;
    fm_norm norm;
    fm_position position;
    fm_act act;
    bool untied, no_bias, ignore, recompute;
    int64_t top_k;      /* of MoE layers; 0: the gate's own */
    const char *gate;   /* NULL: dense */
    double capacity, z; /* of MoE layers: factor, 0: dropless; weight of the z loss */
    double dropout;
    fm_dtype dtype;
    double tolerance; /* 0: that of fp32 */
} variant;

typedef struct run {
    fm_mesh *mesh;
    fm_gpt *m;
    fm_tensor *tokens, *targets;
    fm_gpt_out out;
} run;

fm_gpt_config gpt_config_of(const variant *v);
/* A model with large weights, and its batch. world NULL: this rank alone, with the sequences of `dp`
 * ranks. */
fm_status run_new(fm_ctx *ctx, run *r, const variant *v, fm_comm *world, const fm_mesh_config *mesh,
                  int dp);
void run_free(run *r);
/* Forward, and backward of 1/dp. */
fm_status run_differentiate(fm_ctx *ctx, run *r);

/* Fails the case where the two differ by more than v->tolerance, relative to the largest number. */
void compare_on(test *t, const variant *v, const fm_mesh_config *mesh);

#endif
