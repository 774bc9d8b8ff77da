#include "parallel/sequence.h"

#include "tensor/ops/check.h"

/* A collective lays one rank's part behind the other's; with one sequence that is the order of positions,
 * with more of them each part's sequences are moved to their places. */
static fm_status rearrange(fm_ctx *ctx, fm_tensor *whole, fm_tensor *ranks, bool to_whole) {
    int64_t tp = ranks->shape[0], B = ranks->shape[1];
    size_t width = (size_t)(ranks->shape[2] * ranks->shape[3]) * fm_dtype_size(ranks->dtype);
    for (int64_t r = 0; r < tp; r++) {
        char *part = (char *)ranks->data + (size_t)(r * B) * width;
        char *place = (char *)whole->data + (size_t)r * width;
        size_t stride = (size_t)tp * width;
        FM_TRY(to_whole ? FM_KERNEL(ctx, copy_2d, place, stride, part, width, width, B)
                        : FM_KERNEL(ctx, copy_2d, part, width, place, stride, width, B));
    }
    return FM_OK;
}

void fm_sequence_drop(fm_ctx *ctx, fm_sequence_move *m) {
    if (m->request.state) (void)fm_comm_wait(&m->request, ctx);
    fm_tensor_free(m->ranks);
    fm_tensor_free(m->own);
    *m = (fm_sequence_move){0};
}

static fm_status begin(fm_ctx *ctx, fm_comm *tp, fm_collective_kind kind, const fm_tensor *x,
                       void *y, int64_t n, fm_sequence_move *m) {
    fm_collective what = {.kind = kind, .dt = x->dtype, .op = FM_SUM, .y = y, .x = x->data, .n = n};
    return fm_comm_start(tp, ctx, &what, &m->request);
}

fm_status fm_sequence_gather_start(fm_ctx *ctx, fm_comm *tp, fm_tensor *x, fm_sequence_move *m) {
    *m = (fm_sequence_move){0};
    FM_TRY(FM_NEW(ctx, &m->ranks, x->dtype, tp->size, x->shape[0], x->shape[1], x->shape[2]));
    m->own = fm_tensor_retain(x);
    return begin(ctx, tp, FM_ALL_GATHER, x, m->ranks->data, fm_numel(x), m);
}

fm_status fm_sequence_gather_end(fm_ctx *ctx, fm_sequence_move *m, fm_tensor **y) {
    const int64_t *n = m->ranks->shape, shape[] = {n[1], n[0] * n[2], n[3]};
    fm_tensor *made = NULL;
    fm_status status;
    *y = NULL;
    FM_TRY_GOTO(fm_comm_wait(&m->request, ctx));
    if (n[1] == 1) {
        FM_TRY_GOTO(fm_tensor_view(ctx, &made, m->ranks, 3, shape));
    } else {
        FM_TRY_GOTO(fm_tensor_new(ctx, &made, m->ranks->dtype, 3, shape));
        FM_TRY_GOTO(rearrange(ctx, made, m->ranks, true));
    }
out:
    fm_sequence_drop(ctx, m);
    return fm_op_end(status, y, made);
}

fm_status fm_sequence_sum_start(fm_ctx *ctx, fm_comm *tp, fm_tensor *x, fm_sequence_move *m) {
    int64_t B = x->shape[0], s = x->shape[1] / tp->size, d = x->shape[2];
    int64_t shape[] = {tp->size, B, s, d};
    *m = (fm_sequence_move){0};
    if (B == 1) {
        FM_TRY(fm_tensor_view(ctx, &m->ranks, x, 4, shape));
    } else {
        FM_TRY(fm_tensor_new(ctx, &m->ranks, x->dtype, 4, shape));
        FM_TRY(rearrange(ctx, x, m->ranks, false));
    }
    FM_TRY(fm_tensor_new(ctx, &m->own, x->dtype, 3, shape + 1));
    return begin(ctx, tp, FM_REDUCE_SCATTER, m->ranks, m->own->data, fm_numel(m->own), m);
}

fm_status fm_sequence_sum_end(fm_ctx *ctx, fm_sequence_move *m, fm_tensor **y) {
    fm_status status = fm_comm_wait(&m->request, ctx);
    *y = status == FM_OK ? fm_tensor_retain(m->own) : NULL;
    fm_sequence_drop(ctx, m);
    return status;
}

/* ---- on the tape */

typedef fm_status (*start_fn)(fm_ctx *ctx, fm_comm *tp, fm_tensor *x, fm_sequence_move *m);
typedef fm_status (*end_fn)(fm_ctx *ctx, fm_sequence_move *m, fm_tensor **y);

static fm_status move(fm_ctx *ctx, fm_comm *tp, fm_tensor *x, start_fn start, end_fn end,
                      fm_tensor **y) {
    fm_sequence_move m;
    fm_status status = start(ctx, tp, x, &m);
    if (status == FM_OK) return end(ctx, &m, y);
    fm_sequence_drop(ctx, &m);
    *y = NULL;
    return status;
}

static fm_status pass_moved(fm_ctx *ctx, fm_node *node, start_fn start, end_fn end) {
    fm_tensor *dy = node->dout[0], *dx;
    if (!dy) return FM_OK;
    FM_TRY(move(ctx, *(fm_comm **)node->attrs, dy, start, end, &dx));
    fm_status status = fm_grad_pass(ctx, node->inputs[0], dx);
    fm_tensor_free(dx);
    return status;
}

static fm_status gather_backward(fm_ctx *ctx, fm_node *node) {
    return pass_moved(ctx, node, fm_sequence_sum_start, fm_sequence_sum_end);
}

static fm_status scatter_sum_backward(fm_ctx *ctx, fm_node *node) {
    return pass_moved(ctx, node, fm_sequence_gather_start, fm_sequence_gather_end);
}

static fm_status record(fm_ctx *ctx, const char *name, fm_backward_fn backward, fm_comm *tp,
                        fm_tensor *x, fm_tensor *y) {
    return fm_tape_record(ctx, &(fm_record){.name = name,
                                            .grads_only = true,
                                            .backward = backward,
                                            .inputs = {x},
                                            .n_inputs = 1,
                                            .outputs = {y},
                                            .n_outputs = 1,
                                            .attrs = &tp,
                                            .attrs_size = sizeof tp});
}

fm_status fm_gather_sequence(fm_ctx *ctx, fm_comm *tp, fm_tensor **y, fm_tensor *x) {
    *y = NULL;
    FM_TRY(fm_check_float(ctx, "gather_sequence", "x", x));
    FM_TRY(fm_check_ndim(ctx, "gather_sequence", "x", x, 3, 3));
    if (tp->size == 1) {
        *y = fm_tensor_retain(x);
        return FM_OK;
    }
    fm_tensor *made;
    FM_TRY(move(ctx, tp, x, fm_sequence_gather_start, fm_sequence_gather_end, &made));
    return fm_op_end(record(ctx, "gather_sequence", gather_backward, tp, x, made), y, made);
}

fm_status fm_scatter_sum_sequence(fm_ctx *ctx, fm_comm *tp, fm_tensor **y, fm_tensor *x) {
    *y = NULL;
    FM_TRY(fm_check_float(ctx, "scatter_sum_sequence", "x", x));
    FM_TRY(fm_check_ndim(ctx, "scatter_sum_sequence", "x", x, 3, 3));
    FM_CHECK(x->shape[1] % tp->size == 0, FM_ERR_SHAPE,
             "scatter_sum_sequence: x is %s; its second dimension must be a multiple of the %d "
             "tensor-parallel ranks",
             FM_TEXT(x), tp->size);
    if (tp->size == 1) {
        *y = fm_tensor_retain(x);
        return FM_OK;
    }
    fm_tensor *made;
    FM_TRY(move(ctx, tp, x, fm_sequence_sum_start, fm_sequence_sum_end, &made));
    return fm_op_end(record(ctx, "scatter_sum_sequence", scatter_sum_backward, tp, x, made), y,
                     made);
}
