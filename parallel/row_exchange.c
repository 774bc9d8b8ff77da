#include "parallel/row_exchange.h"

#include "tensor/ctx.h"

#include <stdlib.h>
#include <string.h>

/* ---- plans */

fm_status fm_row_plan_new(fm_ctx *ctx, fm_comm *comm, int copies, const int64_t *send,
                          const int64_t *received, fm_row_plan **out) {
    *out = NULL;
    FM_CHECK(copies >= 1 && comm->size % copies == 0, FM_ERR_VALUE,
             "row_exchange: copies is %d; it must divide the %d ranks", copies, comm->size);
    int groups = comm->size / copies;
    fm_row_plan *p = calloc(1, sizeof *p);
    int64_t *numbers = malloc((size_t)(groups + comm->size) * sizeof *numbers);
    if (!p || !numbers) {
        free(p);
        free(numbers);
        return fm_fail(&ctx->error, FM_ERR_OOM, "out of memory: an exchange of %d ranks",
                       comm->size);
    }
    *p = (fm_row_plan){.refs = 1, .comm = comm, .copies = copies, .send = numbers};
    p->received = numbers + groups;
    memcpy(p->send, send, (size_t)groups * sizeof *send);
    memcpy(p->received, received, (size_t)comm->size * sizeof *received);
    for (int g = 0; g < groups; g++) p->leaving += send[g];
    for (int r = 0; r < comm->size; r++) p->arriving += received[r];
    *out = p;
    return FM_OK;
}

void fm_row_plan_free(fm_row_plan *p) {
    if (!p || --p->refs > 0) return;
    free(p->send);
    free(p);
}

/* Elements and their places, per rank: counts and displacements of the rows that go out to the groups
 * (to[0], to[1]) and of those that come in from the ranks (to[2], to[3]); each has `size` numbers.
 * apart: every copy has a place of its own. */
static void lay_out(const fm_row_plan *p, int64_t width, bool apart, int64_t *to) {
    int size = p->comm->size;
    int64_t out_at = 0, in_at = 0;
    for (int r = 0; r < size; r++) {
        int group = r / p->copies, copy = r % p->copies;
        to[r] = p->send[group] * width;
        to[size + r] = (out_at + (apart ? copy * p->leaving : 0)) * width;
        if (copy == p->copies - 1) out_at += p->send[group];
        to[2 * size + r] = p->received[r] * width;
        to[3 * size + r] = in_at * width;
        in_at += p->received[r];
    }
}

/* ---- flights */

static void release_trip(void *attrs);

void fm_row_flight_drop(fm_ctx *ctx, fm_row_flight *f) {
    release_trip(f->trip);
    fm_tensor_free(f->aloft);
    f->trip = NULL;
    f->aloft = NULL;
    if (f->under_way && fm_comm_wait(&f->request, ctx) != FM_OK) {
        /* Messages may still be written there: better a leak. */
        *f = (fm_row_flight){0};
        return;
    }
    fm_tensor_free(f->x);
    fm_tensor_free(f->landing);
    fm_row_plan_free(f->plan);
    free(f->parts);
    *f = (fm_row_flight){0};
}

static fm_status take_off(fm_ctx *ctx, fm_row_flight *f, fm_tensor *x, fm_row_plan *p, bool home,
                          int64_t rows) {
    static const char *const names[] = {"row_dispatch", "row_collect"};
    char text[96];
    int size = p->comm->size;
    fm_status status = FM_OK;
    *f = (fm_row_flight){.plan = p, .home = home, .rows = rows};
    p->refs++;
    FM_CHECK_GOTO(fm_dtype_is_float(x->dtype), FM_ERR_DTYPE,
                  "%s: x is %s; float32 and bfloat16 are allowed", names[home],
                  fm_tensor_describe(x, text, sizeof text));
    int64_t here = x->ndim == 2 ? x->shape[0] : -1;
    FM_CHECK_GOTO(home ? here == p->arriving : here >= p->leaving, FM_ERR_SHAPE,
                  "%s: x is %s; [n, d] is wanted, n %s %lld", names[home],
                  fm_tensor_describe(x, text, sizeof text), home ? "=" : "at least",
                  (long long)(home ? p->arriving : p->leaving));
    FM_CHECK_GOTO(!home || rows >= p->leaving, FM_ERR_VALUE,
                  "row_collect: rows is %lld; %lld of them were sent", (long long)rows,
                  (long long)p->leaving);
    FM_CHECK_GOTO(p->copies * p->leaving <= INT32_MAX, FM_ERR_SHAPE,
                  "%s: %lld rows in %d copies; rows are counted in int32", names[home],
                  (long long)p->leaving, p->copies);
    int64_t d = x->shape[1];
    f->x = fm_tensor_retain(x);
    f->parts = malloc((size_t)size * 4 * sizeof *f->parts);
    FM_CHECK_GOTO(f->parts, FM_ERR_OOM, "out of memory: an exchange of %d ranks", size);
    lay_out(p, d, home && p->copies > 1, f->parts);
    int64_t landing = !home ? p->arriving : p->copies > 1 ? p->copies * p->leaving : rows;
    FM_TRY_GOTO(FM_NEW(ctx, &f->landing, x->dtype, landing, d));
    int64_t *out = f->parts, *in = f->parts + 2 * size;
    const int64_t *from = home ? in : out, *to = home ? out : in;
    fm_collective what = {.kind = FM_ALL_TO_ALL_V,
                          .dt = x->dtype,
                          .y = f->landing->data,
                          .x = x->data,
                          .recv_counts = to,
                          .recv_displs = to + size,
                          .send_counts = from,
                          .send_displs = from + size};
    status = fm_comm_start(p->comm, ctx, &what, &f->request);
    f->under_way = status == FM_OK;
out:
    if (status != FM_OK) fm_row_flight_drop(ctx, f);
    return status;
}

/* y[i] = Σ over copies of landing[copy, i], and zeros behind the last row that had left. */
static fm_status sum_copies(fm_ctx *ctx, const fm_row_flight *f, fm_tensor **y) {
    const fm_row_plan *p = f->plan;
    int64_t n = f->rows, k = p->copies, d = f->landing->shape[1];
    fm_tensor *slot = NULL;
    int32_t *host = malloc((size_t)(n * k) * sizeof *host + 1);
    fm_status status = FM_OK;
    FM_CHECK_GOTO(host, FM_ERR_OOM, "out of memory: the sums of %lld rows", (long long)n);
    for (int64_t i = 0; i < n; i++)
        for (int64_t c = 0; c < k; c++)
            host[i * k + c] = i < p->leaving ? (int32_t)(c * p->leaving + i) : -1;
    FM_TRY_GOTO(fm_tensor_from_host(ctx, &slot, FM_I32, 2, (int64_t[]){n, k}, host));
    FM_TRY_GOTO(FM_NEW(ctx, y, f->landing->dtype, n, d));
    status = FM_KERNEL(ctx, moe_combine, f->landing->dtype, (*y)->data, f->landing->data, NULL,
                       slot->data, n, k, d, false);
    if (status != FM_OK) fm_tensor_free(*y), *y = NULL;
out:
    free(host);
    fm_tensor_free(slot);
    return status;
}

/* Waits; *y is what arrived, not yet on the tape. */
static fm_status arrive(fm_ctx *ctx, fm_row_flight *f, fm_tensor **y) {
    const fm_row_plan *p = f->plan;
    *y = NULL;
    FM_TRY(fm_comm_wait(&f->request, ctx));
    f->under_way = false;
    if (f->home && p->copies > 1) return sum_copies(ctx, f, y);
    int64_t d = f->landing->shape[1], rest = f->home ? f->rows - p->leaving : 0;
    size_t size = fm_dtype_size(f->landing->dtype) * (size_t)d;
    char *behind = (char *)f->landing->data + (size_t)p->leaving * size;
    if (rest > 0) FM_TRY(FM_KERNEL(ctx, zero, behind, (size_t)rest * size));
    *y = fm_tensor_retain(f->landing);
    return FM_OK;
}

/* ---- on the tape: two nodes, as a flight has two halves
 *
 *   x -> take-off -> aloft -> landing -> y
 *
 * Backward comes to the landing first: the gradients start on their way home there, and what comes before the
 * take-off in forward's order is waited for at the take-off. */

typedef struct fm_row_trip {
    int refs; /* of the forward flight and of the nodes */
    fm_ctx *ctx;
    fm_row_plan *plan;
    bool home;
    int64_t rows; /* of x */
    fm_row_flight back;
} trip;

static void release_trip(void *attrs) {
    trip *t = attrs;
    if (!t || --t->refs > 0) return;
    fm_row_flight_drop(t->ctx, &t->back);
    fm_row_plan_free(t->plan);
    free(t);
}

/* A node's attributes are a copy of the pointer. */
static void free_attrs(void *attrs) {
    if (attrs) release_trip(*(trip **)attrs);
    free(attrs);
}

static fm_status landing_backward(fm_ctx *ctx, fm_node *node) {
    trip *t = *(trip **)node->attrs;
    if (!node->dout[0]) return FM_OK;
    FM_TRY(take_off(ctx, &t->back, node->dout[0], t->plan, !t->home, t->rows));
    return fm_grad_pass(ctx, node->inputs[0], t->back.landing);
}

static fm_status take_off_backward(fm_ctx *ctx, fm_node *node) {
    trip *t = *(trip **)node->attrs;
    fm_tensor *dx = NULL;
    if (!node->dout[0]) return FM_OK;
    fm_status s = arrive(ctx, &t->back, &dx);
    if (s == FM_OK) s = fm_grad_pass(ctx, node->inputs[0], dx);
    fm_tensor_free(dx);
    fm_row_flight_drop(ctx, &t->back);
    return s;
}

static fm_status record(fm_ctx *ctx, trip *t, bool landing, fm_tensor *x, fm_tensor *y) {
    static const char *const names[] = {"row_dispatch", "row_dispatch_end", "row_collect",
                                        "row_collect_end"};
    if (!fm_needs_grad(ctx, x)) return FM_OK;
    t->refs++; /* the node's */
    fm_status s = fm_tape_record(
        ctx, &(fm_record){.name = names[2 * t->home + landing],
                          .grads_only = true,
                          .backward = landing ? landing_backward : take_off_backward,
                          .inputs = {x},
                          .n_inputs = 1,
                          .outputs = {y},
                          .n_outputs = 1,
                          .attrs = &t,
                          .attrs_size = sizeof(trip *),
                          .free_attrs = free_attrs});
    if (s != FM_OK) t->refs--;
    return s;
}

/* Takes off, and begins the trip on the tape. */
static fm_status depart(fm_ctx *ctx, fm_row_flight *f, fm_tensor *x, fm_row_plan *p, bool home,
                        int64_t rows) {
    FM_TRY(take_off(ctx, f, x, p, home, rows));
    if (!fm_needs_grad(ctx, x)) return FM_OK;
    fm_status status = FM_OK;
    /* What lands on the way back: see take_off. */
    int64_t landing = home ? p->arriving : p->copies > 1 ? p->copies * p->leaving : x->shape[0];
    f->trip = calloc(1, sizeof *f->trip);
    FM_CHECK_GOTO(f->trip, FM_ERR_OOM, "out of memory: an exchange on the tape");
    *f->trip = (trip){.refs = 1, .ctx = ctx, .plan = p, .home = home, .rows = x->shape[0]};
    p->refs++;
    FM_TRY_GOTO(fm_tensor_wrap(ctx, &f->aloft, x->dtype, 2, (int64_t[]){landing, x->shape[1]}, NULL,
                               NULL, NULL));
    FM_TRY_GOTO(record(ctx, f->trip, false, x, f->aloft));
out:
    if (status != FM_OK) fm_row_flight_drop(ctx, f);
    return status;
}

fm_status fm_row_flight_land(fm_ctx *ctx, fm_row_flight *f, fm_tensor **y) {
    fm_status status = arrive(ctx, f, y);
    if (status == FM_OK && f->trip) status = record(ctx, f->trip, true, f->aloft, *y);
    if (status != FM_OK) {
        fm_tensor_free(*y);
        *y = NULL;
    }
    fm_row_flight_drop(ctx, f);
    return status;
}

fm_status fm_row_dispatch_start(fm_ctx *ctx, fm_row_flight *f, fm_tensor *x, fm_row_plan *p) {
    return depart(ctx, f, x, p, false, p->arriving);
}

fm_status fm_row_collect_start(fm_ctx *ctx, fm_row_flight *f, fm_tensor *z, fm_row_plan *p,
                               int64_t rows) {
    return depart(ctx, f, z, p, true, rows);
}

fm_status fm_row_dispatch(fm_ctx *ctx, fm_tensor **y, fm_tensor *x, fm_row_plan *p) {
    fm_row_flight f;
    *y = NULL;
    FM_TRY(fm_row_dispatch_start(ctx, &f, x, p));
    return fm_row_flight_land(ctx, &f, y);
}

fm_status fm_row_collect(fm_ctx *ctx, fm_tensor **y, fm_tensor *z, fm_row_plan *p, int64_t rows) {
    fm_row_flight f;
    *y = NULL;
    FM_TRY(fm_row_collect_start(ctx, &f, z, p, rows));
    return fm_row_flight_land(ctx, &f, y);
}
