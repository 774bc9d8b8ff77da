/* Sampling's corners, and generation beyond the window against the rule written out. */
#include "model/gpt.h"
#include "tests/tensor/runner.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { DRAWS = 400 };

/* top_k=1 is the most likely token, also where several are equally likely (bf16 logits often are);
 * of equals the lower index stays. */
static void top_k_counts_ties(test *t) {
    enum { V = 6 };
    const float logits[V] = {0.5f, 2.0f, 2.0f, -1.0f, 2.0f, 1.0f};
    float scratch[V];
    fm_sampling s = {.temperature = 1, .top_k = 1, .top_p = 1, .seed = 4};
    for (uint64_t i = 0; i < DRAWS; i++) {
        int32_t v = fm_sample(logits, V, &s, i, scratch);
        EXPECT(t, v == 1, "top_k 1 drew %d", v);
    }
    bool seen[V] = {false};
    s.top_k = 2;
    for (uint64_t i = 0; i < DRAWS; i++) seen[fm_sample(logits, V, &s, i, scratch)] = true;
    EXPECT(t, seen[1] && seen[2] && !seen[4] && !seen[0] && !seen[5], "top_k 2 of three equals");
    s.top_k = 4;
    memset(seen, 0, sizeof seen);
    for (uint64_t i = 0; i < DRAWS; i++) seen[fm_sample(logits, V, &s, i, scratch)] = true;
    EXPECT(t, seen[1] && seen[2] && seen[4] && seen[5] && !seen[0], "top_k 4");
}

/* The nucleus is the smallest set that holds top_p. */
static void top_p_is_smallest(test *t) {
    enum { V = 5 };
    const float logits[V] = {logf(0.1f), logf(0.4f), logf(0.3f), logf(0.15f), logf(0.05f)};
    const struct {
        double p;
        int allowed;
    } cases[] = {{1e-9, 1}, {0.39, 1}, {0.41, 2}, {0.69, 2},
                 {0.71, 3}, {0.84, 3}, {0.86, 4}, {0.96, 5}};
    const int order[V] = {1, 2, 3, 0, 4};
    float scratch[V];
    for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
        fm_sampling s = {.temperature = 1, .top_p = cases[c].p, .seed = 9};
        bool seen[V] = {false};
        for (uint64_t i = 0; i < DRAWS; i++) seen[fm_sample(logits, V, &s, i, scratch)] = true;
        for (int r = 0; r < V; r++)
            EXPECT(t, seen[order[r]] == (r < cases[c].allowed), "top_p %g, rank %d", cases[c].p, r);
    }
    /* both: top_p of what top_k leaves, 0.4 and 0.3 of 0.7 */
    fm_sampling s = {.temperature = 1, .top_k = 2, .top_p = 0.55, .seed = 9};
    for (uint64_t i = 0; i < DRAWS; i++)
        EXPECT(t, fm_sample(logits, V, &s, i, scratch) == 1, "top_k 2 and top_p 0.55");
    s = (fm_sampling){.temperature = 1e-3, .top_p = 1, .seed = 9};
    for (uint64_t i = 0; i < DRAWS; i++)
        EXPECT(t, fm_sample(logits, V, &s, i, scratch) == 1, "a temperature near 0");
}

/* Draws do not depend on what else was drawn, and change with the seed. */
static void draws_are_numbered(test *t) {
    enum { V = 8 };
    const float logits[V] = {0};
    float scratch[V];
    int same = 0;
    fm_sampling s = {.temperature = 1, .top_p = 1, .seed = 1}, other = s;
    other.seed = 2;
    int32_t forth[DRAWS];
    for (uint64_t i = 0; i < DRAWS; i++) forth[i] = fm_sample(logits, V, &s, i, scratch);
    for (uint64_t i = DRAWS; i-- > 0;)
        EXPECT(t, fm_sample(logits, V, &s, i, scratch) == forth[i], "draw %d", (int)i);
    for (uint64_t i = 0; i < DRAWS; i++)
        same += fm_sample(logits, V, &other, i, scratch) == forth[i];
    /* 1 in 8 by chance: five standard deviations */
    EXPECT(t, fabs(same - DRAWS / 8.0) < 5 * sqrt(DRAWS * 7 / 64.0), "%d of %d alike", same, DRAWS);
}

/* Greedy text past the window: the cache holds at most `window` tokens, and is rebuilt from the last
 * window/2 when it is full. Each token is the likeliest after exactly those. */
static void window(test *t, fm_position position, int64_t prompt_len) {
    enum { V = 23, WINDOW = 8, NEW = 21, MOST = 32 };
    fm_mesh *mesh;
    fm_gpt *m;
    fm_mesh_config mc = fm_mesh_config_default();
    fm_gpt_config c = fm_gpt_config_default(V, 2, 24, 4, WINDOW);
    c.position = position;
    EXPECT_OK(t, fm_mesh_new(t->ctx, &mc, NULL, &mesh));
    EXPECT_OK(t, fm_gpt_new(t->ctx, &c, mesh, &m));
    float *w = m->params->masters->data;
    for (int i = 0; i < m->params->n; i++) { /* N(0, 0.02) would leave all logits alike */
        const fm_param *p = m->params->items[i];
        for (int64_t k = 0; p->spec.decay && k < p->numel; k++) w[p->offset + k] *= 10;
    }
    int32_t out[MOST], prompt[MOST];
    for (int64_t i = 0; i < prompt_len; i++) prompt[i] = (int32_t)(fm_mix64((uint64_t)i) % V);
    fm_sampling greedy = {.temperature = 0, .top_p = 1};
    EXPECT_OK(t, fm_gpt_generate(m, prompt, 1, prompt_len, NEW, &greedy, NULL, out));
    EXPECT(t, memcmp(out, prompt, (size_t)prompt_len * sizeof *out) == 0, "the prompt");
    int64_t start = prompt_len > WINDOW ? prompt_len - WINDOW : 0;
    for (int64_t at = prompt_len; at < prompt_len + NEW; at++) {
        if (at - start > WINDOW) start = at - WINDOW / 2;
        fm_tensor *x, *logits;
        EXPECT_OK(
            t, fm_tensor_from_host(t->ctx, &x, FM_I32, 2, (int64_t[]){1, at - start}, out + start));
        bool was = fm_grad_enable(t->ctx, false);
        EXPECT_OK(t, fm_gpt_logits(m, x, &logits));
        fm_grad_enable(t->ctx, was);
        const float *last = (const float *)logits->data + (at - start - 1) * V;
        for (int v = 0; v < V; v++)
            EXPECT(t, last[out[at]] >= last[v] - 1e-4f, "position %d: token %d, not %d", (int)at,
                   out[at], v);
        fm_tensor_free(x);
        fm_tensor_free(logits);
    }
    fm_gpt_free(m);
    fm_mesh_free(mesh);
}
static void window_learned(test *t) { window(t, FM_POSITION_LEARNED, 3); }
static void window_rope(test *t) { window(t, FM_POSITION_ROPE, 8); }
static void window_long_prompt(test *t) { window(t, FM_POSITION_LEARNED, 11); }

static const test_case cases[] = {{"top_k_counts_ties", top_k_counts_ties},
                                  {"top_p_is_smallest", top_p_is_smallest},
                                  {"draws_are_numbered", draws_are_numbered},
                                  {"window_learned", window_learned},
                                  {"window_rope", window_rope},
                                  {"window_long_prompt", window_long_prompt}};
TEST_PROGRAM(cases)
