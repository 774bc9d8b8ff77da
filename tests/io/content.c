#include "tests/io/content.h"
#include "io/writer.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct {
    const char *name;
    fm_ckpt_group group;
    int ndim;
    int64_t shape[3];
} kinds[CONTENT_ARRAYS] = {
    {"embed.token", FM_CKPT_DENSE, 2, {37, 12}},
    {"norm.weight", FM_CKPT_DENSE, 1, {12}},
    {"layers.1.moe.experts.up.weight", FM_CKPT_EXPERT, 3, {3, 7, 12}},
    {"adamw.m/embed.token", FM_CKPT_OPTIM, 2, {37, 12}},
    {"adamw.v/embed.token", FM_CKPT_OPTIM, 2, {37, 12}},
};

float content_value(int array, int64_t global_index, int seed) {
    uint64_t h = fm_mix64((uint64_t)global_index * 31 + (uint64_t)(array * 1000003 + seed));
    return (float)(h >> 40) / 1024.0f + 1.0f; /* never 0: a hole would show */
}

fm_placement placement_of(int ndim, const int64_t *shape, int n_boxes, const int64_t *numbers) {
    fm_placement p = {.ndim = ndim, .n_boxes = n_boxes};
    for (int d = 0; d < ndim; d++) p.global_shape[d] = shape[d];
    for (int i = 0; i < n_boxes; i++)
        for (int d = 0; d < ndim; d++) {
            p.boxes[i].start[d] = *(numbers + 2 * i * ndim + d);
            p.boxes[i].stop[d] = *(numbers + (2 * i + 1) * ndim + d);
        }
    return p;
}

void content_make(content *c, int64_t step, int seed, int64_t scale, const char *state_json) {
    memset(c, 0, sizeof *c);
    for (int a = 0; a < CONTENT_ARRAYS; a++) {
        fm_placement *p = &c->placements[a];
        p->ndim = kinds[a].ndim;
        p->n_boxes = 1;
        for (int d = 0; d < p->ndim; d++) {
            int64_t size = kinds[a].shape[d] * (d == p->ndim - 2 ? scale : 1);
            p->global_shape[d] = p->boxes[0].stop[d] = size;
        }
        int64_t n = fm_placement_numel(p);
        float *data = malloc((size_t)n * sizeof *data);
        if (!data) abort();
        for (int64_t i = 0; i < n; i++) data[i] = content_value(a, i, seed);
        c->arrays[a] = (fm_ckpt_array){
            .group = kinds[a].group, .region = fm_region_of(p), .data = data};
        snprintf(c->arrays[a].name, sizeof c->arrays[a].name, "%s", kinds[a].name);
    }
    c->checkpoint = (fm_ckpt_content){step, CONTENT_ARRAYS, c->arrays, state_json, NULL};
}

void content_free(content *c) {
    for (int a = 0; a < CONTENT_ARRAYS; a++) free(c->arrays[a].data);
}

void content_clear(content *c) {
    for (int a = 0; a < CONTENT_ARRAYS; a++)
        memset(c->arrays[a].data, 0, (size_t)fm_placement_numel(&c->placements[a]) * sizeof(float));
}

int64_t content_wrong(const content *c, int seed) {
    int64_t wrong = 0;
    for (int a = 0; a < CONTENT_ARRAYS; a++)
        for (int64_t i = 0; i < fm_placement_numel(&c->placements[a]); i++)
            wrong += ((const float *)c->arrays[a].data)[i] != content_value(a, i, seed);
    return wrong;
}

fm_status content_read(fm_ctx *ctx, content *c, const char *root, int64_t step) {
    char path[512];
    snprintf(path, sizeof path, "%s/step_%08lld", root, (long long)step);
    fm_ckpt_reader *r;
    FM_TRY(fm_ckpt_open(ctx, path, &r));
    fm_status status = FM_OK;
    for (int a = 0; status == FM_OK && a < CONTENT_ARRAYS; a++)
        status = fm_ckpt_read(ctx, r, &c->arrays[a]);
    fm_ckpt_close(r);
    return status;
}

fm_status content_write_ranks(fm_ctx *ctx, const char *root, int n,
                              const fm_ckpt_content *of_ranks) {
    char tmp[FM_PATH];
    fm_error *err = &ctx->error;
    fm_notes notes = {0};
    fm_manifest all = {
        .step = of_ranks[0].step, .world_size = n, .dp = 1, .layout = {n, 1, 1, 1, 1}};
    fm_status status = fm_disk_make_folders(err, NULL, root);
    if (status == FM_OK) status = fm_commit_begin(err, NULL, root, all.step, tmp);
    for (int rank = 0; status == FM_OK && rank < n; rank++) {
        fm_mesh mesh = {.at = {.rank = rank, .tp_rank = rank, .world_size = n, .dp = 1}};
        fm_snapshot *s;
        FM_TRY(fm_snapshot_take(ctx, &mesh, &of_ranks[rank], 0, false, &s));
        status = fm_snapshot_write(err, NULL, tmp, s);
        for (int64_t i = 0; status == FM_OK && i < s->manifest.n_files; i++)
            status = fm_manifest_add(err, &all, &s->manifest.files[i]);
        fm_snapshot_free(s);
    }
    if (status == FM_OK) status = fm_commit_seal(err, NULL, root, &all);
    if (status == FM_OK)
        status = fm_commit_end(err, NULL, root, &all, &(fm_commit_plan){1, -1, -1}, &notes);
    fm_manifest_free(&all);
    return status;
}
