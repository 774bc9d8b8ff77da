/* What the tools do with whole checkpoints: one layout made of another, and two compared. */
#include "io/h5.h"
#include "io/writer.h"

#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

/* A whole array of shape `shape`, or rows [from, to) of it; the region borrows `box`. */
static fm_region rows_of(int ndim, const int64_t *shape, int64_t from, int64_t to, fm_box *box) {
    fm_region r = {.ndim = ndim, .n_boxes = 1, .boxes = box};
    *box = (fm_box){0};
    for (int d = 0; d < ndim; d++) r.global_shape[d] = box->stop[d] = shape[d];
    box->start[0] = from;
    box->stop[0] = to;
    return r;
}

static int by_name(const void *a, const void *b) {
    return strcmp(((const fm_ckpt_entry *)a)->name, ((const fm_ckpt_entry *)b)->name);
}

/* Each array once, by name; malloc'ed. */
static fm_ckpt_entry *distinct(const fm_ckpt_reader *r, int64_t *n) {
    int64_t count = fm_ckpt_count(r);
    fm_ckpt_entry *all = malloc(((size_t)count + 1) * sizeof *all);
    if (!all) return NULL;
    for (int64_t i = 0; i < count; i++) all[i] = fm_ckpt_at(r, i);
    if (count > 0) qsort(all, (size_t)count, sizeof *all, by_name);
    *n = 0;
    for (int64_t i = 0; i < count; i++)
        if (*n == 0 || by_name(&all[*n - 1], &all[i]) != 0) all[(*n)++] = all[i];
    return all;
}

/* The files of one rank; a group's file's name begins alike in every layout. */
static const struct {
    const char *prefix, *name;
} files[] = {{"dense-", "dense-pp00-tp00.h5"},
             {"expert-", "expert-pp00-ep00-etp00.h5"},
             {"optim-", "optim-rank00000.h5"}};
enum { FILES = sizeof files / sizeof *files };

static fm_status copy_array(fm_ctx *ctx, fm_ckpt_reader *from, const fm_ckpt_entry *e, fm_h5 *to) {
    fm_box box;
    fm_ckpt_array a = {.region = rows_of(e->ndim, e->global_shape, 0, e->global_shape[0], &box)};
    size_t bytes = (size_t)fm_region_numel(&a.region) * sizeof(float);
    snprintf(a.name, sizeof a.name, "%s", e->name);
    a.data = malloc(bytes + 1);
    FM_CHECK(a.data, FM_ERR_OOM, "out of memory: %zu bytes of %s", bytes, e->name);
    fm_status status = fm_ckpt_read_host(ctx, from, &a);
    if (status == FM_OK) status = fm_h5_write(&ctx->error, to, a.name, &a.region, a.data, 0);
    free(a.data);
    return status;
}

static fm_status copy_arrays(fm_ctx *ctx, fm_ckpt_reader *from, const char *tmp, fm_manifest *m) {
    fm_h5 *to[FILES] = {NULL};
    fm_error *err = &ctx->error;
    int64_t n = 0;
    fm_status status = FM_OK;
    fm_ckpt_entry *all = distinct(from, &n);
    FM_CHECK(all, FM_ERR_OOM, "out of memory: the list of arrays");
    for (int64_t i = 0; i < n; i++) {
        int f = 0;
        while (f < FILES && strncmp(all[i].file, files[f].prefix, strlen(files[f].prefix)) != 0)
            f++;
        FM_CHECK_GOTO(f < FILES, FM_ERR_CHECKPOINT,
                      "%s of %s: the file's name begins neither with dense-, expert- nor optim-",
                      all[i].name, all[i].file);
        char path[FM_PATH];
        if (!to[f]) {
            FM_TRY_GOTO(fm_disk_join(err, path, tmp, files[f].name));
            FM_TRY_GOTO(fm_h5_create(err, NULL, path, &to[f]));
            FM_TRY_GOTO(fm_manifest_add_name(err, m, files[f].name));
        }
        FM_TRY_GOTO(copy_array(ctx, from, &all[i], to[f]));
    }
out:
    for (int f = 0; f < FILES; f++) {
        fm_status closed = fm_h5_close(err, to[f]);
        if (status == FM_OK) status = closed;
    }
    free(all);
    return status;
}

/* With root's lock held. */
static fm_status merge(fm_ctx *ctx, fm_ckpt_reader *from, const char *root, fm_manifest *m) {
    const fm_commit_plan plan = {INT_MAX, -1, -1};
    fm_error *err = &ctx->error;
    fm_notes notes = {0};
    char tmp[FM_PATH];
    FM_TRY(fm_commit_check_order(err, root, &plan, m->step));
    FM_TRY(fm_commit_begin(err, NULL, root, m->step, tmp));
    fm_status status = copy_arrays(ctx, from, tmp, m);
    if (status == FM_OK) status = fm_state_write(err, NULL, tmp, fm_ckpt_state_json(from), m);
    if (status == FM_OK) status = fm_commit_seal(err, NULL, root, m);
    if (status == FM_OK) status = fm_commit_end(err, NULL, root, m, &plan, &notes);
    fm_error ignored = {0};
    if (status != FM_OK) (void)fm_disk_remove(&ignored, tmp);
    return status;
}

fm_status fm_ckpt_merge(fm_ctx *ctx, const char *from, const char *root) {
    fm_ckpt_reader *r;
    int lock = -1;
    FM_TRY(fm_ckpt_open(ctx, from, &r));
    fm_manifest m = {.step = fm_ckpt_step(r), .world_size = 1, .dp = 1, .layout = {1, 1, 1, 1, 0}};
    fm_status status = fm_commit_lock(&ctx->error, NULL, root, &lock);
    if (status == FM_OK) status = merge(ctx, r, root, &m);
    fm_disk_unlock(lock);
    fm_manifest_free(&m);
    fm_ckpt_close(r);
    return status;
}

/* ---- comparing */

typedef struct sums {
    double x, y, between; /* squares */
} sums;

static void compare(const float *x, const float *y, int64_t n, sums *s, fm_ckpt_difference *d) {
    for (int64_t i = 0; i < n; i++) {
        double a = (double)x[i], b = (double)y[i], far = fabs(a - b);
        s->x += a * a;
        s->y += b * b;
        if (memcmp(&x[i], &y[i], sizeof *x) == 0 || far == 0) continue;
        d->unequal++;
        s->between += far * far;
        if (!(far <= d->max_abs)) d->max_abs = isnan(far) ? (double)INFINITY : far;
    }
}

fm_status fm_ckpt_compare(fm_ctx *ctx, fm_ckpt_reader *a, fm_ckpt_reader *b, const char *name,
                          fm_ckpt_difference *out) {
    enum { BLOCK = 1 << 20 };
    fm_ckpt_reader *readers[] = {a, b};
    *out = (fm_ckpt_difference){0};
    fm_ckpt_entry e;
    FM_CHECK(fm_ckpt_find(a, name, &e), FM_ERR_CHECKPOINT,
             "no file of the first checkpoint has dataset %s", name);
    int64_t row = 1, rows = e.global_shape[0];
    for (int d = 1; d < e.ndim; d++) row *= e.global_shape[d];
    int64_t step = row > 0 && row < BLOCK ? BLOCK / row : 1;
    if (step > rows) step = rows;
    float *data = malloc((size_t)(2 * step * row) * sizeof *data + 1);
    FM_CHECK(data, FM_ERR_OOM, "out of memory: %lld rows of %s", (long long)step, name);
    sums s = {0};
    fm_status status = FM_OK;
    for (int64_t at = 0; at < rows; at += step) {
        fm_box box;
        int64_t end = at + step < rows ? at + step : rows;
        fm_ckpt_array want = {.region = rows_of(e.ndim, e.global_shape, at, end, &box)};
        snprintf(want.name, sizeof want.name, "%s", name);
        for (int i = 0; i < 2; i++) {
            want.data = data + i * step * row;
            FM_TRY_GOTO(fm_ckpt_read_host(ctx, readers[i], &want));
        }
        compare(data, data + step * row, (end - at) * row, &s, out);
    }
    double larger = s.x > s.y ? s.x : s.y;
    out->relative = out->unequal == 0 ? 0 : isfinite(larger) ? sqrt(s.between / larger) : NAN;
    if (isnan(out->relative)) out->relative = (double)INFINITY;
out:
    free(data);
    return status;
}
