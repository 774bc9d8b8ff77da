#include "io/writer.h"

#include "io/h5.h"

#include <stdio.h>
#include <stdlib.h>

void fm_snapshot_free(fm_snapshot *s) {
    if (!s) return;
    for (int i = 0; i < s->n; i++)
        if (!s->arrays[i].borrowed) free(s->arrays[i].data);
    free(s->arrays);
    free(s->state_json);
    fm_manifest_free(&s->manifest);
    free(s);
}

static int by_name(const void *a, const void *b) {
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static fm_status check_names(fm_ctx *ctx, const fm_ckpt_content *c) {
    const char **names = malloc(((size_t)c->n_arrays + 1) * sizeof *names);
    FM_CHECK(names, FM_ERR_OOM, "out of memory: the names of %d arrays", c->n_arrays);
    for (int i = 0; i < c->n_arrays; i++) names[i] = c->arrays[i].name;
    if (c->n_arrays > 0) qsort(names, (size_t)c->n_arrays, sizeof *names, by_name);
    const char *twice = NULL;
    for (int i = 1; i < c->n_arrays && !twice; i++)
        if (strcmp(names[i - 1], names[i]) == 0) twice = names[i];
    free(names);
    FM_CHECK(!twice, FM_ERR_VALUE, "checkpoint: two arrays are called %s", twice);
    return FM_OK;
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
    s->rank = mesh->at.rank, s->pp_rank = mesh->at.pp_rank, s->tp_rank = mesh->at.tp_rank;
    s->ep_rank = mesh->at.ep_rank, s->etp_rank = mesh->at.etp_rank;
    s->compression = compression;
    s->state_json = strdup(content->state_json);
    s->arrays = calloc((size_t)content->n_arrays + 1, sizeof *s->arrays);
    FM_CHECK_GOTO(s->arrays && s->state_json, FM_ERR_OOM, "out of memory: a checkpoint's record");
    for (int i = 0; i < content->n_arrays; i++) {
        const fm_ckpt_array *a = &content->arrays[i];
        fm_snapshot_array *copy = &s->arrays[i];
        size_t bytes = (size_t)fm_placement_numel(a->placement) * sizeof(float);
        snprintf(copy->name, sizeof copy->name, "%s", a->name);
        copy->group = a->group;
        copy->placement = *a->placement;
        copy->borrowed = borrow && ctx->dev->on_host;
        copy->data = copy->borrowed ? a->data : malloc(bytes ? bytes : 1);
        FM_CHECK_GOTO(copy->data || bytes == 0, FM_ERR_OOM, "out of memory: %zu bytes to save %s",
                      bytes, a->name);
        s->n++;
        if (bytes && !copy->borrowed)
            FM_TRY_GOTO(FM_KERNEL(ctx, copy_out, copy->data, a->data, bytes));
    }
    *out = s;
out:
    if (status != FM_OK) fm_snapshot_free(s);
    return status;
}

/* The file of a group: named after the part of the mesh that holds the same data. */
static void file_name(const fm_snapshot *s, fm_ckpt_group group, char *out, size_t n) {
    switch (group) {
    case FM_CKPT_DENSE:
        snprintf(out, n, "dense-pp%02d-tp%02d.h5", s->pp_rank, s->tp_rank);
        break;
    case FM_CKPT_EXPERT:
        snprintf(out, n, "expert-pp%02d-ep%02d-etp%02d.h5", s->pp_rank, s->ep_rank, s->etp_rank);
        break;
    case FM_CKPT_OPTIM:
        snprintf(out, n, "optim-rank%05d.h5", s->rank);
        break;
    }
}

static fm_status add_file(fm_error *err, fm_manifest *m, const char *name) {
    fm_manifest_file *grown = realloc(m->files, (size_t)(m->n_files + 1) * sizeof *grown);
    FM_REQUIRE(err, grown, FM_ERR_OOM, "out of memory: the list of files");
    m->files = grown;
    m->files[m->n_files] = (fm_manifest_file){0};
    snprintf(m->files[m->n_files++].name, sizeof grown->name, "%s", name);
    return FM_OK;
}

static fm_status write_group(fm_error *err, fm_io_env *env, const char *tmp, fm_snapshot *s,
                             fm_ckpt_group group) {
    char name[64], path[FM_PATH];
    fm_h5 *h = NULL;
    fm_status status = FM_OK;
    for (int i = 0; i < s->n; i++) {
        const fm_snapshot_array *a = &s->arrays[i];
        if (a->group != group) continue;
        if (!h) {
            file_name(s, group, name, sizeof name);
            FM_TRY_GOTO(fm_disk_join(err, path, tmp, name));
            FM_TRY_GOTO(fm_h5_create(err, env, path, &h));
            FM_TRY_GOTO(add_file(err, &s->manifest, name));
        }
        FM_TRY_GOTO(fm_h5_write(err, h, a->name, &a->placement, a->data, s->compression));
    }
out:
    if (h) {
        fm_status closed = fm_h5_close(err, h);
        if (status == FM_OK) status = closed;
    }
    return status;
}

static fm_status write_state(fm_error *err, fm_io_env *env, const char *tmp, fm_snapshot *s) {
    char path[FM_PATH];
    fm_h5 *h;
    FM_TRY(fm_disk_join(err, path, tmp, "state.h5"));
    FM_TRY(fm_h5_create(err, env, path, &h));
    fm_status status = fm_h5_write_text(err, h, "state", s->state_json);
    fm_status closed = fm_h5_close(err, h);
    if (status == FM_OK) status = closed;
    return status == FM_OK ? add_file(err, &s->manifest, "state.h5") : status;
}

fm_status fm_snapshot_write(fm_error *err, fm_io_env *env, const char *tmp, fm_snapshot *s) {
    for (fm_ckpt_group g = FM_CKPT_DENSE; g <= FM_CKPT_OPTIM; g++)
        FM_TRY(write_group(err, env, tmp, s, g));
    return s->rank == 0 ? write_state(err, env, tmp, s) : FM_OK;
}
