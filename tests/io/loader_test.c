#include "io/loader.h"
#include "tests/io/check.h"

enum { BYTES = 1000, S = 7 };

/* Byte i is a hash of i, so that a window tells its place; two equal windows do not occur. */
static int32_t byte_at(int64_t i) { return (int32_t)((i * 2654435761u >> 13) & 255); }

static fm_dataset *data_of(fm_ctx *ctx) {
    unsigned char bytes[BYTES];
    for (int i = 0; i < BYTES; i++) bytes[i] = (unsigned char)byte_at(i);
    char path[1024];
    snprintf(path, sizeof path, "%s/data", test_folder());
    test_write_file(path, bytes, sizeof bytes);
    fm_dataset *d = NULL;
    if (fm_dataset_bytes(ctx, path, NULL, NULL, &d) != FM_OK) printf("  %s\n", ctx->error.message);
    return d;
}

static fm_loader_config config_of(int64_t batch, int64_t micro, int dp, int dp_rank, bool shuffle) {
    return (fm_loader_config){.batch_size = batch,
                              .micro_batches = micro,
                              .seq_len = S,
                              .split_start = 0,
                              .split_stop = 1,
                              .seed = 42,
                              .dp = dp,
                              .dp_rank = dp_rank,
                              .shuffle = shuffle};
}

/* Which sample of the split starting at `first` this row is; -1: none. */
static int64_t sample_of(const int32_t *tokens, const int32_t *targets, int64_t first) {
    for (int64_t sample = 0; first + sample * S + S < BYTES; sample++) {
        int64_t s = 0;
        while (s < S && tokens[s] == byte_at(first + sample * S + s) &&
               targets[s] == byte_at(first + sample * S + s + 1))
            s++;
        if (s == S) return sample;
    }
    return -1;
}

static bool is_padding(const int32_t *tokens, const int32_t *targets) {
    for (int64_t s = 0; s < S; s++)
        if (tokens[s] != 0 || targets[s] != -1) return false;
    return true;
}

/* Each epoch has every sample once, in an order of its own; 142 samples do not fill whole batches. */
static void covers_every_epoch(fm_ctx *ctx) {
    fm_dataset *d = data_of(ctx);
    fm_loader_config c = config_of(8, 2, 1, 0, true);
    fm_loader *l;
    CHECK(d, "no dataset");
    CHECK_OK(fm_loader_new(ctx, d, &c, &l));
    int64_t n = fm_loader_samples(l);
    CHECK(n == (BYTES - 1) / S && fm_loader_rows(l) == 4, "%lld samples", (long long)n);
    static int64_t order[3 * BYTES];
    int32_t tokens[4 * S], targets[4 * S];
    int64_t taken = 0;
    while (taken < 3 * n) {
        int64_t valid;
        CHECK(fm_loader_epoch(l) == taken / n, "epoch %lld", (long long)fm_loader_epoch(l));
        CHECK_OK(fm_loader_next(ctx, l, tokens, targets, &valid));
        CHECK(valid == 4, "%lld valid", (long long)valid);
        for (int r = 0; r < 4; r++, taken++)
            CHECK((order[taken] = sample_of(tokens + r * S, targets + r * S, 0)) >= 0, "row %d", r);
        CHECK(fm_loader_position(l) == taken, "position");
    }
    int same = 0;
    for (int epoch = 0; epoch < 3; epoch++) {
        char seen[BYTES] = {0};
        for (int64_t i = 0; i < n; i++) {
            CHECK(!seen[order[epoch * n + i]]++, "epoch %d: a sample twice", epoch);
            same += order[i] == order[epoch * n + i];
        }
    }
    CHECK(same < n + 20, "the epochs are alike in %lld places", (long long)(same - n));
    fm_loader_free(l), fm_dataset_free(d);
}

/* The rows of all ranks, side by side, are those of one rank: whatever dp and micro_batches. */
static void does_not_depend_on_the_layout(fm_ctx *ctx) {
    static const struct {
        int dp;
        int64_t micro;
    } layouts[] = {{1, 1}, {1, 3}, {2, 1}, {3, 2}, {4, 3}, {12, 1}};
    fm_dataset *d = data_of(ctx);
    CHECK(d, "no dataset");
    enum { B = 12, STEPS = 30 };
    static int64_t wanted[STEPS][B], got[STEPS][B];
    for (size_t i = 0; i < sizeof layouts / sizeof *layouts; i++) {
        int dp = layouts[i].dp;
        for (int rank = 0; rank < dp; rank++) {
            fm_loader_config c = config_of(B, layouts[i].micro, dp, rank, true);
            fm_loader *l;
            CHECK_OK(fm_loader_new(ctx, d, &c, &l));
            int64_t rows = fm_loader_rows(l);
            CHECK(rows * dp * c.micro_batches == B, "rows");
            for (int step = 0; step < STEPS; step++)
                for (int64_t m = 0; m < c.micro_batches; m++) {
                    int32_t tokens[B * S], targets[B * S];
                    CHECK_OK(fm_loader_next(ctx, l, tokens, targets, NULL));
                    for (int64_t r = 0; r < rows; r++)
                        got[step][(m * dp + rank) * rows + r] = sample_of(tokens + r * S,
                                                                          targets + r * S, 0);
                }
            fm_loader_free(l);
        }
        if (i == 0) memcpy(wanted, got, sizeof got);
        CHECK(memcmp(wanted, got, sizeof got) == 0, "dp=%d micro_batches=%lld", dp,
              (long long)layouts[i].micro);
    }
    fm_dataset_free(d);
}

static void seeks(fm_ctx *ctx) {
    fm_dataset *d = data_of(ctx);
    fm_loader_config c = config_of(5, 1, 1, 0, true);
    fm_loader *l;
    CHECK(d, "no dataset");
    CHECK_OK(fm_loader_new(ctx, d, &c, &l));
    int32_t a[2][5 * S], b[2][5 * S];
    for (int i = 0; i < 40; i++) CHECK_OK(fm_loader_next(ctx, l, a[0], a[1], NULL));
    int64_t position = fm_loader_position(l);
    CHECK(position == 200 && fm_loader_epoch(l) == 1, "%lld", (long long)position);
    CHECK_OK(fm_loader_next(ctx, l, a[0], a[1], NULL));
    fm_loader_reset(l);
    CHECK(fm_loader_position(l) == 0, "reset");
    CHECK_OK(fm_loader_next(ctx, l, b[0], b[1], NULL));
    CHECK(memcmp(a, b, sizeof a) != 0, "the first batch is the 41st");
    CHECK_OK(fm_loader_seek(ctx, l, position));
    CHECK_OK(fm_loader_next(ctx, l, b[0], b[1], NULL));
    CHECK(memcmp(a, b, sizeof a) == 0, "another batch after seeking");
    CHECK_FAILS(fm_loader_seek(ctx, l, -1), FM_ERR_RANGE, "-1");
    fm_loader_config other = c;
    other.seed = 43;
    fm_loader *m;
    CHECK_OK(fm_loader_new(ctx, d, &other, &m));
    CHECK_OK(fm_loader_seek(ctx, m, position));
    CHECK_OK(fm_loader_next(ctx, m, b[0], b[1], NULL));
    CHECK(memcmp(a, b, sizeof a) != 0, "another seed, the same order");
    fm_loader_free(l), fm_loader_free(m), fm_dataset_free(d);
    fm_loader_free(NULL);
}

/* Evaluation: in order, each sample once, the rest padded; then over again. */
static void evaluates_each_sample_once(fm_ctx *ctx) {
    fm_dataset *d = data_of(ctx);
    CHECK(d, "no dataset");
    for (int dp = 1; dp <= 4; dp *= 2)
        for (int rank = 0; rank < dp; rank++) {
            fm_loader_config c = config_of(8, 1, dp, rank, false);
            fm_loader *l;
            CHECK_OK(fm_loader_new(ctx, d, &c, &l));
            int64_t n = fm_loader_samples(l), rows = fm_loader_rows(l);
            int32_t tokens[8 * S], targets[8 * S];
            for (int pass = 0; pass < 2; pass++)
                for (int64_t at = 0;; at += 8) {
                    int64_t valid, wanted = at >= n ? 0 : n - at < 8 ? n - at : 8;
                    CHECK_OK(fm_loader_next(ctx, l, tokens, targets, &valid));
                    CHECK(valid == wanted, "at %lld: valid %lld", (long long)at, (long long)valid);
                    for (int64_t r = 0; r < rows; r++) {
                        const int32_t *x = tokens + r * S, *y = targets + r * S;
                        int64_t i = rank * rows + r;
                        CHECK(i < wanted ? sample_of(x, y, 0) == at + i : is_padding(x, y),
                              "dp=%d rank=%d row %lld", dp, rank, (long long)i);
                    }
                    if (!valid) break;
                }
            fm_loader_free(l);
        }
    /* Where the samples fill the batches there is no short one. */
    fm_loader_config c = config_of(2, 1, 1, 0, false);
    fm_loader *l;
    CHECK_OK(fm_loader_new(ctx, d, &c, &l));
    int32_t tokens[2 * S], targets[2 * S];
    int64_t valid, calls = 0;
    do CHECK_OK(fm_loader_next(ctx, l, tokens, targets, &valid));
    while (++calls < 1000 && valid == 2);
    CHECK(valid == 0 && calls == 142 / 2 + 1, "%lld calls", (long long)calls);
    fm_loader_free(l), fm_dataset_free(d);
}

/* Splits share no sample and no input token. */
static void splits(fm_ctx *ctx) {
    fm_dataset *d = data_of(ctx);
    CHECK(d, "no dataset");
    fm_loader_config c = config_of(1, 1, 1, 0, false);
    fm_loader *train, *valid;
    c.split_stop = 0.9;
    CHECK_OK(fm_loader_new(ctx, d, &c, &train));
    c.split_start = 0.9, c.split_stop = 1;
    CHECK_OK(fm_loader_new(ctx, d, &c, &valid));
    CHECK(fm_loader_samples(train) == 899 / S && fm_loader_samples(valid) == 99 / S, "samples");
    int32_t tokens[S], targets[S];
    CHECK_OK(fm_loader_next(ctx, valid, tokens, targets, NULL));
    CHECK(sample_of(tokens, targets, 900) == 0, "the second split starts elsewhere");
    fm_loader_free(train), fm_loader_free(valid), fm_dataset_free(d);
}

static void names_what_is_wrong(fm_ctx *ctx) {
    fm_dataset *d = data_of(ctx);
    CHECK(d, "no dataset");
    fm_loader *l;
    fm_loader_config c = config_of(10, 2, 3, 0, true);
    CHECK_FAILS(fm_loader_new(ctx, d, &c, &l), FM_ERR_VALUE, "10", "3 x 2");
    c = config_of(0, 1, 1, 0, true);
    CHECK_FAILS(fm_loader_new(ctx, d, &c, &l), FM_ERR_VALUE, "batch_size is 0");
    c = config_of(1, -1, 1, 0, true);
    CHECK_FAILS(fm_loader_new(ctx, d, &c, &l), FM_ERR_VALUE, "micro_batches is -1");
    c = config_of(INT64_MAX, INT64_MAX, 7, 0, true);
    CHECK_FAILS(fm_loader_new(ctx, d, &c, &l), FM_ERR_VALUE, "7 x 9223372036854775807");
    c = config_of(2, 1, 2, 2, true);
    CHECK_FAILS(fm_loader_new(ctx, d, &c, &l), FM_ERR_VALUE, "dp_rank is 2");
    static const double bad[][2] = {{-0.1, 1}, {0, 1.1}, {0.5, 0.5}, {0.6, 0.5}, {0, 0. / 0.}};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        c = config_of(1, 1, 1, 0, true);
        c.split_start = bad[i][0], c.split_stop = bad[i][1];
        CHECK_FAILS(fm_loader_new(ctx, d, &c, &l), FM_ERR_VALUE, "0 <= start < stop <= 1");
    }
    static const int64_t too_long[] = {BYTES, INT32_MAX};
    for (int i = 0; i < 2; i++) {
        c = config_of(1, 1, 1, 0, true);
        c.seq_len = too_long[i];
        CHECK_FAILS(fm_loader_new(ctx, d, &c, &l), FM_ERR_VALUE, "1000 tokens", "seq_len + 1");
    }
    c.seq_len = BYTES - 1;
    CHECK_OK(fm_loader_new(ctx, d, &c, &l));
    CHECK(fm_loader_samples(l) == 1, "one whole sample");
    fm_loader_free(l);
    c.seq_len = INT64_MAX;
    CHECK_FAILS(fm_loader_new(ctx, d, &c, &l), FM_ERR_VALUE, "seq_len is 9223372036854775807");
    c.seq_len = 1, c.split_start = 0.5, c.split_stop = 0.5005;
    CHECK_FAILS(fm_loader_new(ctx, d, &c, &l), FM_ERR_VALUE, "holds 0");
    fm_dataset_free(d);
}

static const test_case cases[] = {
    {"loader(epochs)", covers_every_epoch},
    {"loader(layouts)", does_not_depend_on_the_layout},
    {"loader(seek)", seeks},
    {"loader(evaluation)", evaluates_each_sample_once},
    {"loader(splits)", splits},
    {"loader(errors)", names_what_is_wrong},
};
TEST_MAIN(cases)
