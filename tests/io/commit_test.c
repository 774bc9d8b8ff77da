/* What the two renames of a replacement leave behind, and that no cleaning takes the last copy. */
#include "io/commit.h"
#include "tests/io/check.h"
#include "tests/io/content.h"

#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

static char root[512];

static fm_status open_root(fm_ctx *ctx, const char *name, fm_mesh **mesh, fm_checkpointer **k) {
    fm_mesh_config config = fm_mesh_config_default();
    snprintf(root, sizeof root, "%s/%s", test_folder(), name);
    fm_ckpt_config c = {root, 2, false, 0};
    *k = NULL;
    fm_status status = fm_mesh_new(ctx, &config, NULL, mesh);
    return status == FM_OK ? fm_checkpointer_new(ctx, *mesh, &c, k) : status;
}

/* The n-th call of a save over an existing step fails, n = 0, 1, 2 ...: whoever opens the step by
 * its path, without listing first, finds the one before or the new one, whole; and the save says
 * which: what fails once the new one is there is no failure of the save. */
static void replacing(fm_ctx *ctx) {
    fm_mesh *mesh;
    fm_checkpointer *k;
    content c, next;
    CHECK_OK(open_root(ctx, "replacing", &mesh, &k));
    content_make(&c, 1, 8, 1, "{}");
    content_make(&next, 1, 9, 1, "{}");
    CHECK_OK(fm_checkpointer_save(ctx, k, &c.checkpoint));
    bool replaced = false;
    int64_t n = 0, afterwards = 0;
    for (;; n++) {
        CHECK(n < 500, "the save never succeeds");
        fm_checkpointer_fail_at(k, n, EDQUOT);
        fm_status status = fm_checkpointer_save(ctx, k, &next.checkpoint);
        const char *notes = fm_checkpointer_notes(k);
        if (status == FM_OK && !notes) break;
        CHECK(status == FM_OK || status == FM_ERR_IO, "call %lld: %s", (long long)n,
              ctx->error.message);
        if (status == FM_OK) {
            CHECK(strstr(notes, "step 1 is saved") && strstr(notes, "quota exceeded"), "%s", notes);
            afterwards++;
        }
        fm_error_clear(&ctx->error);
        content_clear(&c);
        CHECK_OK(content_read(ctx, &c, root, 1));
        bool is_new = content_wrong(&c, 9) == 0;
        CHECK(is_new || content_wrong(&c, 8) == 0, "call %lld: damaged", (long long)n);
        CHECK(is_new || !replaced, "call %lld: the one before is back", (long long)n);
        CHECK(status == FM_ERR_IO || is_new, "call %lld: saved, it says", (long long)n);
        CHECK(status == FM_OK || replaced || !is_new, "call %lld: not saved, it says",
              (long long)n);
        replaced = is_new;
    }
    CHECK(n > 20 && afterwards > 3, "only %lld calls could fail, %lld after the commit",
          (long long)n, (long long)afterwards);
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

/* Something below `folder` that cannot be removed, not even by root: its path is too long for us. */
static bool make_stubborn(const char *folder) {
    char name[250], here[FM_PATH];
    memset(name, 'x', sizeof name - 1);
    name[sizeof name - 1] = 0;
    if (!getcwd(here, sizeof here)) return false;
    bool good = (mkdir(folder, 0755) == 0 || errno == EEXIST) && chdir(folder) == 0;
    for (int i = 0; good && i < 5; i++) good = mkdir(name, 0755) == 0 && chdir(name) == 0;
    return chdir(here) == 0 && good;
}

/* What cannot be deleted, before a save or after its commit, does not spoil it. */
static void undeletable(fm_ctx *ctx) {
    fm_mesh *mesh;
    fm_checkpointer *k;
    content c;
    char first[600], latest[600], text[64] = "";
    CHECK_OK(open_root(ctx, "undeletable", &mesh, &k));
    content_make(&c, 1, 2, 1, "{}");
    CHECK_OK(fm_checkpointer_save(ctx, k, &c.checkpoint));
    snprintf(first, sizeof first, "%s/step_00000001", root);
    CHECK(make_stubborn(first), "cannot be arranged");
    for (c.checkpoint.step = 2; c.checkpoint.step <= 4; c.checkpoint.step++) {
        static const char *const wanted[] = {NULL, "step 3 is saved", "a leftover stays"};
        const char *want = wanted[c.checkpoint.step - 2];
        CHECK_OK(fm_checkpointer_save(ctx, k, &c.checkpoint));
        const char *notes = fm_checkpointer_notes(k);
        CHECK(!notes == !want, "step %lld: %s", (long long)c.checkpoint.step,
              notes ? notes : "no notes");
        CHECK(!want || (strstr(notes, want) && strstr(notes, "step_00000001.dead")), "%s", notes);
        CHECK(!fm_checkpointer_notes(k), "they are told once");
        CHECK_OK(content_read(ctx, &c, root, c.checkpoint.step));
    }
    snprintf(latest, sizeof latest, "%s/latest", root);
    FILE *f = fopen(latest, "r");
    CHECK(f && fgets(text, sizeof text, f), "%s", latest);
    fclose(f);
    CHECK(strcmp(text, "step_00000004\n") == 0, "%s", text);
    content_free(&c);
    fm_checkpointer_free(k);
    fm_mesh_free(mesh);
}

/* The second rename of a writer that replaces step_5: it comes while the reader pauses, the third time,
 * however fast or slow the machine is. */
static struct second_rename {
    char tmp[600], path[600];
    int pauses, failed;
} second;

/* libc's, as every part of this program calls it. */
/* NOLINTNEXTLINE(readability-inconsistent-declaration-parameter-name): libc's names are reserved */
int nanosleep(const struct timespec *wanted, struct timespec *left) {
    if (second.path[0] && ++second.pauses == 3)
        second.failed = rename(second.tmp, second.path) ? errno : 0;
    return clock_nanosleep(CLOCK_REALTIME, 0, wanted, left) ? -1 : 0;
}

/* A reader that comes between the two waits, and does not put step_5.old in the writer's way. */
static void reader_between(fm_ctx *ctx) {
    fm_mesh *mesh;
    fm_checkpointer *k;
    content c;
    CHECK_OK(open_root(ctx, "between", &mesh, &k));
    content_make(&c, 5, 3, 1, "{}");
    CHECK_OK(fm_checkpointer_save(ctx, k, &c.checkpoint));
    c.checkpoint.step = 6;
    CHECK_OK(fm_checkpointer_save(ctx, k, &c.checkpoint));
    char old[610];
    int lock, n;
    int64_t *steps;
    CHECK_OK(fm_disk_lock(&ctx->error, root, &lock));
    snprintf(second.path, sizeof second.path, "%s/step_00000005", root);
    snprintf(second.tmp, sizeof second.tmp, "%s/step_00000006", root);
    snprintf(old, sizeof old, "%s.old", second.path);
    CHECK(rename(second.path, old) == 0, "rename");
    fm_status status = fm_checkpoint_list(ctx, root, &steps, &n);
    second.path[0] = 0;
    fm_disk_unlock(lock);
    CHECK_OK(status);
    CHECK(second.pauses == 3, "%d pauses", second.pauses);
    CHECK(second.failed == 0, "the writer's rename: %s", strerror(second.failed));
    CHECK(n == 1 && steps[0] == 5, "%d steps", n);
    free(steps);
    content_free(&c);
    fm_checkpointer_free(k);
    fm_mesh_free(mesh);
}

/* A manifest that reading would refuse is not written: the checkpoint would be lost. Names of
 * characters that JSON writes as six make one of that length from few files. */
static void manifest_limit(fm_ctx *ctx) {
    char path[600];
    snprintf(path, sizeof path, "%s/manifest.json", test_folder());
    fm_manifest m = {.step = 1, .world_size = 1, .dp = 1, .layout = {1, 1, 1, 1, 0}};
    enum { MANY = 160000 };
    m.files = calloc(MANY, sizeof *m.files);
    CHECK(m.files, "no memory");
    for (int i = 0; i < MANY; i++) {
        memset(m.files[i].name, 1, sizeof m.files[i].name - 1);
        memset(m.files[i].hash, 'a', FM_HASH - 1);
    }
    int64_t bytes[2];
    struct stat st;
    for (int i = 0; i < 2; i++) {
        m.n_files = 1 + i;
        CHECK_OK(fm_manifest_write(&ctx->error, NULL, path, &m));
        CHECK(stat(path, &st) == 0 && unlink(path) == 0, "%s", path);
        bytes[i] = st.st_size;
    }
    m.n_files = 1 + (FM_MANIFEST_LIMIT - bytes[0]) / (bytes[1] - bytes[0]);
    CHECK_OK(fm_manifest_write(&ctx->error, NULL, path, &m));
    CHECK(stat(path, &st) == 0 && st.st_size <= FM_MANIFEST_LIMIT, "%lld bytes",
          (long long)st.st_size);
    CHECK(unlink(path) == 0 && m.n_files < MANY, "%lld files", (long long)m.n_files);
    m.n_files++;
    CHECK_FAILS(fm_manifest_write(&ctx->error, NULL, path, &m), FM_ERR_VALUE, path,
                "allowed are 67108864");
    CHECK(access(path, F_OK) != 0, "%s is there", path);
    fm_manifest_free(&m);
}

static const test_case cases[] = {{"replacing", replacing},
                                  {"last_copy_stays", last_copy_stays},
                                  {"undeletable", undeletable},
                                  {"reader_between", reader_between},
                                  {"manifest_limit", manifest_limit}};
TEST_MAIN(cases)
