/* Philox against Random123's known answers, and what tensor/rng.h promises about its use. */
#include "tests/tensor/runner.h"

#include <math.h>
#include <string.h>

static const uint32_t ones = 0xffffffffu;

static void known_answers(test *t) {
    /* Salmon et al., Random123 kat_vectors: philox4x32 10 */
    static const struct {
        uint32_t in[4], key[2], out[4];
    } kat[] = {
        {{0, 0, 0, 0}, {0, 0}, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
        {{ones, ones, ones, ones}, {ones, ones}, {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
        {{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344},
         {0xa4093822, 0x299f31d0},
         {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
    };
    for (int i = 0; i < 3; i++) {
        uint32_t out[4];
        fm_philox(kat[i].key[0] | (uint64_t)kat[i].key[1] << 32, kat[i].in, out);
        EXPECT(t, memcmp(out, kat[i].out, sizeof out) == 0, "vector %d: %08x %08x %08x %08x", i,
               out[0], out[1], out[2], out[3]);
    }
}

static void elements(test *t) {
    fm_rng_key key = {.key = 42, .step = 7, .micro = 3};
    for (uint64_t e = 0; e < 64; e++) {
        uint32_t out[4];
        fm_rng_block(&key, e / 4, out);
        EXPECT(t, fm_rng_bits(&key, e) == out[e % 4], "element %d", (int)e);
    }
    uint32_t base = fm_rng_bits(&key, 1000), other;
    fm_rng_key step = key, micro = key, seed = key;
    step.step++, micro.micro++, seed.key++;
    other = fm_rng_bits(&step, 1000);
    EXPECT(t, other != base, "the step changes nothing");
    other = fm_rng_bits(&micro, 1000);
    EXPECT(t, other != base, "the micro-batch changes nothing");
    other = fm_rng_bits(&seed, 1000);
    EXPECT(t, other != base, "the key changes nothing");
}

/* Three ranks of one global batch hold rows 0,1 | 2,3 | 4,5, then 6,7 | ... */
static void rows(test *t) {
    for (int64_t rank = 0; rank < 3; rank++) {
        fm_rng_key key = {.row_offset = 2 * rank, .row_block = 2, .row_stride = 6};
        for (int64_t r = 0; r < 8; r++) {
            int64_t want = r / 2 * 6 + 2 * rank + r % 2;
            EXPECT(t, fm_rng_row(&key, r) == want, "rank %d row %d is global row %d", (int)rank,
                   (int)r, (int)fm_rng_row(&key, r));
        }
    }
    fm_rng_key plain = {.row_offset = 10};
    EXPECT(t, fm_rng_row(&plain, 5) == 15, "row_block 0: rows follow each other");
}

static void uniform(test *t) {
    float least = fm_rng_uniform(0), most = fm_rng_uniform(ones);
    EXPECT(t, least > 0 && most < 1, "[%.9g, %.9g] is not inside (0, 1)", (double)least,
           (double)most);
    fm_rng_key key = {.key = 1};
    enum { N = 100000 };
    double sum = 0, square = 0;
    for (uint64_t e = 0; e < N; e++) {
        double u = (double)fm_rng_uniform(fm_rng_bits(&key, e));
        sum += u, square += u * u;
    }
    /* five standard deviations of the mean */
    EXPECT(t, fabs(sum / N - 0.5) < 5 * sqrt(1.0 / 12 / N), "the mean is %g", sum / N);
    EXPECT(t, fabs(square / N - 1.0 / 3) < 5 * sqrt(4.0 / 45 / N), "the square is %g", square / N);
}

static void normal(test *t) {
    fm_rng_key key = {.key = 2};
    enum { N = 100000 };
    double moment[5] = {0};
    for (uint64_t e = 0; e < N; e++) {
        double x = fm_rng_normal(&key, e), power = 1;
        for (int i = 1; i < 5; i++) moment[i] += (power *= x) / N;
    }
    /* variances of x, x², x³, x⁴: 1, 2, 15, 96 */
    EXPECT(t, fabs(moment[1]) < 5 * sqrt(1.0 / N), "the mean is %g", moment[1]);
    EXPECT(t, fabs(moment[2] - 1) < 5 * sqrt(2.0 / N), "the variance is %g", moment[2]);
    EXPECT(t, fabs(moment[3]) < 5 * sqrt(15.0 / N), "the third moment is %g", moment[3]);
    EXPECT(t, fabs(moment[4] - 3) < 5 * sqrt(96.0 / N), "the fourth moment is %g", moment[4]);
    double product = 0;
    for (uint64_t e = 0; e + 1 < N; e++)
        product += fm_rng_normal(&key, e) * fm_rng_normal(&key, e + 1) / N;
    EXPECT(t, fabs(product) < 5 * sqrt(1.0 / N), "neighbours correlate: %g", product);
}

static void streams(test *t) {
    /* FNV-1a's published values */
    EXPECT(t, fm_rng_stream("") == 0xcbf29ce484222325ull, "of the empty name");
    EXPECT(t, fm_rng_stream("a") == 0xaf63dc4c8601ec8cull, "of a");
    EXPECT(t, fm_rng_stream("foobar") == 0x85944171f73967e8ull, "of foobar");
    fm_clock clock = {.step = 6, .micro = 7};
    fm_ctx ctx = {.seed = 5, .clock = &clock, .rows = {8, 9, 10}};
    fm_rng_key a = fm_rng(&ctx, fm_rng_stream("a")), b = fm_rng(&ctx, fm_rng_stream("b"));
    EXPECT(t, a.key != b.key, "two streams have one key");
    EXPECT(t, a.step == 6 && a.micro == 7, "the clock is not in the key");
    EXPECT(t, a.row_offset == 8 && a.row_block == 9 && a.row_stride == 10, "nor its rows");
    ctx.seed = 6;
    EXPECT(t, fm_rng(&ctx, fm_rng_stream("a")).key != a.key, "the seed changes nothing");
}

static const test_case cases[] = {{"known_answers", known_answers},
                                  {"elements", elements},
                                  {"rows", rows},
                                  {"uniform", uniform},
                                  {"normal", normal},
                                  {"streams", streams}};

int main(int argc, char **argv) {
    test t;
    test_init(&t, argc, argv);
    test_run(&t, cases, sizeof cases / sizeof *cases);
    return test_finish(&t);
}
