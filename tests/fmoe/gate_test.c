/* Capacity by brute force, and what gates draw at random. */
#include "tests/fmoe/layer.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Keeps choice i unless `capacity` better ones of its expert and group are ahead of it. */
static void brute_force(int32_t *kept, const int32_t *index, const float *score, int64_t T,
                        int64_t k, int64_t groups, int64_t capacity, bool by_score) {
    for (int64_t i = 0; i < T * k; i++) {
        int64_t ahead = 0, group = i / k / (T / groups);
        for (int64_t j = 0; j < T * k; j++) {
            if (index[j] != index[i] || j / k / (T / groups) != group || index[j] < 0) continue;
            bool first = by_score && score[j] != score[i] ? score[j] > score[i] : j < i;
            ahead += first;
        }
        kept[i] = index[i] >= 0 && ahead < capacity ? index[i] : -1;
    }
}

static void capacity(test *t) {
    enum { T = 24, K = 2, E = 5 };
    for (int trial = 0; trial < 60; trial++) {
        int32_t index[T * K], want[T * K];
        float score[T * K];
        for (int i = 0; i < T * K; i++) {
            uint64_t h = fm_mix64((uint64_t)(trial * 1000 + i));
            index[i] = h % 13 == 0 ? -1 : (int32_t)(h % E);
            score[i] = (float)((h >> 40) % 8) / 8; /* many ties */
            if (i % K == 1 && index[i] == index[i - 1]) index[i] = (index[i] + 1) % E;
        }
        bool by_score = trial % 2, per_sequence = trial % 3 == 0;
        int64_t sequences = 4, groups = per_sequence ? sequences : 1;
        double factor = 0.25 + 0.125 * (trial % 7);
        fm_tensor *indices, *scores;
        EXPECT_OK(t, fm_tensor_from_host(t->ctx, &indices, FM_I32, 2, (int64_t[]){T, K}, index));
        EXPECT_OK(t, fm_tensor_from_host(t->ctx, &scores, FM_F32, 2, (int64_t[]){T, K}, score));
        int64_t places = fm_capacity(factor, K, T / groups, E);
        EXPECT_OK(t, fm_capacity_drop(t->ctx, indices, scores, E, sequences, places, per_sequence,
                                      by_score, NULL));
        brute_force(want, index, score, T, K, groups, places, by_score);
        EXPECT(t, memcmp(want, indices->data, sizeof want) == 0, "trial %d", trial);
        fm_tensor_free(indices);
        fm_tensor_free(scores);
    }
}

static void capacity_rounds_up(test *t) {
    EXPECT(t, fm_capacity(1.0, 2, 10, 5) == 4, "%d", (int)fm_capacity(1.0, 2, 10, 5));
    EXPECT(t, fm_capacity(1.0, 1, 11, 5) == 3, "%d", (int)fm_capacity(1.0, 1, 11, 5));
    EXPECT(t, fm_capacity(1.1, 1, 10, 1) == 11, "%d", (int)fm_capacity(1.1, 1, 10, 1));
    EXPECT(t, fm_capacity(0.01, 1, 10, 8) == 1, "%d", (int)fm_capacity(0.01, 1, 10, 8));
}

/* Second choices are kept with probability min(1, 2·score); the draw depends on step and
 * micro-batch, and nothing is drawn in evaluation. */
static void gshard_second(test *t) {
    enum { S = 4096, D = 4 };
    layer l;
    fm_tensor *x;
    double loss;
    fm_moe_config c = fm_moe_config_default(4, 8);
    EXPECT_OK(t, layer_new(t->ctx, &l, &c, D));
    EXPECT_OK(t, layer_input(t->ctx, &x, 1, S, D, 2));
    int32_t first[2 * S];
    for (int run = 0; run < 4; run++) {
        t->ctx->own_clock.step = run == 2;
        l.moe.training = run != 3;
        EXPECT_OK(t, layer_step(t->ctx, &l, x, &loss));
        const int32_t *index = l.moe.last_indices->data;
        const float *score = l.moe.last_scores->data;
        double kept = 0, expected = 0, variance = 0;
        for (int i = 0; i < S; i++) {
            double p = fmin(1, 2 * (double)score[2 * i + 1]);
            EXPECT(t, index[2 * i] >= 0, "a first choice was dropped");
            kept += index[2 * i + 1] >= 0;
            expected += p;
            variance += p * (1 - p);
        }
        if (run == 3)
            EXPECT(t, kept == S, "evaluation dropped %g", S - kept);
        else
            EXPECT(t, fabs(kept - expected) < 5 * sqrt(variance), "kept %g, expected %g", kept,
                   expected);
        if (run == 0) memcpy(first, index, sizeof first);
        if (run == 1) EXPECT(t, memcmp(first, index, sizeof first) == 0, "not repeatable");
        if (run == 2) EXPECT(t, memcmp(first, index, sizeof first) != 0, "each step the same");
    }
    t->ctx->own_clock.step = 0;
    fm_tensor_free(x);
    layer_free(&l);
}

/* Jitter moves the router's input in training alone: scores differ by little, and not in eval. */
static void switch_jitter(test *t) {
    enum { S = 64, D = 8 };
    layer l;
    fm_tensor *x;
    double loss;
    float plain[S], jittered[S];
    fm_moe_config c = fm_moe_config_default(2, 8);
    strcpy(c.gate, "switch");
    c.jitter = 0.01;
    EXPECT_OK(t, layer_new(t->ctx, &l, &c, D));
    EXPECT_OK(t, layer_input(t->ctx, &x, 1, S, D, 2));
    l.moe.training = false;
    EXPECT_OK(t, layer_step(t->ctx, &l, x, &loss));
    memcpy(plain, l.moe.last_scores->data, sizeof plain);
    l.moe.training = true;
    EXPECT_OK(t, layer_step(t->ctx, &l, x, &loss));
    memcpy(jittered, l.moe.last_scores->data, sizeof jittered);
    double largest = 0;
    for (int i = 0; i < S; i++) largest = fmax(largest, fabs((double)plain[i] - jittered[i]));
    EXPECT(t, largest > 1e-6 && largest < 0.02, "scores moved by %g", largest);
    EXPECT_OK(t, layer_step(t->ctx, &l, x, &loss));
    EXPECT(t, memcmp(jittered, l.moe.last_scores->data, sizeof jittered) == 0, "not repeatable");
    fm_tensor_free(x);
    layer_free(&l);
}

static void renormalize(test *t) {
    const float score[] = {0.5f, 0.25f, 0.125f, 0.3f, 0.2f, 0.1f, 0.4f, 0.4f, 0.2f};
    const int32_t index[] = {0, -1, 2, 1, 0, 2, -1, -1, -1};
    const double want[] = {0.8, 0, 0.2, 0.5, 1 / 3.0, 1 / 6.0, 0, 0, 0};
    fm_tensor *scores, *indices, *y, *sum, *weights, *weighted;
    const float w[] = {1, 2, 3, -1, 4, 2, 1, 1, 1};
    fm_ctx *ctx = t->ctx;
    EXPECT_OK(t, fm_tensor_from_host(ctx, &scores, FM_F32, 2, (int64_t[]){3, 3}, score));
    EXPECT_OK(t, fm_tensor_from_host(ctx, &indices, FM_I32, 2, (int64_t[]){3, 3}, index));
    EXPECT_OK(t, fm_tensor_from_host(ctx, &weights, FM_F32, 2, (int64_t[]){3, 3}, w));
    scores->requires_grad = true;
    EXPECT_OK(t, fm_renormalize(ctx, &y, scores, indices));
    for (int i = 0; i < 9; i++)
        EXPECT(t, fabs(((float *)y->data)[i] - want[i]) < 1e-6, "element %d: %g", i,
               (double)((float *)y->data)[i]);
    EXPECT_OK(t, fm_mul(ctx, &weighted, y, weights));
    EXPECT_OK(t, fm_sum(ctx, &sum, weighted, 1));
    EXPECT_OK(t, fm_backward(ctx, sum, NULL));
    for (int i = 0; i < 9; i++) {
        double s = 0, dot = 0;
        for (int j = i / 3 * 3; j < i / 3 * 3 + 3; j++)
            if (index[j] >= 0) s += (double)score[j], dot += (double)w[j] * score[j];
        double g = index[i] >= 0 ? ((double)w[i] - dot / s) / s : 0;
        EXPECT(t, fabs(((float *)scores->grad->data)[i] - g) < 1e-5, "gradient %d", i);
    }
    fm_tensor *gone[] = {scores, indices, y, sum, weights, weighted};
    for (int i = 0; i < 6; i++) fm_tensor_free(gone[i]);
}

static const test_case cases[] = {{"capacity", capacity},
                                  {"capacity_rounds_up", capacity_rounds_up},
                                  {"gshard_second", gshard_second},
                                  {"switch_jitter", switch_jitter},
                                  {"renormalize", renormalize}};
TEST_PROGRAM(cases)
