/* Classes in parts, each computed for itself: together they are the softmax and the loss of all. */
#include "tensor/ops.h"
#include "tests/tensor/reference.h"
#include "tests/tensor/runner.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { T = 13, V = 29, MAX_PARTS = 5 };

static void fill(float *x, int64_t n, double scale) {
    for (int64_t i = 0; i < n; i++)
        x[i] = (float)(scale * (fm_rng_uniform((uint32_t)(fm_mix64((uint64_t)i + 7) >> 32)) - 0.5));
}

static void targets_of(int32_t *target) {
    for (int t = 0; t < T; t++) target[t] = t % 5 == 3 ? -1 : (int32_t)(t * 7 % V);
}

/* Columns [first, first + n) of the logits, and what one part makes of them. */
typedef struct part {
    int64_t first, n;
    fm_tensor *logits, *ids;
} part;

static fm_status part_forward(fm_ctx *ctx, part *p, const float *all, const fm_tensor *target,
                              float *own) {
    float *slice = malloc((size_t)(T * p->n) * sizeof *slice);
    for (int64_t t = 0; t < T; t++)
        memcpy(slice + t * p->n, all + t * V + p->first, (size_t)p->n * sizeof *slice);
    fm_status status = fm_tensor_from_host(ctx, &p->logits, FM_F32, 2, (int64_t[]){T, p->n}, slice);
    free(slice);
    FM_TRY(status);
    FM_TRY(FM_NEW(ctx, &p->ids, FM_I32, T));
    FM_TRY(FM_KERNEL(ctx, local_ids, p->ids->data, target->data, p->first, p->n, T));
    return FM_KERNEL(ctx, cross_entropy_forward, FM_F32, own + T, own, p->logits->data,
                     p->ids->data, T, p->n);
}

/* Compares one part's gradient with the reference's columns; destroys the part's logits. */
static void check_gradient(test *t, part *p, const fm_tensor *lse, const double *all,
                           const double *target) {
    float one = 1, got[T * V];
    fm_tensor *scale;
    EXPECT_OK(t, fm_tensor_from_host(t->ctx, &scale, FM_F32, 1, (int64_t[]){1}, &one));
    EXPECT_OK(t, FM_KERNEL(t->ctx, cross_entropy_backward, FM_F32, p->logits->data, p->logits->data,
                           lse->data, p->ids->data, scale->data, 0.5f, T, p->n));
    EXPECT_OK(t, fm_tensor_to_host(t->ctx, p->logits, got, fm_nbytes(p->logits)));
    fm_tensor_free(scale);
    for (int64_t r = 0; r < T; r++)
        for (int64_t v = 0; v < p->n; v++) {
            double soft = exp(all[r * V + p->first + v] - ref_logsumexp(all + r * V, V));
            double want = target[r] < 0 ? 0 : 0.5 * (soft - (target[r] == (double)(p->first + v)));
            EXPECT(t, fabs(got[r * p->n + v] - want) < 2e-6, "row %d, class %d: %g, not %g", (int)r,
                   (int)(p->first + v), (double)got[r * p->n + v], want);
        }
}

static void parts_of(test *t, int n_parts, double spread) {
    float logits[T * V], got[2][T];
    double wide[T * V], wide_target[T], losses[T];
    int32_t target_host[T];
    fill(logits, T * V, spread);
    targets_of(target_host);
    for (int i = 0; i < T * V; i++) wide[i] = (double)logits[i];
    for (int i = 0; i < T; i++) wide_target[i] = target_host[i];
    ref_cross_entropy(losses, wide, wide_target, T, V, 1);
    int64_t width = (V + n_parts - 1) / n_parts;
    part parts[MAX_PARTS] = {0};
    fm_tensor *target, *all, *loss, *lse;
    EXPECT_OK(t, fm_tensor_from_host(t->ctx, &target, FM_I32, 1, (int64_t[]){T}, target_host));
    EXPECT_OK(t, FM_NEW(t->ctx, &all, FM_F32, n_parts, 2, T));
    EXPECT_OK(t, FM_NEW(t->ctx, &loss, FM_F32, T));
    EXPECT_OK(t, FM_NEW(t->ctx, &lse, FM_F32, T));
    for (int i = 0; i < n_parts; i++) {
        int64_t first = i * width, left = V - first;
        parts[i] = (part){first, left < width ? left : width, NULL, NULL};
        EXPECT_OK(t, part_forward(t->ctx, &parts[i], logits, target,
                                  (float *)all->data + (ptrdiff_t)(2 * i) * T));
    }
    EXPECT_OK(t, FM_KERNEL(t->ctx, cross_entropy_merge, loss->data, lse->data, all->data,
                           target->data, width, n_parts, T));
    EXPECT_OK(t, fm_tensor_to_host(t->ctx, loss, got[0], sizeof got[0]));
    EXPECT_OK(t, fm_tensor_to_host(t->ctx, lse, got[1], sizeof got[1]));
    for (int r = 0; r < T; r++) {
        double want = ref_logsumexp(wide + r * V, V), close = 1e-6 * fmax(1, spread);
        EXPECT(t, fabs(got[0][r] - losses[r]) < close, "row %d: loss %g, not %g", r,
               (double)got[0][r], losses[r]);
        EXPECT(t, fabs(got[1][r] - want) < close, "row %d: lse %g, not %g", r, (double)got[1][r],
               want);
    }
    for (int i = 0; i < n_parts; i++) {
        if (spread < 100) check_gradient(t, &parts[i], lse, wide, wide_target);
        fm_tensor_free(parts[i].logits);
        fm_tensor_free(parts[i].ids);
    }
    fm_tensor_free(target);
    fm_tensor_free(all);
    fm_tensor_free(loss);
    fm_tensor_free(lse);
}

static void one(test *t) { parts_of(t, 1, 4); }
static void two(test *t) { parts_of(t, 2, 4); }
static void five(test *t) { parts_of(t, 5, 4); }
static void far_apart(test *t) { parts_of(t, 3, 2000); }

/* Ids that are here, before, behind, and ignored ones. */
static void local_ids(test *t) {
    const int32_t ids[] = {3, 4, 5, 9, 10, 0, -1, 2147483647};
    const int32_t want[] = {-2, 0, 1, 5, -2, -2, -1, -2};
    int32_t got[8];
    fm_tensor *x, *y;
    EXPECT_OK(t, fm_tensor_from_host(t->ctx, &x, FM_I32, 1, (int64_t[]){8}, ids));
    EXPECT_OK(t, FM_NEW(t->ctx, &y, FM_I32, 8));
    EXPECT_OK(t, FM_KERNEL(t->ctx, local_ids, y->data, x->data, 4, 6, 8));
    EXPECT_OK(t, fm_tensor_to_host(t->ctx, y, got, sizeof got));
    for (int i = 0; i < 8; i++) EXPECT(t, got[i] == want[i], "id %d: %d", ids[i], got[i]);
    fm_tensor_free(x);
    fm_tensor_free(y);
}

/* A row that is not here is zero, and gets no gradient. */
static void absent_rows(test *t) {
    const float table[] = {1, 2, 3, 4}, dy[] = {10, 20, 30, 40, 50, 60};
    const int32_t ids[] = {1, -2, 1};
    float got[6];
    fm_tensor *w, *i, *y, *d;
    EXPECT_OK(t, fm_tensor_from_host(t->ctx, &w, FM_F32, 2, (int64_t[]){2, 2}, table));
    EXPECT_OK(t, fm_tensor_from_host(t->ctx, &i, FM_I32, 1, (int64_t[]){3}, ids));
    EXPECT_OK(t, fm_tensor_from_host(t->ctx, &d, FM_F32, 2, (int64_t[]){3, 2}, dy));
    EXPECT_OK(t, FM_NEW(t->ctx, &y, FM_F32, 3, 2));
    EXPECT_OK(t, FM_KERNEL(t->ctx, embedding_forward, FM_F32, y->data, w->data, i->data, 3, 2));
    EXPECT_OK(t, fm_tensor_to_host(t->ctx, y, got, sizeof got));
    for (int k = 0; k < 6; k++) {
        float want = k / 2 == 1 ? 0 : table[2 + k % 2];
        EXPECT(t, got[k] == want, "element %d: %g", k, (double)got[k]);
    }
    EXPECT_OK(t, FM_KERNEL(t->ctx, embedding_backward, FM_F32, w->data, d->data, i->data, 3, 2, 2,
                           false));
    EXPECT_OK(t, fm_tensor_to_host(t->ctx, w, got, sizeof table));
    EXPECT(t, got[0] == 0 && got[1] == 0 && got[2] == 60 && got[3] == 80, "%g %g %g %g",
           (double)got[0], (double)got[1], (double)got[2], (double)got[3]);
    fm_tensor_free(w);
    fm_tensor_free(i);
    fm_tensor_free(d);
    fm_tensor_free(y);
}

static const test_case cases[] = {{"one", one},
                                  {"two", two},
                                  {"five", five},
                                  {"far_apart", far_apart},
                                  {"local_ids", local_ids},
                                  {"absent_rows", absent_rows}};
TEST_PROGRAM(cases)
