/* GPT with MoE layers on every mesh of tensor and expert parallelism, beside one rank. */
#include "tests/model/gpt_beside.h"

#include <stdio.h>

static void compare_all(test *t, const variant *v) {
    static const int sizes[] = {1, 2, 4};
    int n = ranks_world()->size;
    for (int i = 0; i < 27; i++) {
        fm_mesh_config c = fm_mesh_config_default();
        c.tp = sizes[i / 9], c.ep = sizes[i / 3 % 3], c.etp = sizes[i % 3];
        if (n % c.tp || n % (c.ep * c.etp)) continue;
        compare_on(t, v, &c);
        if (!t->case_failed) continue;
        test_fail(t, "on the mesh tp=%d ep=%d etp=%d", c.tp, c.ep, c.etp);
        return;
    }
}

/* In bf16 all experts are chosen: rounding shall not decide between two of them. */
#define VARIANTS(X)                                                                                \
    X(naive, .gate = "naive", .ignore = true)                                                      \
    X(gshard, .gate = "gshard", .z = 0.01)                                                         \
    X(gshard_capacity, .gate = "gshard", .capacity = 0.8, .dropout = 0.1, .act = FM_ACT_SWIGLU)    \
    X(switch_capacity, .gate = "switch", .capacity = 1, .recompute = true, .no_bias = true)        \
    X(bf16, .gate = "naive", .top_k = 4, .dtype = FM_BF16, .tolerance = 0.1)
#define VARIANT_CASE(name, ...)                                                                    \
    static void name(test *t) { compare_all(t, &(variant){__VA_ARGS__}); }
VARIANTS(VARIANT_CASE)

#define VARIANT_ENTRY(name, ...) {#name, name},
static const test_case cases[] = {VARIANTS(VARIANT_ENTRY)};
RANKS_PROGRAM(cases)
