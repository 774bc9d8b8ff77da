/* What the two renames of a replacement leave behind, and that no cleaning takes the last copy. */
#include "tests/io/check.h"
#include "tests/io/content.h"

#include <errno.h>
#include <sys/stat.h>
#include <unistd.h>

static char root[512];

static fm_status open_root(fm_ctx *ctx, const char *name, fm_mesh **mesh, fm_checkpointer **k) {
    fm_mesh_config config = fm_mesh_config_default();
    snprintf(root, sizeof root, "%s/%s", test_folder(), name);
    fm_ckpt_config c = {root, 2, false, 0};
    *k = NULL;
    fm_status status = fm_mesh_new(ctx, &config, 0, 1, mesh);
    return status == FM_OK ? fm_checkpointer_new(ctx, *mesh, &c, k) : status;
}

/* The n-th call of a save over an existing step fails, n = 0, 1, 2 ...: whoever opens the step by
 * its path, without listing first, finds the one before or the new one, whole. */
static void replacing(fm_ctx *ctx) {
    fm_mesh *mesh;
    fm_checkpointer *k;
    content c, next;
    CHECK_OK(open_root(ctx, "replacing", &mesh, &k));
    content_make(&c, 1, 8, 1, "{}");
    content_make(&next, 1, 9, 1, "{}");
    CHECK_OK(fm_checkpointer_save(ctx, k, &c.checkpoint));
    bool replaced = false;
    int64_t n = 0;
    for (;; n++) {
        CHECK(n < 500, "the save never succeeds");
        fm_checkpointer_fail_at(k, n, EDQUOT);
        fm_status status = fm_checkpointer_save(ctx, k, &next.checkpoint);
        if (status == FM_OK) break;
        CHECK(status == FM_ERR_IO, "call %lld: %s", (long long)n, ctx->error.message);
        fm_error_clear(&ctx->error);
        content_clear(&c);
        CHECK_OK(content_read(ctx, &c, root, 1));
        bool is_new = content_wrong(&c, 9) == 0;
        CHECK(is_new || content_wrong(&c, 8) == 0, "call %lld: damaged", (long long)n);
        CHECK(is_new || !replaced, "call %lld: the one before is back", (long long)n);
        replaced = is_new;
    }
    CHECK(n > 20, "only %lld calls could fail", (long long)n);
    content_clear(&c);
    CHECK_OK(content_read(ctx, &c, root, 1));
    CHECK(content_wrong(&c, 9) == 0, "the new one is read");
    content_free(&c);
    content_free(&next);
    fm_checkpointer_free(k);
    fm_mesh_free(mesh);
}

/* step_5.old is whole and cannot be put back, because something without a manifest lies in its
 * place: the next save must not sweep it away. */
static void last_copy_stays(fm_ctx *ctx) {
    fm_mesh *mesh;
    fm_checkpointer *k;
    content c, next;
    CHECK_OK(open_root(ctx, "last_copy", &mesh, &k));
    content_make(&c, 5, 3, 1, "{}");
    content_make(&next, 6, 4, 1, "{}");
    CHECK_OK(fm_checkpointer_save(ctx, k, &c.checkpoint));
    char path[600], old[610];
    snprintf(path, sizeof path, "%s/step_00000005", root);
    snprintf(old, sizeof old, "%s.old", path);
    CHECK(rename(path, old) == 0 && mkdir(path, 0755) == 0, "cannot be arranged");
    /* Before its first rename a failing save has only swept. */
    fm_checkpointer_fail_at(k, 4, ENOSPC);
    CHECK_FAILS(fm_checkpointer_save(ctx, k, &next.checkpoint), FM_ERR_IO, "step 6");
    CHECK_OK(fm_ckpt_verify(ctx, old));
    fm_checkpointer_fail_at(k, -1, 0);
    CHECK_OK(fm_checkpointer_save(ctx, k, &next.checkpoint));
    CHECK_OK(fm_ckpt_verify(ctx, old));
    CHECK(rmdir(path) == 0, "rmdir");
    int64_t *steps;
    int n;
    CHECK_OK(fm_checkpoint_list(ctx, root, &steps, &n));
    CHECK(n == 2 && steps[0] == 5 && steps[1] == 6, "%d steps", n);
    free(steps);
    content_clear(&c);
    CHECK_OK(content_read(ctx, &c, root, 5));
    CHECK(content_wrong(&c, 3) == 0, "step 5 is damaged");
    /* Where step_5 is whole, step_5.old is a leftover. */
    CHECK(mkdir(old, 0755) == 0, "mkdir");
    CHECK_OK(fm_checkpointer_save(ctx, k, &next.checkpoint));
    CHECK(access(old, F_OK) != 0, "%s is left", old);
    content_free(&c);
    content_free(&next);
    fm_checkpointer_free(k);
    fm_mesh_free(mesh);
}

static const test_case cases[] = {{"replacing", replacing}, {"last_copy_stays", last_copy_stays}};
TEST_MAIN(cases)
