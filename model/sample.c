/* Drawing a token from logits: temperature, top-k, top-p (nucleus, Holtzman et al. 2020). */
#include "model/gpt.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static int falling(const void *a, const void *b) {
    float x = *(const float *)a, y = *(const float *)b;
    return x < y ? 1 : x > y ? -1 : 0;
}

static int32_t most_likely(const float *logits, int64_t V) {
    int64_t best = 0;
    for (int64_t v = 1; v < V; v++)
        if (logits[v] > logits[best]) best = v;
    return (int32_t)best;
}

/* Which tokens may be drawn: those above `low`, and the first `ties` of those that equal it. */
typedef struct cut {
    float low;
    int64_t ties;
} cut;

static cut cut_of(const float *logits, int64_t V, const fm_sampling *s, float *sorted) {
    int64_t k = s->top_k > 0 && s->top_k < V ? s->top_k : V;
    if (k == V && s->top_p >= 1) return (cut){-INFINITY, V};
    memcpy(sorted, logits, (size_t)V * sizeof *sorted);
    qsort(sorted, (size_t)V, sizeof *sorted, falling);
    double total = 0, seen = 0;
    for (int64_t i = 0; i < k; i++) total += exp((double)(sorted[i] - sorted[0]) / s->temperature);
    int64_t i = 0;
    for (; i < k; i++) {
        seen += exp((double)(sorted[i] - sorted[0]) / s->temperature);
        if (seen >= s->top_p * total) break;
    }
    if (i == k) i = k - 1;
    int64_t first = i; /* of those equal to the last that stays */
    while (first > 0 && sorted[first - 1] == sorted[i]) first--;
    return (cut){sorted[i], i - first + 1};
}

static bool may_be_drawn(float logit, cut *c) {
    return logit > c->low || (logit == c->low && c->ties-- > 0);
}

int32_t fm_sample(const float *logits, int64_t V, const fm_sampling *s, uint64_t draw,
                  float *scratch) {
    int32_t best = most_likely(logits, V);
    if (s->temperature == 0) return best;
    const cut allowed = cut_of(logits, V, s, scratch);
    cut left = allowed;
    double total = 0;
    for (int64_t v = 0; v < V; v++)
        if (may_be_drawn(logits[v], &left))
            total += exp((double)(logits[v] - logits[best]) / s->temperature);
    fm_rng_key key = {.key = fm_mix64(fm_mix64(s->seed) ^ fm_rng_stream("generate"))};
    double target = total * (double)fm_rng_uniform(fm_rng_bits(&key, draw)), sum = 0;
    left = allowed;
    for (int64_t v = 0; v < V; v++) {
        if (!may_be_drawn(logits[v], &left)) continue;
        sum += exp((double)(logits[v] - logits[best]) / s->temperature);
        if (sum >= target) return (int32_t)v;
    }
    return best; /* only when rounding left the sum just below the target */
}
