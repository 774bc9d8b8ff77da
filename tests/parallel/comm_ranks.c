/* Every collective on 1 to 4 ranks against what it must give, in all dtypes, at odd sizes, cut and
 * whole, one at a time and several under way; and the ways to go wrong. */
#include "parallel/throttle.h"
#include "tests/parallel/ranks.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static const int64_t sizes[] = {0, 1, 5, 7, 8, 61, 1000};
enum { N_SIZES = sizeof sizes / sizeof *sizes, LONGEST = 1000, MAX_RANKS = 8 };
static const fm_dtype dtypes[] = {FM_F32, FM_BF16, FM_I32, FM_I64};

/* Element i of rank r: small integers, exact in every dtype, so that sums are exact as well. */
static int64_t element(int r, int64_t i) { return (i * 7 + r * 3) % 13 - 4; }

static void put(void *x, fm_dtype dt, int64_t i, int64_t value) {
    if (dt == FM_F32)
        ((float *)x)[i] = (float)value;
    else if (dt == FM_BF16)
        ((fm_bf16 *)x)[i] = fm_f32_to_bf16((float)value);
    else if (dt == FM_I32)
        ((int32_t *)x)[i] = (int32_t)value;
    else
        ((int64_t *)x)[i] = value;
}

static int64_t get(const void *x, fm_dtype dt, int64_t i) {
    if (dt == FM_F32) return (int64_t)((const float *)x)[i];
    if (dt == FM_BF16) return (int64_t)fm_bf16_to_f32(((const fm_bf16 *)x)[i]);
    return dt == FM_I32 ? ((const int32_t *)x)[i] : ((const int64_t *)x)[i];
}

static int64_t over_ranks(int size, int64_t i, fm_reduce op) {
    int64_t y = element(0, i);
    for (int r = 1; r < size; r++) {
        int64_t x = element(r, i);
        y = op == FM_SUM ? y + x : y > x ? y : x;
    }
    return y;
}

/* Buffers with a guard behind; what a collective must not touch. */
enum { GUARD = 99 };
static int64_t x_buffer[LONGEST * MAX_RANKS + 1], y_buffer[LONGEST * MAX_RANKS + 1];

static void clear(fm_dtype dt, int64_t n) {
    for (int64_t i = 0; i <= n; i++) put(y_buffer, dt, i, GUARD);
}

/* all_reduce, both operations */
static void reduces(test *t) {
    fm_comm *c = ranks_world();
    for (int d = 0; d < 4; d++)
        for (int s = 0; s < N_SIZES; s++)
            for (int op = FM_SUM; op <= FM_MAX; op++) {
                int64_t n = sizes[s];
                clear(dtypes[d], n);
                for (int64_t i = 0; i < n; i++) put(y_buffer, dtypes[d], i, element(c->rank, i));
                EXPECT_OK(t, fm_all_reduce_now(c, t->ctx, dtypes[d], y_buffer, n, (fm_reduce)op));
                for (int64_t i = 0; i < n; i++) {
                    int64_t want = over_ranks(c->size, i, (fm_reduce)op);
                    int64_t got = get(y_buffer, dtypes[d], i);
                    EXPECT(t, got == want, "%s[%lld] of %lld, op %d: %lld, not %lld",
                           fm_dtype_name(dtypes[d]), (long long)i, (long long)n, op, (long long)got,
                           (long long)want);
                }
                EXPECT(t, get(y_buffer, dtypes[d], n) == GUARD, "wrote behind the end");
            }
}

static void gathers(test *t) {
    fm_comm *c = ranks_world();
    for (int d = 0; d < 4; d++)
        for (int s = 0; s < N_SIZES; s++)
            for (int in_place = 0; in_place < 2; in_place++) {
                int64_t n = sizes[s];
                size_t size = fm_dtype_size(dtypes[d]);
                clear(dtypes[d], n * c->size);
                void *x = in_place ? (char *)y_buffer + (size_t)(n * c->rank) * size
                                   : (char *)x_buffer;
                for (int64_t i = 0; i < n; i++) put(x, dtypes[d], i, element(c->rank, i));
                EXPECT_OK(t, fm_all_gather_now(c, t->ctx, dtypes[d], y_buffer, x, n));
                for (int r = 0; r < c->size; r++)
                    for (int64_t i = 0; i < n; i++)
                        EXPECT(t, get(y_buffer, dtypes[d], r * n + i) == element(r, i),
                               "%s[%d, %lld] of %lld", fm_dtype_name(dtypes[d]), r, (long long)i,
                               (long long)n);
                EXPECT(t, get(y_buffer, dtypes[d], n * c->size) == GUARD, "wrote behind the end");
            }
}

static void scatters(test *t) {
    fm_comm *c = ranks_world();
    for (int d = 0; d < 4; d++)
        for (int s = 0; s < N_SIZES; s++) {
            int64_t n = sizes[s];
            clear(dtypes[d], n);
            for (int64_t i = 0; i < n * c->size; i++)
                put(x_buffer, dtypes[d], i, element(c->rank, i));
            EXPECT_OK(t, fm_reduce_scatter_now(c, t->ctx, dtypes[d], y_buffer, x_buffer, n));
            for (int64_t i = 0; i < n; i++)
                EXPECT(t,
                       get(y_buffer, dtypes[d], i) == over_ranks(c->size, c->rank * n + i, FM_SUM),
                       "%s[%lld] of %lld", fm_dtype_name(dtypes[d]), (long long)i, (long long)n);
            EXPECT(t, get(y_buffer, dtypes[d], n) == GUARD, "wrote behind the end");
        }
}

/* Rank r sends (r + 2 q) % 5 · scale elements to q: some pairs send nothing. */
static int64_t parts(int from, int to, int64_t scale) { return (from + 2 * to) % 5 * scale; }

static void exchanges(test *t) {
    fm_comm *c = ranks_world();
    for (int d = 0; d < 4; d++)
        for (int64_t scale = 0; scale <= 9; scale += 3) {
            int64_t plan[4][MAX_RANKS], at = 1, to = 0;
            for (int q = 0; q < c->size; q++) {
                plan[0][q] = parts(q, c->rank, scale), plan[1][q] = to;
                plan[2][q] = parts(c->rank, q, scale), plan[3][q] = at;
                for (int64_t i = 0; i < plan[2][q]; i++)
                    put(x_buffer, dtypes[d], at + i, element(c->rank, 100 * q + i));
                to += plan[0][q] + 1; /* holes between the parts */
                at += plan[2][q] + 2;
            }
            clear(dtypes[d], to);
            fm_collective w = {.kind = FM_ALL_TO_ALL_V,
                               .dt = dtypes[d],
                               .y = y_buffer,
                               .x = x_buffer,
                               .recv_counts = plan[0],
                               .recv_displs = plan[1],
                               .send_counts = plan[2],
                               .send_displs = plan[3]};
            EXPECT_OK(t, fm_comm_run(c, t->ctx, &w));
            for (int q = 0; q < c->size; q++) {
                for (int64_t i = 0; i < plan[0][q]; i++)
                    EXPECT(t,
                           get(y_buffer, dtypes[d], plan[1][q] + i) ==
                               element(q, 100 * c->rank + i),
                           "%s from %d, %lld", fm_dtype_name(dtypes[d]), q, (long long)i);
                EXPECT(t, get(y_buffer, dtypes[d], plan[1][q] + plan[0][q]) == GUARD, "a hole");
            }
        }
}

static void broadcasts(test *t) {
    fm_comm *c = ranks_world();
    for (int root = 0; root < c->size; root++)
        for (int s = 0; s < N_SIZES; s++) {
            int64_t n = sizes[s];
            clear(FM_I32, n);
            for (int64_t i = 0; i < n; i++) put(y_buffer, FM_I32, i, element(c->rank, i));
            EXPECT_OK(t, fm_broadcast_now(c, t->ctx, FM_I32, y_buffer, n, root));
            for (int64_t i = 0; i < n; i++)
                EXPECT(t, get(y_buffer, FM_I32, i) == element(root, i), "[%lld]", (long long)i);
            EXPECT(t, get(y_buffer, FM_I32, n) == GUARD, "wrote behind the end");
        }
}

/* Round the ring, two tags, received in the other order. */
static void sends(test *t) {
    fm_comm *c = ranks_world();
    if (c->size == 1) return; /* nobody to send to: see `errors` */
    int next = (c->rank + 1) % c->size, last = (c->rank + c->size - 1) % c->size;
    for (int s = 0; s < N_SIZES; s++) {
        int64_t n = sizes[s];
        fm_request r[4];
        fm_collective send = {.kind = FM_SEND, .dt = FM_F32, .x = x_buffer, .n = n, .peer = next};
        fm_collective recv = {.kind = FM_RECV, .dt = FM_F32, .y = y_buffer, .n = n, .peer = last};
        for (int64_t i = 0; i < 2 * n; i++) put(x_buffer, FM_F32, i, element(c->rank, i));
        clear(FM_F32, 2 * n);
        EXPECT_OK(t, fm_comm_start(c, t->ctx, &send, &r[0]));
        send.x = (float *)x_buffer + n, send.tag = FM_TAG_MAX;
        EXPECT_OK(t, fm_comm_start(c, t->ctx, &send, &r[1]));
        recv.y = (float *)y_buffer + n, recv.tag = FM_TAG_MAX;
        EXPECT_OK(t, fm_comm_start(c, t->ctx, &recv, &r[2]));
        recv.y = y_buffer, recv.tag = 0;
        EXPECT_OK(t, fm_comm_start(c, t->ctx, &recv, &r[3]));
        for (int i = 3; i >= 0; i--) EXPECT_OK(t, fm_comm_wait(&r[i], t->ctx));
        for (int64_t i = 0; i < 2 * n; i++)
            EXPECT(t, get(y_buffer, FM_F32, i) == element(last, i), "[%lld]", (long long)i);
        EXPECT(t, get(y_buffer, FM_F32, 2 * n) == GUARD, "wrote behind the end");
    }
}

/* A message between two of the ranks, or a call that is refused, does not count: the others' numbers, and
 * the tags of what follows, stay the same. */
static void pairs_do_not_count(test *t) {
    fm_comm *c = ranks_world(), *part;
    if (c->size == 1) return;
    EXPECT_OK(t, fm_comm_split(c, t->ctx, 0, 0, &part));
    part->time_limit = 20;
    for (int checked = 0; checked < 2; checked++) {
        part->checked = checked;
        float x = 7;
        fm_collective pair = {.kind = FM_SEND, .dt = FM_F32, .x = &x, .y = &x, .n = 1, .peer = 1};
        if (part->rank == 0) EXPECT_OK(t, fm_comm_run(part, t->ctx, &pair));
        pair.kind = FM_RECV, pair.peer = 0;
        if (part->rank == 1) EXPECT_OK(t, fm_comm_run(part, t->ctx, &pair));
        fm_collective bad = {.kind = FM_BROADCAST, .dt = FM_F32, .y = &x, .n = 1, .peer = -1};
        if (part->rank == 0)
            EXPECT_ERROR(t, fm_comm_run(part, t->ctx, &bad), FM_ERR_VALUE, "root is -1");
        fm_error_clear(&t->ctx->error);
        int64_t ones[MAX_RANKS], at[MAX_RANKS];
        int32_t sent[MAX_RANKS], got[MAX_RANKS];
        for (int r = 0; r < part->size; r++)
            ones[r] = 1, at[r] = r, sent[r] = 10 * part->rank + r, got[r] = -1;
        fm_collective w = {.kind = FM_ALL_TO_ALL_V,
                           .dt = FM_I32,
                           .y = got,
                           .x = sent,
                           .recv_counts = ones,
                           .recv_displs = at,
                           .send_counts = ones,
                           .send_displs = at};
        EXPECT_OK(t, fm_comm_run(part, t->ctx, &w));
        for (int r = 0; r < part->size; r++)
            EXPECT(t, got[r] == 10 * r + part->rank, "from %d: %d", r, (int)got[r]);
    }
    fm_comm_free(part);
}

/* Many under way, waited for and tested in the other order. */
static void several_under_way(test *t) {
    enum { MANY = 20, N = 50 };
    fm_comm *c = ranks_world();
    fm_request r[MANY];
    float *y = (float *)y_buffer;
    for (int k = 0; k < MANY; k++) {
        for (int i = 0; i < N; i++) y[k * N + i] = (float)element(c->rank, k * N + i);
        fm_collective w = {.kind = FM_ALL_REDUCE, .dt = FM_F32, .y = y + k * N, .n = N};
        EXPECT_OK(t, fm_comm_start(c, t->ctx, &w, &r[k]));
    }
    for (int k = MANY - 1; k >= 0; k--) {
        bool done = false;
        while (k % 2 && !done) EXPECT_OK(t, fm_comm_test(&r[k], t->ctx, &done));
        EXPECT_OK(t, fm_comm_wait(&r[k], t->ctx));
        for (int i = 0; i < N; i++)
            EXPECT(t, y[k * N + i] == (float)over_ranks(c->size, k * N + i, FM_SUM), "%d of %d", i,
                   k);
    }
}

/* The same bits again: float sums whose order matters. */
static void same_bits(test *t) {
    fm_comm *c = ranks_world();
    static float first[LONGEST], again[LONGEST];
    for (int run = 0; run < 5; run++) {
        float *y = run == 0 ? first : again;
        for (int i = 0; i < LONGEST; i++)
            y[i] = sinf((float)(i * (c->rank + 1))) * powf(10, (float)(i % 7));
        EXPECT_OK(t, fm_all_reduce_now(c, t->ctx, FM_F32, y, LONGEST, FM_SUM));
        EXPECT(t, run == 0 || memcmp(first, again, sizeof first) == 0, "run %d differs", run);
    }
    /* and the same on all ranks */
    memcpy(again, first, sizeof first);
    EXPECT_OK(t, fm_broadcast_now(c, t->ctx, FM_F32, again, LONGEST, 0));
    EXPECT(t, memcmp(first, again, sizeof first) == 0, "rank %d has other bits than rank 0",
           c->rank);
}

static void splits(test *t) {
    fm_comm *c = ranks_world(), *part, *alone;
    EXPECT_OK(t, fm_comm_split(c, t->ctx, c->rank % 2, -c->rank, &part));
    EXPECT_OK(t, fm_comm_split(c, t->ctx, c->rank, 0, &alone));
    EXPECT(t, alone->size == 1 && strcmp(alone->transport->name, "self") == 0, "a group of one");
    int members = 0, before = 0, sum = 0;
    for (int r = c->rank % 2; r < c->size; r += 2) {
        members++;
        before += r > c->rank;
        sum += r;
    }
    EXPECT(t, part->size == members && part->rank == before, "rank %d of %d", part->rank,
           part->size);
    int32_t x = c->rank;
    EXPECT_OK(t, fm_all_reduce_now(part, t->ctx, FM_I32, &x, 1, FM_SUM));
    EXPECT(t, x == sum, "the sum is %d, not %d", (int)x, sum);
    fm_comm_free(alone);
    fm_comm_free(part);
}

static double now(void) {
    struct timespec s;
    clock_gettime(CLOCK_MONOTONIC, &s);
    return (double)s.tv_sec + 1e-9 * (double)s.tv_nsec;
}

/* Never complete before its time, whatever the machine does; right values; subgroups too. */
static void throttled(test *t) {
    fm_comm *c = ranks_world(), *whole, *slow, *part;
    const double latency = 0.02, bandwidth = 1e6;
    EXPECT_OK(t, fm_comm_split(c, t->ctx, 0, 0, &whole));
    EXPECT_OK(t, fm_comm_throttled(t->ctx, whole, latency, bandwidth, &slow));
    fm_request r[2];
    fm_collective first = {.kind = FM_ALL_REDUCE, .dt = FM_F32, .n = LONGEST};
    int64_t bytes = fm_collective_bytes(slow, &first);
    double started = now();
    for (int k = 0; k < 2; k++) {
        float *y = (float *)y_buffer + k * LONGEST;
        for (int i = 0; i < LONGEST; i++) y[i] = 1;
        fm_collective w = {.kind = FM_ALL_REDUCE, .dt = FM_F32, .y = y, .n = LONGEST};
        EXPECT_OK(t, fm_comm_start(slow, t->ctx, &w, &r[k]));
    }
    for (int k = 0; k < 2; k++) {
        EXPECT_OK(t, fm_comm_wait(&r[k], t->ctx));
        double least = latency + (k + 1) * (double)bytes / bandwidth;
        EXPECT(t, now() - started >= least - 1e-6, "message %d after %g s, not %g", k,
               now() - started, least);
        EXPECT(t, ((float *)y_buffer)[k * LONGEST] == (float)slow->size, "the sum");
    }
    EXPECT(t, bytes == (int64_t)sizeof(float) * (2 * LONGEST * (slow->size - 1) / slow->size),
           "%lld bytes by the formula", (long long)bytes);
    EXPECT(t, slow->stats[FM_ALL_REDUCE].bytes == 2 * bytes, "bytes are counted");
    started = now();
    EXPECT_OK(t, fm_comm_split(slow, t->ctx, slow->rank / 2, 0, &part));
    EXPECT_OK(t, fm_barrier_now(part, t->ctx));
    EXPECT(t, now() - started >= latency - 1e-6, "a subgroup is as slow");
    fm_comm_free(part);
    fm_comm_free(slow);
    EXPECT_OK(t, fm_comm_split(c, t->ctx, 0, 0, &whole));
    EXPECT_ERROR(t, fm_comm_throttled(t->ctx, whole, -1, bandwidth, &slow), FM_ERR_VALUE,
                 "latency is -1");
    EXPECT_OK(t, fm_comm_split(c, t->ctx, 0, 0, &whole));
    EXPECT_ERROR(t, fm_comm_throttled(t->ctx, whole, 0, 0, &slow), FM_ERR_VALUE, "bandwidth 0");
}

static void errors(test *t) {
    fm_comm *c = ranks_world();
    fm_collective w = {.kind = FM_ALL_REDUCE, .dt = FM_F32, .y = y_buffer, .n = -1};
    EXPECT_ERROR(t, fm_comm_run(c, t->ctx, &w), FM_ERR_VALUE, "all_reduce: n is -1");
    w = (fm_collective){.kind = FM_BROADCAST, .dt = FM_F32, .y = y_buffer, .n = 1, .peer = c->size};
    EXPECT_ERROR(t, fm_comm_run(c, t->ctx, &w), FM_ERR_VALUE, "broadcast: root is");
    w = (fm_collective){.kind = FM_SEND, .dt = FM_F32, .x = x_buffer, .n = 1, .peer = c->rank};
    EXPECT_ERROR(t, fm_comm_run(c, t->ctx, &w), FM_ERR_VALUE, "the rank itself");
    if (c->size == 1) return;
    w.peer = !c->rank, w.tag = FM_TAG_MAX + 1;
    EXPECT_ERROR(t, fm_comm_run(c, t->ctx, &w), FM_ERR_VALUE, "tag is 16384");
    fm_comm *part;
    EXPECT_ERROR(t, fm_comm_split(c, t->ctx, -1, 0, &part), FM_ERR_VALUE, "color is -1");
}

/* Ranks that begin different things hang without the check, and name each other with it. */
static void mismatches(test *t) {
    fm_comm *c = ranks_world(), *part;
    if (c->size == 1) return;
    for (int kind = 0; kind < 3; kind++) {
        EXPECT_OK(t, fm_comm_split(c, t->ctx, 0, 0, &part));
        part->checked = true;
        EXPECT_OK(t, fm_all_reduce_now(part, t->ctx, FM_F32, y_buffer, 5, FM_SUM));
        bool odd = part->rank == 1;
        fm_collective w = {
            .kind = FM_ALL_REDUCE, .dt = FM_F32, .y = y_buffer, .x = x_buffer, .n = 5};
        if (odd && kind == 0) w.kind = FM_REDUCE_SCATTER;
        if (odd && kind == 1) w.n = 6;
        if (odd && kind == 2) w.dt = FM_I32;
        const char *theirs = kind == 0 ? "rank 1 of it starts reduce_scatter number 2 of 5 float32"
                             : kind == 1 ? "rank 1 of it starts all_reduce number 2 of 6 float32"
                                         : "rank 1 of it starts all_reduce number 2 of 5 int32";
        EXPECT_ERROR(t, fm_comm_run(part, t->ctx, &w), FM_ERR_COMM,
                     "rank 0 of world starts all_reduce number 2 of 5 float32", theirs);
        fm_error_clear(&t->ctx->error);
        fm_comm_free(part);
    }
}

/* A rank that comes late: the others stop waiting and say for what; then it comes. */
static void time_limit(test *t) {
    fm_comm *c = ranks_world(), *part;
    fm_request r;
    if (c->size == 1) return;
    EXPECT_OK(t, fm_comm_split(c, t->ctx, 0, 0, &part));
    fm_collective w = {.kind = FM_BARRIER};
    part->time_limit = 0.1;
    if (part->rank != 0) {
        EXPECT_OK(t, fm_comm_start(part, t->ctx, &w, &r));
        EXPECT_ERROR(t, fm_comm_wait(&r, t->ctx), FM_ERR_COMM, "barrier number 1", "time limit");
        fm_error_clear(&t->ctx->error);
    }
    EXPECT_OK(t, fm_barrier_now(c, t->ctx));
    part->time_limit = 0;
    if (part->rank == 0) EXPECT_OK(t, fm_comm_start(part, t->ctx, &w, &r));
    EXPECT_OK(t, fm_comm_wait(&r, t->ctx));
    fm_comm_free(part);
}

static const test_case cases[] = {
    {"all_reduce", reduces},
    {"all_gather", gathers},
    {"reduce_scatter", scatters},
    {"all_to_all_v", exchanges},
    {"broadcast", broadcasts},
    {"send_recv", sends},
    {"pairs_do_not_count", pairs_do_not_count},
    {"several_under_way", several_under_way},
    {"same_bits", same_bits},
    {"split", splits},
    {"throttled", throttled},
    {"errors", errors},
    {"mismatches", mismatches},
    {"time_limit", time_limit},
};
RANKS_PROGRAM(cases)
