/* A MoE layer with its parameters, for tests. */
#ifndef FM_TESTS_FMOE_LAYER_H
#define FM_TESTS_FMOE_LAYER_H
#include "fmoe/moe.h"
#include "tests/tensor/runner.h"

typedef struct layer {
    fm_mesh *mesh;
    fm_param_set *params;
    fm_moe moe;
} layer;

/* Weights N(0, 0.3), so that experts differ and gradients are no rounding. */
fm_status layer_new(fm_ctx *ctx, layer *l, const fm_moe_config *config, int64_t d_model);
void layer_free(layer *l);

/* x[i] = a number in (-1, 1) of (i, seed); a leaf that requires a gradient. */
fm_status layer_input(fm_ctx *ctx, fm_tensor **x, int64_t B, int64_t S, int64_t d, int seed);
/* loss = Σ y·y/2 + balance + z of a forward, differentiated. */
fm_status layer_step(fm_ctx *ctx, layer *l, fm_tensor *x, double *loss);

#endif
