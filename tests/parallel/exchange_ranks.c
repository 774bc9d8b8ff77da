/* Rows to other ranks and back: values, gradients, copies, and what fails. Numbers are small integers, so
 * that sums are exact in float32 and in bfloat16. */
#include "parallel/row_exchange.h"

#include "tensor/ops.h"
#include "tests/parallel/ranks.h"

#include <string.h>

enum { MAX_RANKS = 4, D = 5, HOME = 2, MAX_ROWS = 64 };

static int me(void) { return ranks_world()->rank; }
static int size(void) { return ranks_world()->size; }

/* Rows that rank `from` has for a group: uneven; 0: none at all; 1: all ranks' rows go to group 0. */
static int64_t rows_for(int pattern, int from, int group) {
    if (pattern == 0) return 0;
    if (pattern == 1) return group == 0 ? 3 + from : 0;
    return (from * 3 + group * 5 + pattern) % 4;
}

/* A number from 0 to 15 of what is sent (kind), by whom, which row of his, which column. */
static float value(int kind, int rank, int64_t row, int64_t col) {
    uint64_t key = (uint64_t)(((kind * 31 + rank) * 257 + row) * 13 + col);
    return (float)(fm_mix64(key) & 15);
}

static fm_status make(fm_ctx *ctx, fm_dtype dt, int kind, int64_t rows, fm_tensor **out) {
    fm_tensor *wide;
    float host[MAX_ROWS * D];
    for (int64_t i = 0; i < rows; i++)
        for (int64_t c = 0; c < D; c++) host[i * D + c] = value(kind, me(), i, c);
    FM_TRY(fm_tensor_from_host(ctx, &wide, FM_F32, 2, (int64_t[]){rows, D}, host));
    fm_status s = fm_cast(ctx, out, wide, dt);
    fm_tensor_free(wide);
    return s;
}

/* Fills `host` [rows, D] with t's numbers. */
static fm_status read(fm_ctx *ctx, fm_tensor *t, float *host) {
    fm_tensor *plain, *wide;
    FM_TRY(fm_tensor_detach(ctx, &plain, t));
    fm_status s = fm_cast(ctx, &wide, plain, FM_F32);
    fm_tensor_free(plain);
    FM_TRY(s);
    s = fm_tensor_to_host(ctx, wide, host, fm_nbytes(wide));
    fm_tensor_free(wide);
    return s;
}

static fm_status plan_of(fm_ctx *ctx, int pattern, int copies, fm_row_plan **p) {
    int64_t send[MAX_RANKS], received[MAX_RANKS];
    for (int g = 0; g < size() / copies; g++) send[g] = rows_for(pattern, me(), g);
    for (int r = 0; r < size(); r++) received[r] = rows_for(pattern, r, me() / copies);
    return fm_row_plan_new(ctx, ranks_world(), copies, send, received, p);
}

/* The first of rank `from`'s rows for `group`, and the first of rank `to`'s rows that came from `from`. */
static int64_t first_sent(int pattern, int from, int group) {
    int64_t n = 0;
    for (int g = 0; g < group; g++) n += rows_for(pattern, from, g);
    return n;
}
static int64_t first_received(int pattern, int copies, int to, int from) {
    int64_t n = 0;
    for (int r = 0; r < from; r++) n += rows_for(pattern, r, to / copies);
    return n;
}

/* What arrives at this rank: rows of `kind` of each rank, in the order of the ranks. */
static void check_arrived(test *t, const float *got, int kind, int pattern, int copies) {
    int64_t at = 0;
    for (int r = 0; r < size(); r++) {
        int64_t first = first_sent(pattern, r, me() / copies);
        for (int64_t i = 0; i < rows_for(pattern, r, me() / copies); i++, at++)
            for (int64_t c = 0; c < D; c++)
                EXPECT(t, got[at * D + c] == value(kind, r, first + i, c),
                       "pattern %d, copies %d: row %d from rank %d is %g", pattern, copies, (int)i,
                       r, (double)got[at * D + c]);
    }
}

/* What comes home: the sum over the group's ranks of what each made of the row. */
static void check_home(test *t, const float *got, int kind, int pattern, int copies) {
    int64_t at = 0;
    for (int g = 0; g < size() / copies; g++)
        for (int64_t i = 0; i < rows_for(pattern, me(), g); i++, at++)
            for (int64_t c = 0; c < D; c++) {
                float want = 0;
                for (int to = g * copies; to < (g + 1) * copies; to++)
                    want += value(kind, to, first_received(pattern, copies, to, me()) + i, c);
                EXPECT(t, got[at * D + c] == want, "pattern %d, copies %d: row %d is %g, not %g",
                       pattern, copies, (int)at, (double)got[at * D + c], (double)want);
            }
    for (int64_t i = at * D; i < (at + HOME) * D; i++)
        EXPECT(t, got[i] == 0, "pattern %d, copies %d: a row that stayed is %g", pattern, copies,
               (double)got[i]);
}

/* Forward and backward of one direction: kinds 0 (what is sent) and 1 (the gradient). */
static void one_way(test *t, fm_dtype dt, int pattern, int copies, bool home) {
    fm_row_plan *p;
    fm_tensor *x, *y, *dy;
    float got[MAX_ROWS * D];
    EXPECT_OK(t, plan_of(t->ctx, pattern, copies, &p));
    int64_t away = p->arriving, here = p->leaving + HOME;
    EXPECT(t, away <= MAX_ROWS && here <= MAX_ROWS, "%d and %d rows", (int)away, (int)here);
    EXPECT_OK(t, make(t->ctx, dt, 0, home ? away : here, &x));
    EXPECT_OK(t, make(t->ctx, dt, 1, home ? here : away, &dy));
    x->requires_grad = true;
    EXPECT_OK(t, home ? fm_row_collect(t->ctx, &y, x, p, here) : fm_row_dispatch(t->ctx, &y, x, p));
    fm_row_plan_free(p); /* the tape has its own reference */
    EXPECT_OK(t, read(t->ctx, y, got));
    if (home)
        check_home(t, got, 0, pattern, copies);
    else
        check_arrived(t, got, 0, pattern, copies);
    EXPECT_OK(t, fm_backward(t->ctx, y, dy));
    EXPECT_OK(t, read(t->ctx, x->grad, got));
    if (home)
        check_arrived(t, got, 1, pattern, copies);
    else
        check_home(t, got, 1, pattern, copies);
    fm_tensor_free(x);
    fm_tensor_free(y);
    fm_tensor_free(dy);
}

static void all_ways(test *t, fm_dtype dt) {
    for (int copies = 1; copies <= size(); copies++) {
        if (size() % copies != 0) continue;
        for (int pattern = 0; pattern < 5; pattern++)
            for (int home = 0; home < 2; home++) one_way(t, dt, pattern, copies, home);
    }
}
static void rows_f32(test *t) { all_ways(t, FM_F32); }
static void rows_bf16(test *t) { all_ways(t, FM_BF16); }

/* Two in the air at once, and computation between; one that is dropped disturbs nobody. */
static void in_flight(test *t) {
    fm_row_plan *p;
    fm_row_flight a, b, c;
    fm_tensor *x, *z, *y, *home, *sum;
    float got[MAX_ROWS * D];
    EXPECT_OK(t, plan_of(t->ctx, 3, 1, &p));
    EXPECT_OK(t, make(t->ctx, FM_F32, 0, p->leaving + HOME, &x));
    EXPECT_OK(t, make(t->ctx, FM_F32, 1, p->arriving, &z));
    EXPECT_OK(t, fm_row_dispatch_start(t->ctx, &a, x, p));
    EXPECT_OK(t, fm_row_dispatch_start(t->ctx, &c, x, p));
    EXPECT_OK(t, fm_row_collect_start(t->ctx, &b, z, p, p->leaving + HOME));
    EXPECT_OK(t, fm_add(t->ctx, &sum, x, x));
    fm_row_flight_drop(t->ctx, &c);
    fm_row_flight_drop(t->ctx, &c);
    EXPECT_OK(t, fm_row_flight_land(t->ctx, &b, &home));
    EXPECT_OK(t, fm_row_flight_land(t->ctx, &a, &y));
    EXPECT_OK(t, read(t->ctx, y, got));
    check_arrived(t, got, 0, 3, 1);
    EXPECT_OK(t, read(t->ctx, home, got));
    check_home(t, got, 1, 3, 1);
    fm_tensor *gone[] = {x, z, y, home, sum};
    for (int i = 0; i < 5; i++) fm_tensor_free(gone[i]);
    fm_row_plan_free(p);
}

/* What was computed while rows travelled is differentiated while the gradients do: they have started, and are not
 * yet there. */
typedef struct probe {
    const fm_tensor *x;
    int64_t started; /* exchanges before backward */
    bool under_way, arrived;
} probe;
static fm_status probe_backward(fm_ctx *ctx, fm_node *node) {
    (void)ctx;
    probe *p = *(probe **)node->attrs;
    p->under_way = ranks_world()->stats[FM_ALL_TO_ALL_V].calls == p->started + 1;
    p->arrived = p->x->grad_is_set;
    return FM_OK;
}

static void backward_in_flight(test *t) {
    fm_row_plan *p;
    fm_row_flight f;
    fm_tensor *x, *y, *dy, *v, *w, *dw;
    float got[MAX_ROWS * D];
    probe seen = {0}, *saw = &seen;
    EXPECT_OK(t, plan_of(t->ctx, 3, size(), &p));
    EXPECT_OK(t, make(t->ctx, FM_F32, 0, p->leaving + HOME, &x));
    EXPECT_OK(t, make(t->ctx, FM_F32, 1, p->arriving, &dy));
    EXPECT_OK(t, make(t->ctx, FM_F32, 2, 1, &v));
    EXPECT_OK(t, make(t->ctx, FM_F32, 2, 1, &w));
    EXPECT_OK(t, make(t->ctx, FM_F32, 2, 1, &dw));
    x->requires_grad = v->requires_grad = true;
    seen.x = x;
    EXPECT_OK(t, fm_row_dispatch_start(t->ctx, &f, x, p));
    EXPECT_OK(t, fm_tape_record(t->ctx, &(fm_record){.name = "probe",
                                                     .backward = probe_backward,
                                                     .inputs = {v},
                                                     .n_inputs = 1,
                                                     .outputs = {w},
                                                     .n_outputs = 1,
                                                     .attrs = &saw,
                                                     .attrs_size = sizeof saw}));
    EXPECT_OK(t, fm_row_flight_land(t->ctx, &f, &y));
    seen.started = ranks_world()->stats[FM_ALL_TO_ALL_V].calls;
    fm_tensor *roots[] = {y, w}, *grads[] = {dy, dw};
    EXPECT_OK(t, fm_backward_many(t->ctx, roots, grads, 2));
    EXPECT(t, seen.under_way && !seen.arrived, "started: %d, arrived: %d", seen.under_way,
           seen.arrived);
    EXPECT_OK(t, read(t->ctx, x->grad, got));
    check_home(t, got, 1, 3, size());
    fm_tensor *gone[] = {x, y, dy, v, w, dw};
    for (int i = 0; i < 6; i++) fm_tensor_free(gone[i]);
    fm_row_plan_free(p);
}

/* The bytes that the header promises. */
static void bytes(test *t) {
    for (int copies = 1; copies <= size(); copies++) {
        if (size() % copies != 0) continue;
        fm_row_plan *p;
        fm_tensor *x, *y, *back;
        EXPECT_OK(t, plan_of(t->ctx, 2, copies, &p));
        EXPECT_OK(t, make(t->ctx, FM_F32, 0, p->leaving, &x));
        const fm_comm_stats *s = &ranks_world()->stats[FM_ALL_TO_ALL_V];
        int64_t before = s->bytes, out = 0, in = 0;
        EXPECT_OK(t, fm_row_dispatch(t->ctx, &y, x, p));
        for (int r = 0; r < size(); r++)
            if (r != me()) out += p->send[r / copies], in += p->received[r];
        EXPECT(t, s->bytes - before == out * D * 4, "dispatch: %d bytes", (int)(s->bytes - before));
        before = s->bytes;
        EXPECT_OK(t, fm_row_collect(t->ctx, &back, y, p, p->leaving));
        EXPECT(t, s->bytes - before == in * D * 4, "collect: %d bytes", (int)(s->bytes - before));
        fm_tensor_free(x);
        fm_tensor_free(y);
        fm_tensor_free(back);
        fm_row_plan_free(p);
    }
}

static void wrong_arguments(test *t) {
    fm_row_plan *p, *none;
    fm_tensor *x, *ids, *y;
    int64_t counts[MAX_RANKS] = {0};
    EXPECT_ERROR(t, fm_row_plan_new(t->ctx, ranks_world(), size() + 1, counts, counts, &none),
                 FM_ERR_VALUE, "copies is", "divide");
    EXPECT_OK(t, plan_of(t->ctx, 1, 1, &p));
    EXPECT_OK(t, make(t->ctx, FM_F32, 0, p->leaving - 1, &x));
    EXPECT_ERROR(t, fm_row_dispatch(t->ctx, &y, x, p), FM_ERR_SHAPE, "row_dispatch: x is",
                 "at least");
    fm_tensor_free(x);
    EXPECT_OK(t, make(t->ctx, FM_F32, 0, p->arriving + 1, &x));
    EXPECT_ERROR(t, fm_row_collect(t->ctx, &y, x, p, p->leaving), FM_ERR_SHAPE, "row_collect: x is",
                 "n = ");
    fm_tensor_free(x);
    EXPECT_OK(t, make(t->ctx, FM_F32, 0, p->arriving, &x));
    EXPECT_ERROR(t, fm_row_collect(t->ctx, &y, x, p, p->leaving - 1), FM_ERR_VALUE, "rows is");
    EXPECT_OK(t, FM_NEW(t->ctx, &ids, FM_I32, p->leaving, D));
    EXPECT_ERROR(t, fm_row_dispatch(t->ctx, &y, ids, p), FM_ERR_DTYPE, "int32");
    EXPECT(t, !y, "an output after an error");
    fm_tensor_free(x);
    fm_tensor_free(ids);
    fm_row_plan_free(p);
}

/* The n-th allocation fails, on all ranks alike. */
static void out_of_memory(test *t) {
    for (int copies = 1; copies <= size(); copies += size() > 1 ? size() - 1 : 1) {
        int64_t tensors = t->ctx->live_tensors;
        fm_row_plan *p;
        fm_tensor *x, *there, *back, *dy;
        EXPECT_OK(t, plan_of(t->ctx, 1, copies, &p));
        EXPECT_OK(t, make(t->ctx, FM_F32, 0, p->leaving + HOME, &x));
        EXPECT_OK(t, make(t->ctx, FM_F32, 1, p->leaving + HOME, &dy));
        x->requires_grad = true;
        int failed = 0;
        for (fm_status s = FM_ERR_OOM; s != FM_OK; failed++) {
            there = back = NULL;
            EXPECT(t, failed < 50, "never succeeds");
            fm_alloc_fail_at(t->ctx->alloc, failed);
            s = fm_row_dispatch(t->ctx, &there, x, p);
            if (s == FM_OK) s = fm_row_collect(t->ctx, &back, there, p, p->leaving + HOME);
            if (s == FM_OK) s = fm_backward(t->ctx, back, dy);
            fm_alloc_fail_at(t->ctx->alloc, -1);
            fm_tensor_free(there);
            fm_tensor_free(back);
            EXPECT(t, s == FM_OK || s == FM_ERR_OOM, "call %d: %s", failed, fm_status_name(s));
            fm_error_clear(&t->ctx->error);
        }
        EXPECT(t, failed > 4, "only %d allocations", failed);
        fm_tensor_free(x);
        fm_tensor_free(dy);
        fm_row_plan_free(p);
        EXPECT(t, t->ctx->live_tensors == tensors, "tensors are left");
    }
}

static const test_case cases[] = {{"rows_f32", rows_f32},
                                  {"rows_bf16", rows_bf16},
                                  {"in_flight", in_flight},
                                  {"backward_in_flight", backward_in_flight},
                                  {"bytes", bytes},
                                  {"wrong_arguments", wrong_arguments},
                                  {"out_of_memory", out_of_memory}};
RANKS_PROGRAM(cases)
