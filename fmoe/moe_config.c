#include "fmoe/moe.h"

#include <stdio.h>
#include <string.h>

fm_moe_config fm_moe_config_default(int64_t num_experts, int64_t d_hidden) {
    return (fm_moe_config){.num_experts = num_experts,
                           .d_hidden = d_hidden,
                           .gate = "gshard",
                           .activation = FM_ACT_GELU,
                           .bias = true,
                           .aux_loss_weight = 0.01,
                           .scale = 1.0,
                           .random_second = true};
}

static void gate_names(char *buf, size_t n) {
    size_t at = 0;
    for (int i = 0; fm_gate_at(i) && at < n; i++)
        at += (size_t)snprintf(buf + at, n - at, "%s%s", i ? ", " : "", fm_gate_at(i)->name);
}

fm_status fm_moe_config_check(fm_ctx *ctx, fm_moe_config *c, const fm_gate *gate) {
    char names[128];
    FM_CHECK(c->num_experts >= 1, FM_ERR_VALUE, "num_experts is %lld; it must be at least 1",
             (long long)c->num_experts);
    FM_CHECK(c->d_hidden >= 1, FM_ERR_VALUE, "d_hidden is %lld; it must be at least 1",
             (long long)c->d_hidden);
    if (!gate) gate = fm_gate_find(c->gate);
    gate_names(names, sizeof names);
    FM_CHECK(gate, FM_ERR_VALUE, "gate is '%s'; allowed are %s", c->gate, names);
    if (c->top_k == 0) c->top_k = gate->default_top_k;
    FM_CHECK(!gate->fixed_top_k || c->top_k == gate->default_top_k, FM_ERR_VALUE,
             "top_k is %lld; gate '%s' allows only %lld", (long long)c->top_k, gate->name,
             (long long)gate->default_top_k);
    FM_CHECK(c->top_k >= 1 && c->top_k <= c->num_experts, FM_ERR_VALUE,
             "top_k is %lld; it must be from 1 to num_experts, %lld", (long long)c->top_k,
             (long long)c->num_experts);
    const struct {
        const char *name;
        double value;
    } not_negative[] = {{"capacity_factor", c->capacity_factor},
                        {"eval_capacity_factor", c->eval_capacity_factor},
                        {"aux_loss_weight", c->aux_loss_weight},
                        {"z_loss_weight", c->z_loss_weight},
                        {"num_shared_experts", (double)c->num_shared_experts}};
    for (size_t i = 0; i < sizeof not_negative / sizeof *not_negative; i++)
        FM_CHECK(not_negative[i].value >= 0, FM_ERR_VALUE, "%s is %g; it must not be negative",
                 not_negative[i].name, not_negative[i].value);
    FM_CHECK(c->jitter >= 0 && c->jitter < 1, FM_ERR_VALUE, "jitter is %g; it must be in [0, 1)",
             c->jitter);
    FM_CHECK(c->jitter == 0 || gate->jitters, FM_ERR_VALUE,
             "jitter is %g and gate '%s'; gate 'switch' is the one that jitters", c->jitter,
             gate->name);
    FM_CHECK(
        c->random_second || gate->picks_second, FM_ERR_VALUE,
        "second_policy is 'all' and gate '%s'; gate 'gshard' is the one that draws second choices",
        gate->name);
    FM_CHECK(!gate->own_router || (!c->gate_bias && c->z_loss_weight == 0), FM_ERR_VALUE,
             "%s is given and gate '%s' has a router of its own; its author adds them",
             c->gate_bias ? "gate_bias" : "z_loss_weight", gate->name);
    FM_CHECK(c->scale > 0, FM_ERR_VALUE, "scale is %g; it must be positive", c->scale);
    FM_CHECK(c->drop_policy != FM_DROP_SCORE || c->capacity_scope != FM_SCOPE_GLOBAL, FM_ERR_VALUE,
             "drop_policy is 'score' and capacity_scope 'global'; 'score' allows the scopes "
             "'sequence' and 'rank'");
    return FM_OK;
}
