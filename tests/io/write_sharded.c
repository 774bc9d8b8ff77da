/* Writes step 1 of a two-rank checkpoint below the folder given: w = 0..71 as [12, 6] in slices of
 * three boxes, adamw.m/w = its negative in flat fragments. For tests of other readers. */
#include "tests/io/content.h"

#include <stdio.h>

static fm_status write_all(fm_ctx *ctx, const char *root) {
    const int64_t shape[] = {12, 6};
    static float w[2][72], m[2][72];
    fm_placement slice[2], flat[2];
    fm_ckpt_array arrays[2][2];
    fm_ckpt_content contents[2];
    flat[0] = placement_of(2, shape, 2, (int64_t[]){0, 0, 5, 6, 5, 0, 6, 3});
    flat[1] = placement_of(2, shape, 2, (int64_t[]){5, 3, 6, 6, 6, 0, 12, 6});
    for (int rank = 0; rank < 2; rank++) {
        int64_t o = 2 * rank;
        slice[rank] = placement_of(
            2, shape, 3, (int64_t[]){o, 0, o + 2, 6, o + 4, 0, o + 6, 6, o + 8, 0, o + 10, 6});
        for (int64_t i = 0; i < fm_placement_numel(&slice[rank]); i++)
            w[rank][i] = (float)fm_placement_global_index(&slice[rank], i);
        for (int64_t i = 0; i < fm_placement_numel(&flat[rank]); i++)
            m[rank][i] = -(float)fm_placement_global_index(&flat[rank], i);
        arrays[rank][0] = (fm_ckpt_array){.name = "w",
                                          .group = FM_CKPT_DENSE,
                                          .region = fm_region_of(&slice[rank]),
                                          .data = w[rank]};
        arrays[rank][1] = (fm_ckpt_array){.name = "adamw.m/w",
                                          .group = FM_CKPT_OPTIM,
                                          .region = fm_region_of(&flat[rank]),
                                          .data = m[rank]};
        contents[rank] = (fm_ckpt_content){1, 2, arrays[rank], "{}", NULL};
    }
    return content_write_ranks(ctx, root, 2, contents);
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
