/* GPT's fields: ranges, FLOPs and parameters by hand for each variant; a model without any layer of
 * the other kind. */
#include "model/gpt.h"
#include "tests/tensor/runner.h"

#include <math.h>
#include <string.h>

enum { V = 29, L = 3, D = 12, HEADS = 6, WINDOW = 10 };

static fm_gpt_config plain(void) { return fm_gpt_config_default(V, L, D, HEADS, WINDOW); }

static void ranges(test *t) {
    fm_gpt_config c;
#define REFUSED(field, value, ...)                                                                 \
    do {                                                                                           \
        c = plain();                                                                               \
        c.field = value;                                                                           \
        EXPECT_ERROR(t, fm_gpt_config_check(t->ctx, &c), FM_ERR_VALUE, __VA_ARGS__);               \
    } while (0)
    REFUSED(vocab_size, 0, "vocab_size is 0", "from 1");
    REFUSED(n_layer, -1, "n_layer is -1");
    REFUSED(d_model, 0, "d_model is 0");
    REFUSED(n_head, 0, "n_head is 0");
    REFUSED(seq_len, (int64_t)1 << 31, "seq_len is 2147483648", "2147483647");
    REFUSED(d_hidden, -4, "d_hidden is -4");
    REFUSED(n_kv_head, 4, "n_kv_head is 4", "n_head 6");
    REFUSED(n_head, 5, "n_head is 5", "d_model 12");
    REFUSED(dropout, 1, "dropout is 1", "[0, 1)");
    REFUSED(dropout, NAN, "dropout is");
    REFUSED(norm_eps, 0, "norm_eps is 0", "positive");
    REFUSED(rope_theta, -1, "rope_theta is -1", "positive");
#undef REFUSED
    c = plain();
    c.dtype = FM_I32;
    EXPECT_ERROR(t, fm_gpt_config_check(t->ctx, &c), FM_ERR_DTYPE, "dtype is int32", "bfloat16");
    c = plain();
    c.n_head = 4, c.position = FM_POSITION_ROPE;
    EXPECT_ERROR(t, fm_gpt_config_check(t->ctx, &c), FM_ERR_VALUE, "rope", "3");
    c = plain();
    c.has_moe = true, c.moe = fm_moe_config_default(4, 8);
    c.moe_every = -1;
    EXPECT_ERROR(t, fm_gpt_config_check(t->ctx, &c), FM_ERR_VALUE, "every is -1");
    const int64_t layers[] = {0, L};
    c.moe_every = 0, c.moe_layers = layers, c.n_moe_layers = 2;
    EXPECT_ERROR(t, fm_gpt_config_check(t->ctx, &c), FM_ERR_VALUE, "layer 3", "n_layer = 3",
                 "0 to 2");
    c.moe_layers = NULL, c.n_moe_layers = 0;
    EXPECT_ERROR(t, fm_gpt_config_check(t->ctx, &c), FM_ERR_VALUE, "n_layer = 3");
    c.moe_every = L + 1;
    EXPECT_ERROR(t, fm_gpt_config_check(t->ctx, &c), FM_ERR_VALUE, "every = 4", "n_layer = 3");
    c.moe_every = L;
    EXPECT_OK(t, fm_gpt_config_check(t->ctx, &c));
    c.moe_every = 1, c.moe.top_k = 5;
    EXPECT_ERROR(t, fm_gpt_config_check(t->ctx, &c), FM_ERR_VALUE, "top_k is 5");
    c = plain();
    EXPECT_OK(t, fm_gpt_config_check(t->ctx, &c));
    EXPECT(t, c.d_hidden == 4 * D && c.n_kv_head == HEADS, "the zeros are filled in");
}

/* Parameters and forward FLOPs a token, written out per variant. */
static void check_counts(test *t, const fm_gpt_config *c, int64_t parameters, int64_t active,
                         double forward) {
    fm_mesh *mesh;
    fm_gpt *m;
    fm_mesh_config mc = fm_mesh_config_default();
    EXPECT_OK(t, fm_mesh_new(t->ctx, &mc, NULL, &mesh));
    EXPECT_OK(t, fm_gpt_new(t->ctx, c, mesh, &m));
    EXPECT(t, fm_gpt_num_parameters(m) == parameters, "%d parameters, not %d",
           (int)fm_gpt_num_parameters(m), (int)parameters);
    EXPECT(t, fm_gpt_num_active_parameters(m) == active, "%d active, not %d",
           (int)fm_gpt_num_active_parameters(m), (int)active);
    EXPECT(t, fabs(fm_gpt_flops_per_token(m, 7, false) - 3 * forward) < 1e-6, "%g FLOPs, not %g",
           fm_gpt_flops_per_token(m, 7, false), 3 * forward);
    fm_gpt_free(m);
    fm_mesh_free(mesh);
}

static void dense_counts(test *t) {
    fm_gpt_config c = plain();
    c.norm = FM_NORM_RMS;
    c.position = FM_POSITION_ROPE;
    c.activation = FM_ACT_SWIGLU;
    c.bias = false, c.tie_embeddings = false;
    c.d_hidden = 20, c.n_kv_head = 2;
    /* width of a head 2; qkv has (6 + 2·2)·2 = 20 rows; up has 40 */
    int64_t layer = 20 * D + D * D + 40 * D + D * 20 + 2 * D;
    int64_t all = 2 * V * D + L * layer + D;
    double forward = 2.0 * V * D + L * (2.0 * 20 * D + 2.0 * D * D + 2.0 * 8 * D + 2.0 * 60 * D);
    check_counts(t, &c, all, all, forward);
}

static void moe_counts(test *t) {
    fm_gpt_config c = plain();
    const int64_t layers[] = {2, 0};
    c.has_moe = true, c.moe = fm_moe_config_default(4, 8);
    c.moe_every = 0, c.moe_layers = layers, c.n_moe_layers = 2;
    c.moe.activation = FM_ACT_GEGLU;
    c.moe.gate_bias = true, c.moe.num_shared_experts = 2;
    int64_t attention = 3 * D * D + 3 * D + D * D + D, norms = 4 * D;
    int64_t mlp = 2 * 4 * D * D + 4 * D + D;
    int64_t expert = 16 * D + 16 + 8 * D + D, shared = 32 * D + 32 + 16 * D + D;
    int64_t all = V * D + WINDOW * D + 2 * D + L * (attention + norms) + mlp +
                  2 * (4 * D + 4 + 4 * expert + shared);
    double forward = 2.0 * V * D + L * (8.0 * D * D + 2.0 * 8 * D) + 2.0 * 8 * D * D +
                     2 * (2.0 * D * 4 + (2 + 2) * 2.0 * 24 * D);
    check_counts(t, &c, all, all - 2 * 2 * expert, forward);
}

static void moe_layers(test *t) {
    fm_gpt_config c = plain();
    EXPECT(t, !fm_gpt_is_moe_layer(&c, 1), "a dense model");
    c.has_moe = true;
    const bool every2[] = {false, true, false}, first_and_last[] = {true, false, true};
    for (int i = 0; i < L; i++)
        EXPECT(t, fm_gpt_is_moe_layer(&c, i) == every2[i], "every 2, layer %d", i);
    const int64_t layers[] = {2, 0};
    c.moe_every = 0, c.moe_layers = layers, c.n_moe_layers = 2;
    for (int i = 0; i < L; i++)
        EXPECT(t, fm_gpt_is_moe_layer(&c, i) == first_and_last[i], "a list, layer %d", i);
    /* the list is borrowed: the model keeps neither it nor its length, and asking is safe */
    fm_mesh *mesh;
    fm_gpt *m;
    fm_mesh_config mc = fm_mesh_config_default();
    c.moe = fm_moe_config_default(4, 8);
    EXPECT_OK(t, fm_mesh_new(t->ctx, &mc, NULL, &mesh));
    EXPECT_OK(t, fm_gpt_new(t->ctx, &c, mesh, &m));
    EXPECT(t, !m->config.moe_layers && m->config.n_moe_layers == 0, "a list that was borrowed");
    EXPECT(t, m->n_moe == 2 && m->blocks[0].moe && !m->blocks[1].moe && m->blocks[2].moe,
           "%d MoE layers", (int)m->n_moe);
    EXPECT(t, !fm_gpt_is_moe_layer(&m->config, 0), "an entry of no list");
    fm_gpt_free(m);
    fm_mesh_free(mesh);
}

static void bad_tokens(test *t) {
    fm_mesh *mesh;
    fm_gpt *m;
    fm_gpt_out out;
    fm_tensor *x, *y;
    fm_mesh_config mc = fm_mesh_config_default();
    fm_gpt_config c = plain();
    EXPECT_OK(t, fm_mesh_new(t->ctx, &mc, NULL, &mesh));
    EXPECT_OK(t, fm_gpt_new(t->ctx, &c, mesh, &m));
    EXPECT_OK(t, fm_tensor_zeros(t->ctx, &x, FM_I32, 2, (int64_t[]){2, 4}));
    EXPECT_OK(t, fm_tensor_zeros(t->ctx, &y, FM_I32, 2, (int64_t[]){2, 5}));
    EXPECT_ERROR(t, fm_gpt_forward(m, x, y, &out), FM_ERR_SHAPE, "targets is [2, 5]", "[2, 4]");
    EXPECT(t, !out.loss && !out.lm_loss, "an output after an error");
    fm_tensor_free(y);
    EXPECT_OK(t, fm_tensor_zeros(t->ctx, &y, FM_F32, 2, (int64_t[]){2, 4}));
    EXPECT_ERROR(t, fm_gpt_forward(m, y, x, &out), FM_ERR_SHAPE, "tokens is [2, 4] float32");
    EXPECT_ERROR(t, fm_gpt_forward(m, x, y, &out), FM_ERR_SHAPE, "targets is [2, 4] float32");
    /* every target ignored: no valid one, loss 0 */
    int32_t none[8];
    double loss;
    for (int i = 0; i < 8; i++) none[i] = -1;
    fm_tensor_free(y);
    EXPECT_OK(t, fm_tensor_from_host(t->ctx, &y, FM_I32, 2, (int64_t[]){2, 4}, none));
    EXPECT_OK(t, fm_gpt_forward(m, x, y, &out));
    EXPECT_OK(t, fm_tensor_item(t->ctx, out.loss, &loss));
    EXPECT(t, loss == 0, "loss %g of no target", loss);
    fm_gpt_out_free(&out);
    fm_tensor_free(x);
    fm_tensor_free(y);
    fm_gpt_free(m);
    fm_mesh_free(mesh);
}

static const test_case cases[] = {{"ranges", ranges},
                                  {"dense_counts", dense_counts},
                                  {"moe_counts", moe_counts},
                                  {"moe_layers", moe_layers},
                                  {"bad_tokens", bad_tokens}};
TEST_PROGRAM(cases)
