/* Attention's backward in parts: each has a like share of the work, any number of threads gives the same
 * bits, and the scratch is what the plan of memory counts. */
#include "tensor/cpu/attention_parts.h"
#include "tensor/cpu/cpu.h"
#include "tensor/cpu/device.h"
#include "tensor/rng.h"
#include "tests/tensor/cpu/cases.h"

#include <omp.h>
#include <stdlib.h>

enum { MAX_PARTS = FM_ATTENTION_ENOUGH };

/* Keys that a tile sees, in tiles: what it costs. */
static int64_t share(const fm_attention_args *a, int64_t part, int64_t parts, int *seen) {
    int64_t sum = 0, t;
    for (int64_t n = 0; (t = fm_attention_dealt(n, part, parts)) < fm_attention_tiles(a); n++) {
        sum += fm_attention_tile_of(a, t) + 1;
        seen[fm_attention_head_of(a, t) * fm_attention_tiles_in_head(a) +
             fm_attention_tile_of(a, t)]++;
    }
    return sum;
}

static void check_shares(cases *c, int64_t B, int64_t H, int64_t KV, int64_t tiles_in_head) {
    int64_t S = tiles_in_head * FM_TILE_Q;
    fm_attention_args a = {.B = B, .Sq = S, .Skv = S, .H = H, .KV = KV, .dh = 8, .causal = true};
    int64_t parts = fm_attention_parts(&a), tiles = fm_attention_tiles(&a), most = 0, total = 0;
    if (!case_begin(c, "shares, B %d, %d heads over %d, %d tiles", (int)B, (int)H, (int)KV,
                    (int)tiles_in_head))
        return;
    int *seen = calloc((size_t)tiles, sizeof *seen);
    if (!seen) abort();
    if (parts < 1 || parts > MAX_PARTS) case_fail(c, "%d parts", (int)parts);
    for (int64_t p = 0; p < parts; p++) {
        int64_t mine = share(&a, p, parts, seen);
        total += mine;
        if (mine > most) most = mine;
    }
    for (int64_t t = 0; t < tiles; t++)
        if (seen[t] != 1) case_fail(c, "tile %d is dealt out %d times", (int)t, seen[t]);
    /* The slowest part is what all wait for. A part of few tiles cannot be nearer than one of them. */
    double mean = (double)total / (double)parts;
    double allowed = FM_ATTENTION_PART_TILES < 4 ? mean + (double)tiles_in_head : 1.15 * mean;
    if ((double)most > allowed)
        case_fail(c, "of %d parts one has %d, the mean is %g", (int)parts, (int)most, mean);
    free(seen);
    case_end(c);
}

/* q, k, v, o, dO and the gradients, one after the other, of fp32. */
typedef struct problem {
    fm_attention_grad_args g;
    float *memory;
    int64_t outputs_at, n;
} problem;

static problem problem_new(int64_t B, int64_t S, int64_t H, int64_t KV, int64_t dh, bool causal) {
    int64_t q = B * S * H * dh, kv = B * S * KV * dh;
    problem p = {.outputs_at = 3 * q + 2 * kv + B * H * S};
    p.n = p.outputs_at + q + 2 * kv;
    p.memory = malloc((size_t)p.n * sizeof(float));
    if (!p.memory) abort();
    float *at = p.memory;
    for (int64_t i = 0; i < p.n; i++)
        at[i] = (float)(fm_mix64((uint64_t)i) >> 40) / (float)(1 << 24) - 0.5f;
    fm_attention_args a = {
        .dt = FM_F32, .B = B, .Sq = S, .Skv = S, .H = H, .KV = KV, .dh = dh, .causal = causal};
    a.scale = 0.3f;
    a.q = at, a.k = at + q, a.v = at + q + kv, a.o = at + q + 2 * kv;
    a.q_row = H * dh, a.k_row = a.v_row = KV * dh;
    a.q_batch = S * a.q_row, a.k_batch = a.v_batch = S * a.k_row;
    a.lse = at + 3 * q + 2 * kv;
    float *out = at + p.outputs_at;
    p.g = (fm_attention_grad_args){
        .fwd = a, .d_o = at + 2 * q + 2 * kv, .dq = out, .dk = out + q, .dv = out + q + kv};
    return p;
}

/* The scratch block of a device that has done nothing else. */
static size_t scratch_of(fm_device *dev) {
    fm_cpu *cpu = dev->impl;
    return cpu->scratch[FM_CPU_SCRATCH_PRODUCT].bytes;
}

static void check_threads(cases *c, int64_t B, int64_t S, int64_t H, int64_t KV, bool causal) {
    enum { DH = 16, MOST_THREADS = 6 };
    if (!case_begin(c, "threads, B %d, S %d, %d heads over %d%s", (int)B, (int)S, (int)H, (int)KV,
                    causal ? ", causal" : ""))
        return;
    problem first = problem_new(B, S, H, KV, DH, causal);
    for (int threads = 1; threads <= MOST_THREADS; threads++) {
        fm_device *dev;
        fm_error error = {0};
        problem p = problem_new(B, S, H, KV, DH, causal);
        omp_set_num_threads(threads);
        if (fm_cpu_open(&error, &dev) != FM_OK ||
            dev->ops->attention_forward(dev, &p.g.fwd) != FM_OK)
            abort();
        size_t before = scratch_of(dev);
        if (dev->ops->attention_backward(dev, &p.g) != FM_OK) abort();
        size_t counted = (size_t)fm_attention_floats(&p.g.fwd, DH, threads) * sizeof(float);
        if (scratch_of(dev) != (counted > before ? counted : before))
            case_fail(c, "%d threads: %zu bytes of scratch, counted are %zu", threads,
                      scratch_of(dev), counted);
        if (threads == 1) memcpy(first.memory, p.memory, (size_t)p.n * sizeof(float));
        if (memcmp(first.memory + p.outputs_at, p.memory + p.outputs_at,
                   (size_t)(p.n - p.outputs_at) * sizeof(float)) != 0)
            case_fail(c, "%d threads give other bits than one", threads);
        fm_cpu_close(dev);
        free(p.memory);
    }
    free(first.memory);
    case_end(c);
}

int main(int argc, char **argv) {
    cases c = cases_new(argc, argv);
    /* in_head a multiple of parts, parts one of in_head, and neither */
    static const int64_t shapes[][4] = {{1, 8, 1, 16}, {2, 8, 1, 8},  {1, 1, 1, 128},
                                        {1, 1, 1, 37}, {2, 4, 2, 16}, {1, 12, 4, 9},
                                        {3, 5, 5, 33}, {40, 2, 2, 3}};
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
        check_shares(&c, shapes[i][0], shapes[i][1], shapes[i][2], shapes[i][3]);
    for (int causal = 0; causal < 2; causal++) {
        check_threads(&c, 1, 600, 2, 1, causal);
        check_threads(&c, 2, 300, 6, 2, causal);
        check_threads(&c, 33, 40, 1, 1, causal);
    }
    return cases_end(&c);
}
