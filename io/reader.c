/* Reading a checkpoint into any layout: what a rank wants is a set of boxes, what the files hold is
 * another, and their intersections are read. */
#include "io/checkpoint.h"
#include "io/h5.h"
#include "io/manifest.h"

#include <stdio.h>
#include <stdlib.h>

typedef struct shard {
    char name[64];
    fm_h5 *h5;
    fm_h5_array *arrays;
    int64_t n;
} shard;

/* One array of one file. */
typedef struct holding {
    const shard *shard;
    const fm_h5_array *array;
} holding;

struct fm_ckpt_reader {
    char path[FM_PATH];
    fm_manifest manifest;
    shard *shards;
    int64_t n_shards;
    holding *index; /* [n_index]: all arrays of all files, by name */
    int64_t n_index;
    char *state_json;
};

void fm_ckpt_close(fm_ckpt_reader *r) {
    if (!r) return;
    fm_error ignored = {0};
    for (int64_t i = 0; i < r->n_shards; i++) {
        fm_h5_arrays_free(r->shards[i].arrays, r->shards[i].n);
        (void)fm_h5_close(&ignored, r->shards[i].h5); /* was only read */
    }
    free(r->shards);
    free(r->index);
    free(r->state_json);
    fm_manifest_free(&r->manifest);
    free(r);
}

static fm_status check_hash(fm_error *err, const char *path, const fm_manifest_file *f) {
    char hash[FM_HASH];
    int64_t bytes;
    FM_TRY(fm_disk_hash(err, NULL, path, false, hash, &bytes));
    FM_REQUIRE(err, strcmp(hash, f->hash) == 0, FM_ERR_CHECKPOINT,
               "%s: its checksum is %s; the manifest has %s", path, hash, f->hash);
    return FM_OK;
}

/* Opens one file of the manifest; its size must be the manifest's. */
static fm_status open_shard(fm_error *err, fm_ckpt_reader *r, const fm_manifest_file *f) {
    char path[FM_PATH];
    shard *s = &r->shards[r->n_shards];
    FM_TRY(fm_disk_join(err, path, r->path, f->name));
    FM_TRY(fm_disk_check_size(err, path, f->bytes));
    memcpy(s->name, f->name, sizeof s->name);
    FM_TRY(fm_h5_open(err, path, &s->h5));
    r->n_shards++;
    if (strcmp(f->name, "state.h5") == 0) {
        FM_TRY(fm_h5_read_text(err, s->h5, "state", FM_CKPT_STATE_LIMIT, &r->state_json));
        return check_hash(err, path, f); /* small, and what it says is not looked at twice */
    }
    return fm_h5_arrays(err, s->h5, &s->arrays, &s->n);
}

static int by_name(const void *a, const void *b) {
    return strcmp(((const holding *)a)->array->name, ((const holding *)b)->array->name);
}

/* The n files that hold array h[0] have to agree on it, and to hold each element once. */
static fm_status check_array(fm_error *err, const fm_ckpt_reader *r, const holding *h, int64_t n) {
    const fm_h5_array *first = h[0].array;
    int64_t boxes = 0;
    for (int64_t i = 0; i < n; i++) {
        const fm_h5_array *a = h[i].array;
        FM_REQUIRE(err,
                   a->ndim == first->ndim &&
                       memcmp(a->global_shape, first->global_shape, sizeof a->global_shape) == 0,
                   FM_ERR_CHECKPOINT, "%s: dataset %s: %s and %s differ in its global_shape",
                   r->path, a->name, h[0].shard->name, h[i].shard->name);
        boxes += a->n_boxes;
    }
    fm_box *all = calloc((size_t)boxes + 1, sizeof *all);
    FM_REQUIRE(err, all, FM_ERR_OOM, "out of memory: boxes of %s", first->name);
    boxes = 0;
    for (int64_t i = 0; i < n; i++) {
        memcpy(all + boxes, h[i].array->boxes, (size_t)h[i].array->n_boxes * sizeof *all);
        boxes += h[i].array->n_boxes;
    }
    int64_t at[FM_MAX_DIMS];
    fm_tiling tiling = fm_boxes_tile(first->ndim, first->global_shape, all, boxes, at);
    free(all);
    if (tiling == FM_TILED) return FM_OK;
    char where[128];
    size_t used = 0;
    for (int d = 0; d < first->ndim; d++)
        used += (size_t)snprintf(where + used, sizeof where - used, "%s%lld", d ? ", " : "",
                                 (long long)at[d]);
    return fm_fail(err, FM_ERR_CHECKPOINT, "%s: dataset %s (in %s%s): element [%s] is %s", r->path,
                   first->name, h[0].shard->name, n > 1 ? " and others" : "", where,
                   tiling == FM_TILES_GAP ? "in no file" : "there twice");
}

static fm_status make_index(fm_error *err, fm_ckpt_reader *r) {
    r->index = calloc((size_t)fm_ckpt_count(r) + 1, sizeof *r->index);
    FM_REQUIRE(err, r->index, FM_ERR_OOM, "out of memory: the list of arrays");
    for (int64_t i = 0; i < r->n_shards; i++)
        for (int64_t j = 0; j < r->shards[i].n; j++)
            r->index[r->n_index++] = (holding){&r->shards[i], &r->shards[i].arrays[j]};
    if (r->n_index > 0) qsort(r->index, (size_t)r->n_index, sizeof *r->index, by_name);
    return FM_OK;
}

/* How many entries of the index have the name of entry `first`, which is the first of them. */
static int64_t same_name(const fm_ckpt_reader *r, int64_t first) {
    int64_t k = 1;
    while (first + k < r->n_index && by_name(&r->index[first], &r->index[first + k]) == 0) k++;
    return k;
}

static fm_status check_arrays(fm_error *err, const fm_ckpt_reader *r) {
    for (int64_t i = 0, k; i < r->n_index; i += k) {
        k = same_name(r, i);
        FM_TRY(check_array(err, r, &r->index[i], k));
    }
    return FM_OK;
}

/* The files that hold an array: *first and the ones behind it in the index; 0: none. */
static int64_t find(const fm_ckpt_reader *r, const char *name, int64_t *first) {
    int64_t low = 0,
            high = r->n_index; /* the first entry not before the name lies in [low, high] */
    while (low < high) {
        int64_t middle = low + (high - low) / 2;
        if (strcmp(r->index[middle].array->name, name) < 0)
            low = middle + 1;
        else
            high = middle;
    }
    *first = low;
    bool found = low < r->n_index && strcmp(r->index[low].array->name, name) == 0;
    return found ? same_name(r, low) : 0;
}

fm_status fm_ckpt_open(fm_ctx *ctx, const char *path, fm_ckpt_reader **out) {
    *out = NULL;
    fm_error *err = &ctx->error;
    char manifest[FM_PATH];
    fm_ckpt_reader *r = calloc(1, sizeof *r);
    FM_CHECK(r, FM_ERR_OOM, "out of memory: a checkpoint's record");
    fm_status status = FM_OK;
    FM_CHECK_GOTO(strlen(path) < sizeof r->path, FM_ERR_IO, "%s: the path is too long", path);
    memcpy(r->path, path, strlen(path) + 1);
    FM_TRY_GOTO(fm_disk_join(err, manifest, path, "manifest.json"));
    FM_TRY_GOTO(fm_manifest_read(err, manifest, &r->manifest));
    r->shards = calloc((size_t)r->manifest.n_files + 1, sizeof *r->shards);
    FM_CHECK_GOTO(r->shards, FM_ERR_OOM, "out of memory: a checkpoint's record");
    for (int64_t i = 0; i < r->manifest.n_files; i++)
        FM_TRY_GOTO(open_shard(err, r, &r->manifest.files[i]));
    FM_CHECK_GOTO(r->state_json, FM_ERR_CHECKPOINT, "%s: state.h5 is missing", path);
    FM_TRY_GOTO(make_index(err, r));
    FM_TRY_GOTO(check_arrays(err, r));
    *out = r;
out:
    if (status == FM_ERR_IO) status = ctx->error.status = FM_ERR_CHECKPOINT;
    if (status != FM_OK) fm_ckpt_close(r);
    return status;
}

int64_t fm_ckpt_step(const fm_ckpt_reader *r) { return r->manifest.step; }
const char *fm_ckpt_state_json(const fm_ckpt_reader *r) { return r->state_json; }
const char *fm_ckpt_manifest_json(const fm_ckpt_reader *r) { return r->manifest.text; }

int64_t fm_ckpt_count(const fm_ckpt_reader *r) {
    int64_t n = 0;
    for (int64_t i = 0; i < r->n_shards; i++) n += r->shards[i].n;
    return n;
}

static fm_ckpt_entry entry_of(const shard *s, const fm_h5_array *a) {
    fm_ckpt_entry e = {a->name, s->name, a->ndim, a->global_shape, 0};
    for (int64_t b = 0; b < a->n_boxes; b++) e.numel += fm_box_numel(a->ndim, &a->boxes[b]);
    return e;
}

fm_ckpt_entry fm_ckpt_at(const fm_ckpt_reader *r, int64_t i) {
    for (int64_t k = 0; k < r->n_shards; i -= r->shards[k++].n) {
        if (i >= r->shards[k].n) continue;
        return entry_of(&r->shards[k], &r->shards[k].arrays[i]);
    }
    return (fm_ckpt_entry){0};
}

bool fm_ckpt_find(const fm_ckpt_reader *r, const char *name, fm_ckpt_entry *out) {
    int64_t first;
    if (find(r, name, &first) == 0) return false;
    *out = entry_of(r->index[first].shard, r->index[first].array);
    return true;
}

bool fm_ckpt_has(const fm_ckpt_reader *r, const char *name) {
    int64_t first;
    return find(r, name, &first) > 0;
}

static bool same_shape(const fm_h5_array *a, const fm_region *p) {
    if (a->ndim != p->ndim) return false;
    for (int d = 0; d < a->ndim; d++)
        if (a->global_shape[d] != p->global_shape[d]) return false;
    return true;
}

/* Reads what box `box` of array `a` has for the wanted boxes; counts the elements. */
static fm_status read_box(fm_ctx *ctx, const shard *s, const fm_h5_array *a, int64_t box,
                          const fm_region *want, float *out, int64_t *filled) {
    int64_t at = 0;
    for (int64_t i = 0; i < want->n_boxes; i++) {
        const fm_box *to = &want->boxes[i];
        fm_box part;
        if (fm_box_intersect(a->ndim, &a->boxes[box], to, &part)) {
            int64_t n = fm_box_numel(a->ndim, &part);
            *filled += n;
            if (n == fm_box_numel(a->ndim, to)) { /* all of it: straight to its place */
                FM_TRY(fm_h5_read(&ctx->error, s->h5, a, box, &part, out + at));
                at += n;
                continue;
            }
            float *piece = malloc((size_t)n * sizeof *piece);
            FM_CHECK(piece, FM_ERR_OOM, "out of memory: %lld elements of %s", (long long)n,
                     a->name);
            fm_status status = fm_h5_read(&ctx->error, s->h5, a, box, &part, piece);
            if (status == FM_OK) fm_box_copy(a->ndim, out + at, to, piece, &part, &part);
            free(piece);
            FM_TRY(status);
        }
        at += fm_box_numel(a->ndim, to);
    }
    return FM_OK;
}

fm_status fm_ckpt_read_host(fm_ctx *ctx, fm_ckpt_reader *r, const fm_ckpt_array *want) {
    const fm_region *p = &want->region;
    int64_t numel = fm_region_numel(p), filled = 0, first, files = find(r, want->name, &first);
    FM_CHECK(files > 0, FM_ERR_CHECKPOINT, "%s: no file has dataset %s", r->path, want->name);
    for (int64_t i = first; i < first + files; i++) {
        const shard *s = r->index[i].shard;
        const fm_h5_array *a = r->index[i].array;
        FM_CHECK(same_shape(a, p), FM_ERR_CHECKPOINT,
                 "%s/%s: dataset %s has another global_shape than the model's parameter", r->path,
                 s->name, a->name);
        for (int64_t b = 0; b < a->n_boxes; b++)
            FM_TRY(read_box(ctx, s, a, b, p, want->data, &filled));
    }
    FM_CHECK(filled == numel, FM_ERR_CHECKPOINT,
             "%s: dataset %s: the files hold %lld of the %lld elements wanted", r->path, want->name,
             (long long)filled, (long long)numel);
    return FM_OK;
}

fm_status fm_ckpt_read(fm_ctx *ctx, fm_ckpt_reader *r, const fm_ckpt_array *want) {
    if (ctx->dev->on_host) return fm_ckpt_read_host(ctx, r, want);
    size_t bytes = (size_t)fm_region_numel(&want->region) * sizeof(float);
    fm_ckpt_array here = *want;
    here.data = malloc(bytes + 1);
    FM_CHECK(here.data, FM_ERR_OOM, "out of memory: %zu bytes of %s", bytes, want->name);
    fm_status status = fm_ckpt_read_host(ctx, r, &here);
    if (status == FM_OK && bytes > 0)
        status = FM_KERNEL(ctx, copy_in, want->data, here.data, bytes);
    free(here.data);
    return status;
}

/* Reads every box of an array through its checksums. */
static fm_status check_chunks(fm_ctx *ctx, const shard *s, const fm_h5_array *a) {
    for (int64_t b = 0; b < a->n_boxes; b++) {
        int64_t n = fm_box_numel(a->ndim, &a->boxes[b]);
        if (n == 0) continue;
        float *data = malloc((size_t)n * sizeof *data);
        FM_CHECK(data, FM_ERR_OOM, "out of memory: %lld elements of %s", (long long)n, a->name);
        fm_status status = fm_h5_read(&ctx->error, s->h5, a, b, &a->boxes[b], data);
        free(data);
        FM_TRY(status);
    }
    return FM_OK;
}

fm_status fm_ckpt_verify(fm_ctx *ctx, const char *path) {
    fm_ckpt_reader *r;
    FM_TRY(fm_ckpt_open(ctx, path, &r));
    fm_status status = FM_OK;
    for (int64_t i = 0; i < r->manifest.n_files; i++) {
        const fm_manifest_file *f = &r->manifest.files[i];
        char file[FM_PATH];
        FM_TRY_GOTO(fm_disk_join(&ctx->error, file, path, f->name));
        /* The chunks first: they can name the dataset. */
        for (int64_t j = 0; j < r->shards[i].n; j++)
            FM_TRY_GOTO(check_chunks(ctx, &r->shards[i], &r->shards[i].arrays[j]));
        FM_TRY_GOTO(check_hash(&ctx->error, file, f));
    }
out:
    fm_ckpt_close(r);
    return status;
}
