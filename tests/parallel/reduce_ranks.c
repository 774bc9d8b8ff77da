/* Reduction of gradients in buckets: sums, norms, who keeps what, and the way back of the weights. */
#include "parallel/agree.h"
#include "parallel/reduce.h"
#include "tensor/ops.h"
#include "tests/parallel/ranks.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

enum { PARAMS = 6 };
static const struct {
    const char *name;
    int64_t n;
    fm_replicas replicas;
    fm_dtype dtype;
} specs[PARAMS] = {
    {"a", 5, FM_REPLICATED_STAGE, FM_F32},   {"b", 1000, FM_REPLICATED_DP, FM_F32},
    {"c", 333, FM_REPLICATED_EDP, FM_F32},   {"d", 64, FM_REPLICATED_STAGE, FM_BF16},
    {"e", 700, FM_REPLICATED_STAGE, FM_F32}, {"f", 90, FM_REPLICATED_EDP, FM_BF16},
};

typedef struct model {
    fm_mesh *mesh;
    fm_param_set *set;
    fm_tensor *w[PARAMS];
    fm_reducer *reducer;
} model;

static fm_status model_new(fm_ctx *ctx, model *m, int zero, int64_t bucket) {
    fm_mesh_config c = fm_mesh_config_default();
    c.zero = zero;
    FM_TRY(fm_mesh_new(ctx, &c, ranks_world(), &m->mesh));
    m->mesh->bucket_elements = bucket;
    FM_TRY(fm_param_set_new(ctx, m->mesh, &m->set));
    for (int i = 0; i < PARAMS; i++) {
        fm_init init = {.kind = FM_INIT_NORMAL, .std = 1};
        fm_param_spec s = fm_param_spec_whole(specs[i].name, 1, &specs[i].n, specs[i].dtype, true,
                                              init);
        s.placement.replicas = specs[i].replicas;
        FM_TRY(fm_param_add(m->set, &s, &m->w[i]));
    }
    FM_TRY(fm_param_set_seal(m->set));
    return fm_reducer_new(ctx, &m->set, 1, &m->reducer);
}

static void model_free(model *m) {
    fm_reducer_free(m->reducer);
    fm_param_set_free(m->set);
    fm_mesh_free(m->mesh);
}

/* The gradient that rank r gives element i of parameter k: small integers, exact in any sum. */
static float gradient(int r, int k, int64_t i) { return (float)((r + 1) * (k + 2) + (int)(i % 7)); }

/* loss += Σ w · t, t fp32 */
static fm_status term(fm_ctx *ctx, const model *m, int k, fm_tensor **loss) {
    fm_tensor *t = NULL, *wide = NULL, *product = NULL, *sum = NULL, *next = NULL;
    fm_status status = FM_OK;
    float *host = malloc((size_t)specs[k].n * sizeof *host);
    FM_CHECK(host, FM_ERR_OOM, "out of memory: a test's gradient");
    for (int64_t i = 0; i < specs[k].n; i++) host[i] = gradient(m->mesh->at.rank, k, i);
    FM_TRY_GOTO(fm_tensor_from_host(ctx, &t, FM_F32, 1, &specs[k].n, host));
    FM_TRY_GOTO(fm_cast(ctx, &wide, m->w[k], FM_F32));
    FM_TRY_GOTO(fm_mul(ctx, &product, wide, t));
    FM_TRY_GOTO(fm_sum(ctx, &sum, product, 1.0f));
    if (*loss) {
        FM_TRY_GOTO(fm_add(ctx, &next, *loss, sum));
        fm_tensor_free(*loss);
        *loss = next;
    } else {
        *loss = fm_tensor_retain(sum);
    }
out:
    free(host);
    fm_tensor_free(t);
    fm_tensor_free(wide);
    fm_tensor_free(product);
    fm_tensor_free(sum);
    return status;
}

/* One reduced backward over all parameters but `without`. */
static fm_status reduce(fm_ctx *ctx, const model *m, int without) {
    fm_tensor *loss = NULL;
    fm_status status = FM_OK;
    fm_param_zero_grads(m->set);
    for (int k = 0; k < PARAMS; k++)
        if (k != without) FM_TRY_GOTO(term(ctx, m, k, &loss));
    FM_TRY_GOTO(fm_reducer_begin(m->reducer));
    FM_TRY_GOTO(fm_backward(ctx, loss, NULL));
    FM_TRY_GOTO(fm_reducer_flush(m->reducer));
    status = fm_reducer_finish(m->reducer);
out:
    fm_tensor_free(loss);
    return status;
}

/* What all ranks together give. */
static double sum_of(int k, int64_t i, int without) {
    double sum = 0;
    for (int r = 0; r < ranks_world()->size; r++) sum += k == without ? 0 : gradient(r, k, i);
    return sum;
}

static void check_sums(test *t, const model *m, int without) {
    int64_t seen = 0;
    for (int j = 0; j < fm_reducer_count(m->reducer); j++) {
        fm_reduced r = fm_reducer_at(m->reducer, j);
        const fm_span *u = &r.bucket->update;
        for (int k = 0; k < PARAMS; k++) {
            const fm_param *p = fm_param_find(m->set, specs[k].name);
            for (int64_t i = 0; i < p->numel; i++) {
                int64_t at = p->offset + i - u->start;
                if (at < 0 || at >= u->n || p->spec.dtype != r.bucket->dtype) continue;
                seen++;
                EXPECT(t, r.grad[at] == sum_of(k, i, without), "%s[%d] is %g, not %g",
                       specs[k].name, (int)i, (double)r.grad[at], sum_of(k, i, without));
            }
        }
    }
    /* Each element is updated by one rank of its replicas where state is sharded, else by all. */
    double total = (double)seen, all = 0, copies = ranks_world()->size;
    EXPECT_OK(t, fm_agree(ranks_world(), t->ctx, (fm_reduce[]){FM_SUM}, &total, 1));
    for (int k = 0; k < PARAMS; k++) all += (double)specs[k].n;
    if (m->mesh->config.zero == 0) all *= copies;
    EXPECT(t, total == all, "%g elements are updated, not %g", total, all);
}

static void check_norm(test *t, const model *m, int without) {
    double squares, want = 0;
    EXPECT_OK(t, fm_reducer_own_squares(m->reducer, &squares));
    EXPECT_OK(t, fm_agree(ranks_world(), t->ctx, (fm_reduce[]){FM_SUM}, &squares, 1));
    for (int k = 0; k < PARAMS; k++)
        for (int64_t i = 0; i < specs[k].n; i++) want += pow(sum_of(k, i, without), 2);
    EXPECT(t, squares == want, "the squared norm is %g, not %g", squares, want);
}

static const int64_t bucket_sizes[] = {1, 100, 1 << 20};
#define EACH_MODEL(zero, size)                                                                     \
    for (int zero = 0; zero < 2; zero++)                                                           \
        for (size_t size = 0; size < sizeof bucket_sizes / sizeof *bucket_sizes; size++)

static void sums_and_norms(test *t) {
    EACH_MODEL(zero, size) {
        model m = {0};
        EXPECT_OK(t, model_new(t->ctx, &m, zero, bucket_sizes[size]));
        for (int without = -1; without < PARAMS; without++) {
            EXPECT_OK(t, reduce(t->ctx, &m, without));
            check_sums(t, &m, without);
            check_norm(t, &m, without);
        }
        model_free(&m);
    }
}

/* A frozen parameter has no part in the norm. */
static void frozen(test *t) {
    EACH_MODEL(zero, size) {
        model m = {0};
        EXPECT_OK(t, model_new(t->ctx, &m, zero, bucket_sizes[size]));
        m.w[1]->requires_grad = false;
        EXPECT_OK(t, reduce(t->ctx, &m, 1));
        check_norm(t, &m, 1);
        model_free(&m);
    }
}

/* A rank keeps an even share of state, of bf16 weights' masters too. */
static void memory(test *t) {
    model whole = {0}, m = {0};
    int64_t n = ranks_world()->size;
    EXPECT_OK(t, model_new(t->ctx, &whole, 0, 1 << 20));
    EXPECT_OK(t, model_new(t->ctx, &m, 1, 1 << 20));
    EXPECT(t, whole.set->state_numel == whole.set->numel, "all of %d", (int)whole.set->numel);
    EXPECT(t, m.set->state_numel * n == m.set->numel, "%d of %d", (int)m.set->state_numel,
           (int)m.set->numel);
    int64_t bf16 = 0;
    for (int i = 0; i < m.set->n_buckets; i++)
        if (m.set->buckets[i].dtype == FM_BF16) bf16 += m.set->buckets[i].all.n;
    int64_t masters = m.set->numel - bf16 + bf16 / n;
    EXPECT(t, fm_numel(m.set->masters) == masters, "%d masters, not %d",
           (int)fm_numel(m.set->masters), (int)masters);
    model_free(&m);
    model_free(&whole);
}

/* Each rank writes its pieces; all have all of them then. */
static void gather(test *t) {
    EACH_MODEL(zero, size) {
        model m = {0};
        EXPECT_OK(t, model_new(t->ctx, &m, zero, bucket_sizes[size]));
        for (int j = 0; j < fm_reducer_count(m.reducer); j++) {
            const fm_bucket *b = fm_reducer_at(m.reducer, j).bucket;
            for (int64_t i = b->update.start; i < b->update.start + b->update.n; i++) {
                float x = (float)(i % 200);
                if (b->dtype == FM_F32)
                    ((float *)m.set->masters->data)[i] = x;
                else
                    ((fm_bf16 *)m.set->models->data)[i] = fm_f32_to_bf16(x);
            }
            EXPECT_OK(t, fm_reducer_gather(m.reducer, j));
        }
        EXPECT_OK(t, fm_reducer_gathered(m.reducer));
        for (int k = 0; k < PARAMS; k++) {
            const fm_param *p = fm_param_find(m.set, specs[k].name);
            for (int64_t i = 0; i < p->numel; i++) {
                float x = p->spec.dtype == FM_F32 ? ((float *)p->weight->data)[i]
                                                  : fm_bf16_to_f32(((fm_bf16 *)p->weight->data)[i]);
                EXPECT(t, x == (float)((p->offset + i) % 200), "%s[%d] is %g", specs[k].name,
                       (int)i, (double)x);
            }
        }
        model_free(&m);
    }
}

/* Values come back as they were set, where masters are elsewhere too: those of other ranks as bf16. */
static void values(test *t) {
    EACH_MODEL(zero, size) {
        model m = {0};
        float x[1000], y[1000];
        EXPECT_OK(t, model_new(t->ctx, &m, zero, bucket_sizes[size]));
        for (int k = 0; k < PARAMS; k++) {
            fm_param *p = fm_param_find(m.set, specs[k].name);
            double kept = 0;
            for (int64_t i = 0; i < p->numel; i++) x[i] = 1.0f + (float)i / 1024.0f;
            EXPECT_OK(t, fm_param_set_values(m.set, p, x, p->numel));
            EXPECT_OK(t, fm_param_get_values(m.set, p, y, p->numel));
            for (int64_t i = 0; i < p->numel; i++) {
                kept += y[i] == x[i];
                EXPECT(t, fabsf(y[i] - x[i]) < (p->spec.dtype == FM_F32 ? 1e-9f : 0.01f),
                       "%s[%d] is %g", specs[k].name, (int)i, (double)y[i]);
            }
            int stretches = p->first_bucket;
            fm_stretch part;
            double here = 0;
            while (fm_param_stretch(p, &stretches, &part)) here += (double)part.local.n;
            EXPECT(t, kept >= here, "%s: %g of %g", specs[k].name, kept, here);
            EXPECT_OK(t, fm_agree(ranks_world(), t->ctx, (fm_reduce[]){FM_SUM}, &here, 1));
            double copies = zero ? 1 : ranks_world()->size;
            EXPECT(t, here == copies * (double)p->numel, "%s: stretches of %g elements",
                   specs[k].name, here);
        }
        model_free(&m);
    }
}

/* Bytes are what reduce.h says. */
static void bytes(test *t) {
    for (int zero = 0; zero < 2; zero++) {
        model m = {0};
        EXPECT_OK(t, model_new(t->ctx, &m, zero, 1 << 20));
        EXPECT_OK(t, reduce(t->ctx, &m, -1));
        int64_t sent = 0, want = 0, others = ranks_world()->size - 1;
        fm_comm *const groups[] = {m.mesh->dp_comm, m.mesh->stage_comm, m.mesh->edp_comm};
        for (int i = 0; i < 3; i++)
            sent += groups[i]->stats[FM_ALL_REDUCE].bytes +
                    groups[i]->stats[FM_REDUCE_SCATTER].bytes;
        for (int i = 0; i < m.set->n_buckets; i++) {
            int64_t n = m.set->buckets[i].all.n;
            want += (zero ? 4 : 8) * n * others / ranks_world()->size;
        }
        EXPECT(t, sent == want, "zero %d: %d bytes, not %d", zero, (int)sent, (int)want);
        model_free(&m);
    }
}

typedef struct shared {
    fm_tensor *w;
} shared;

static fm_status use(fm_ctx *ctx, void *user, fm_tensor **in, fm_tensor **out) {
    return fm_mul(ctx, &out[0], in[0], ((shared *)user)->w);
}

/* Two recomputed blocks share a parameter: its gradient is complete only after the second, which nothing
 * outside can know. */
static void hidden_twice(test *t) {
    model m = {0};
    EXPECT_OK(t, model_new(t->ctx, &m, 1, 1 << 20));
    fm_tensor *x, *y, *z, *loss;
    shared user = {m.w[0]};
    EXPECT_OK(t, fm_tensor_zeros(t->ctx, &x, FM_F32, 1, &specs[0].n));
    EXPECT_OK(t, fm_recompute(t->ctx, use, &user, sizeof user, NULL, &x, 1, &y, 1));
    EXPECT_OK(t, fm_recompute(t->ctx, use, &user, sizeof user, NULL, &y, 1, &z, 1));
    EXPECT_OK(t, fm_sum(t->ctx, &loss, z, 1));
    fm_param_zero_grads(m.set);
    EXPECT_OK(t, fm_reducer_begin(m.reducer));
    EXPECT_ERROR(t, fm_backward(t->ctx, loss, NULL), FM_ERR_STATE, "gradient of a", "twice");
    fm_reducer_abandon(m.reducer);
    fm_tensor_free(loss);
    fm_tensor_free(z);
    fm_tensor_free(y);
    fm_tensor_free(x);
    model_free(&m);
}

static const test_case cases[] = {{"sums_and_norms", sums_and_norms},
                                  {"frozen", frozen},
                                  {"memory", memory},
                                  {"gather", gather},
                                  {"values", values},
                                  {"bytes", bytes},
                                  {"hidden_twice", hidden_twice}};
RANKS_PROGRAM(cases)
