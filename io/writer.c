#include "io/writer.h"

#include "io/h5.h"

#include <stdio.h>
#include <stdlib.h>

void fm_snapshot_free(fm_snapshot *s) {
    if (!s) return;
    for (int i = 0; i < s->n; i++) {
        if (!s->arrays[i].borrowed) free(s->arrays[i].data);
        free(s->arrays[i].boxes);
    }
    free(s->arrays);
    free(s->state_json);
    fm_manifest_free(&s->manifest);
    free(s);
}

static int by_name(const void *a, const void *b) {
    const fm_ckpt_array *x = *(fm_ckpt_array *const *)a, *y = *(fm_ckpt_array *const *)b;
    int order = strcmp(x->name, y->name);
    return order ? order : x < y ? -1 : x > y;
}

static int64_t global_numel(const fm_region *r) {
    int64_t n = 1;
    for (int d = 0; d < r->ndim; d++) n *= r->global_shape[d];
    return n;
}

/* Whether array b is another piece of array a. */
static bool same_array(const fm_ckpt_array *a, const fm_ckpt_array *b) {
    if (strcmp(a->name, b->name) != 0 || a->group != b->group || a->region.ndim != b->region.ndim)
        return false;
    for (int d = 0; d < a->region.ndim; d++)
        if (a->region.global_shape[d] != b->region.global_shape[d]) return false;
    return true;
}

/* Pieces of an array stand one after another, and are no more than all of it. */
static fm_status check_names(fm_ctx *ctx, const fm_ckpt_content *c) {
    const fm_ckpt_array **all = malloc(((size_t)c->n_arrays + 1) * sizeof *all);
    FM_CHECK(all, FM_ERR_OOM, "out of memory: the names of %d arrays", c->n_arrays);
    for (int i = 0; i < c->n_arrays; i++) all[i] = &c->arrays[i];
    if (c->n_arrays > 0) qsort(all, (size_t)c->n_arrays, sizeof *all, by_name);
    const char *twice = NULL;
    int64_t elements = 0;
    for (int i = 0; i < c->n_arrays && !twice; i++) {
        bool again = i > 0 && strcmp(all[i - 1]->name, all[i]->name) == 0;
        elements = (again ? elements : 0) + fm_region_numel(&all[i]->region);
        if (again && (all[i - 1] + 1 != all[i] || !same_array(all[i - 1], all[i]) ||
                      elements > global_numel(&all[i]->region)))
            twice = all[i]->name;
    }
    free(all);
    FM_CHECK(!twice, FM_ERR_VALUE, "checkpoint: two arrays are called %s", twice);
    return FM_OK;
}

static bool holds_the_first(const fm_region *r) {
    for (int64_t i = 0; i < r->n_boxes; i++) {
        int d = 0;
        while (d < r->ndim && r->boxes[i].start[d] == 0) d++;
        if (d == r->ndim && fm_box_numel(r->ndim, &r->boxes[i]) > 0) return true;
    }
    return false;
}

uint64_t fm_ckpt_balance(const fm_ckpt_content *c) {
    uint64_t sum = 0;
    for (int i = 0; i < c->n_arrays; i++) {
        const fm_region *r = &c->arrays[i].region;
        uint64_t weight = fm_mix64(fm_rng_stream(c->arrays[i].name));
        sum += weight * (uint64_t)fm_region_numel(r);
        if (holds_the_first(r)) sum -= weight * (uint64_t)global_numel(r);
    }
    return sum;
}

static fm_status check_content(fm_ctx *ctx, const fm_ckpt_content *c) {
    FM_CHECK(c->step >= 0, FM_ERR_VALUE, "checkpoint: step is %lld; it must not be negative",
             (long long)c->step);
    size_t state = strlen(c->state_json) + 1;
    FM_CHECK(state <= FM_CKPT_STATE_LIMIT, FM_ERR_VALUE,
             "checkpoint: the state (extra) has %zu bytes; allowed are %d", state,
             FM_CKPT_STATE_LIMIT);
    return check_names(ctx, c);
}

static fm_status take_array(fm_ctx *ctx, const fm_ckpt_array *a, bool borrow,
                            fm_snapshot_array *out) {
    size_t bytes = (size_t)fm_region_numel(&a->region) * sizeof(float);
    size_t boxes = (size_t)a->region.n_boxes * sizeof *out->boxes;
    snprintf(out->name, sizeof out->name, "%s", a->name);
    out->group = a->group;
    out->boxes = malloc(boxes + 1);
    FM_CHECK(out->boxes, FM_ERR_OOM, "out of memory: the boxes of %s", a->name);
    if (boxes > 0) memcpy(out->boxes, a->region.boxes, boxes);
    out->region = a->region;
    out->region.boxes = out->boxes;
    out->borrowed = borrow && ctx->dev->on_host;
    out->data = out->borrowed ? a->data : malloc(bytes ? bytes : 1);
    FM_CHECK(out->data || bytes == 0, FM_ERR_OOM, "out of memory: %zu bytes to save %s", bytes,
             a->name);
    if (bytes && !out->borrowed) FM_TRY(FM_KERNEL(ctx, copy_out, out->data, a->data, bytes));
    return FM_OK;
}

fm_status fm_snapshot_take(fm_ctx *ctx, const fm_mesh *mesh, const fm_ckpt_content *content,
                           int compression, bool borrow, fm_snapshot **out) {
    *out = NULL;
    FM_TRY(check_content(ctx, content));
    fm_snapshot *s = calloc(1, sizeof *s);
    FM_CHECK(s, FM_ERR_OOM, "out of memory: a checkpoint's record");
    fm_status status = FM_OK;
    s->manifest = (fm_manifest){.step = content->step,
                                .world_size = mesh->at.world_size,
                                .dp = mesh->at.dp,
                                .layout = mesh->config};
    s->at = mesh->at;
    s->compression = compression;
    s->state_json = strdup(content->state_json);
    s->arrays = calloc((size_t)content->n_arrays + 1, sizeof *s->arrays);
    FM_CHECK_GOTO(s->arrays && s->state_json, FM_ERR_OOM, "out of memory: a checkpoint's record");
    for (int i = 0; i < content->n_arrays; i++)
        if (content->arrays[i].region.n_boxes > 0)
            FM_TRY_GOTO(take_array(ctx, &content->arrays[i], borrow, &s->arrays[s->n++]));
    *out = s;
out:
    if (status != FM_OK) fm_snapshot_free(s);
    return status;
}

/* The file of a group: named after the part of the mesh that holds the same data. Its first replica
 * writes it; where others hold pieces of their own (masters under ZeRO) their number follows. */
static void file_name(const fm_snapshot *s, fm_ckpt_group group, char *out, size_t n) {
    const fm_mesh_place *at = &s->at;
    char replica[16] = "";
    switch (group) {
    case FM_CKPT_DENSE:
        if (at->dp_rank > 0) snprintf(replica, sizeof replica, "-dp%02d", at->dp_rank);
        snprintf(out, n, "dense-pp%02d-tp%02d%s.h5", at->pp_rank, at->tp_rank, replica);
        break;
    case FM_CKPT_EXPERT:
        if (at->edp_rank > 0) snprintf(replica, sizeof replica, "-edp%02d", at->edp_rank);
        snprintf(out, n, "expert-pp%02d-ep%02d-etp%02d%s.h5", at->pp_rank, at->ep_rank,
                 at->etp_rank, replica);
        break;
    case FM_CKPT_OPTIM:
        snprintf(out, n, "optim-rank%05d.h5", at->rank);
        break;
    }
}

/* The n pieces from a[0] on are one dataset: their boxes one after another, and their elements. */
static fm_status write_pieces(fm_error *err, fm_h5 *h, const fm_snapshot_array *a, int n,
                              int compression) {
    fm_region all = a[0].region;
    int64_t boxes = 0, elements = 0;
    for (int i = 0; i < n; i++) {
        boxes += a[i].region.n_boxes;
        elements += fm_region_numel(&a[i].region);
    }
    fm_box *box = malloc((size_t)boxes * sizeof *box + 1);
    float *data = malloc((size_t)elements * sizeof *data + 1);
    fm_status status = FM_OK;
    FM_REQUIRE_GOTO(err, box && data, FM_ERR_OOM, "out of memory: %lld elements of %s",
                    (long long)elements, a[0].name);
    boxes = elements = 0;
    for (int i = 0; i < n; i++) {
        int64_t here = fm_region_numel(&a[i].region);
        memcpy(box + boxes, a[i].boxes, (size_t)a[i].region.n_boxes * sizeof *box);
        memcpy(data + elements, a[i].data, (size_t)here * sizeof *data);
        boxes += a[i].region.n_boxes;
        elements += here;
    }
    all.n_boxes = boxes;
    all.boxes = box;
    status = fm_h5_write(err, h, a[0].name, &all, data, compression);
out:
    free(box);
    free(data);
    return status;
}

static fm_status write_group(fm_error *err, fm_io_env *env, const char *tmp, fm_snapshot *s,
                             fm_ckpt_group group) {
    char name[64], path[FM_PATH];
    fm_h5 *h = NULL;
    fm_status status = FM_OK;
    for (int i = 0, n; i < s->n; i += n) {
        const fm_snapshot_array *a = &s->arrays[i];
        for (n = 1; i + n < s->n && strcmp(a->name, a[n].name) == 0;) n++;
        if (a->group != group) continue;
        if (!h) {
            file_name(s, group, name, sizeof name);
            FM_TRY_GOTO(fm_disk_join(err, path, tmp, name));
            FM_TRY_GOTO(fm_h5_create(err, env, path, &h));
            FM_TRY_GOTO(fm_manifest_add_name(err, &s->manifest, name));
        }
        FM_TRY_GOTO(n == 1 ? fm_h5_write(err, h, a->name, &a->region, a->data, s->compression)
                           : write_pieces(err, h, a, n, s->compression));
    }
out:
    if (h) {
        fm_status closed = fm_h5_close(err, h);
        if (status == FM_OK) status = closed;
    }
    return status;
}

fm_status fm_state_write(fm_error *err, fm_io_env *env, const char *tmp, const char *state_json,
                         fm_manifest *m) {
    char path[FM_PATH];
    fm_h5 *h;
    FM_TRY(fm_disk_join(err, path, tmp, "state.h5"));
    FM_TRY(fm_h5_create(err, env, path, &h));
    fm_status status = fm_h5_write_text(err, h, "state", state_json);
    fm_status closed = fm_h5_close(err, h);
    if (status == FM_OK) status = closed;
    return status == FM_OK ? fm_manifest_add_name(err, m, "state.h5") : status;
}

fm_status fm_snapshot_write(fm_error *err, fm_io_env *env, const char *tmp, fm_snapshot *s) {
    for (fm_ckpt_group g = FM_CKPT_DENSE; g <= FM_CKPT_OPTIM; g++)
        FM_TRY(write_group(err, env, tmp, s, g));
    return s->at.rank == 0 ? fm_state_write(err, env, tmp, s->state_json, &s->manifest) : FM_OK;
}
