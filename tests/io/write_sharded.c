/* Writes step 1 of a two-rank checkpoint below the folder given: w = 0..71 as [12, 6] in slices of
 * three boxes, adamw.m/w = its negative in flat fragments. For tests of other readers. */
#include "io/commit.h"
#include "io/writer.h"
#include "tests/io/content.h"

#include <stdio.h>

static fm_status write_rank(fm_ctx *ctx, const char *tmp, int rank, fm_manifest *all) {
    const int64_t shape[] = {12, 6};
    int64_t o = 2 * rank;
    fm_placement slice = placement_of(
        2, shape, 3, (int64_t[]){o, 0, o + 2, 6, o + 4, 0, o + 6, 6, o + 8, 0, o + 10, 6});
    fm_placement flat = rank == 0 ? placement_of(2, shape, 2, (int64_t[]){0, 0, 5, 6, 5, 0, 6, 3})
                                  : placement_of(2, shape, 2, (int64_t[]){5, 3, 6, 6, 6, 0, 12, 6});
    float w[72], m[72];
    for (int64_t i = 0; i < fm_placement_numel(&slice); i++)
        w[i] = (float)fm_placement_global_index(&slice, i);
    for (int64_t i = 0; i < fm_placement_numel(&flat); i++)
        m[i] = -(float)fm_placement_global_index(&flat, i);
    fm_ckpt_array arrays[] = {
        {.name = "w", .group = FM_CKPT_DENSE, .placement = &slice, .data = w},
        {.name = "adamw.m/w", .group = FM_CKPT_OPTIM, .placement = &flat, .data = m}};
    fm_ckpt_content both = {1, 2, arrays, "{}"};
    fm_mesh mesh = {.at = {.rank = rank, .tp_rank = rank, .world_size = 2, .dp = 1}};
    fm_snapshot *s;
    FM_TRY(fm_snapshot_take(ctx, &mesh, &both, 0, false, &s));
    fm_status status = fm_snapshot_write(&ctx->error, NULL, tmp, s);
    for (int64_t i = 0; i < s->manifest.n_files; i++)
        all->files[all->n_files++] = s->manifest.files[i];
    fm_snapshot_free(s);
    return status;
}

static fm_status write_all(fm_ctx *ctx, const char *root) {
    char tmp[FM_PATH];
    fm_notes notes = {0};
    fm_manifest_file files[8] = {0};
    fm_manifest all = {
        .step = 1, .world_size = 2, .dp = 1, .layout = {2, 1, 1, 1, 1}, .files = files};
    FM_TRY(fm_commit_begin(&ctx->error, NULL, root, 1, tmp));
    for (int rank = 0; rank < 2; rank++) FM_TRY(write_rank(ctx, tmp, rank, &all));
    FM_TRY(fm_commit_seal(&ctx->error, NULL, root, &all));
    return fm_commit_end(&ctx->error, NULL, root, &all, &(fm_commit_plan){1, -1, -1}, &notes);
}

int main(int argc, char **argv) {
    fm_ctx *ctx;
    if (argc != 2) {
        fprintf(stderr, "usage: write_sharded FOLDER\n");
        return 2;
    }
    if (fm_ctx_new("cpu", NULL, NULL, 0, &ctx) != FM_OK) return 1;
    fm_status status = write_all(ctx, argv[1]);
    if (status != FM_OK) fprintf(stderr, "write_sharded: %s\n", ctx->error.message);
    fm_ctx_free(ctx);
    return status != FM_OK;
}
