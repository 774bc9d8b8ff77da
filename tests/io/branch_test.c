/* Which step a folder goes on from: two runs are not mixed, and a run that went back leaves what it had
 * saved after that aside, whole. */
#include "io/steps.h"
#include "tests/io/check.h"
#include "tests/io/content.h"

#include <dirent.h>
#include <unistd.h>

static char root[512];

static fm_status open_root(fm_ctx *ctx, const char *name, fm_mesh **mesh, fm_checkpointer **k) {
    fm_mesh_config config = fm_mesh_config_default();
    if (name) snprintf(root, sizeof root, "%s/%s", test_folder(), name);
    fm_ckpt_config c = {root, 3, false, 0};
    *k = NULL;
    fm_status status = fm_mesh_new(ctx, &config, NULL, mesh);
    return status == FM_OK ? fm_checkpointer_new(ctx, *mesh, &c, k) : status;
}

/* Content of a step has the step as its seed. */
static fm_status save(fm_ctx *ctx, fm_checkpointer *k, int64_t step, int seed) {
    content c;
    content_make(&c, step, seed, 1, "{}");
    fm_status status = fm_checkpointer_save(ctx, k, &c.checkpoint);
    content_free(&c);
    return status;
}

/* All names in root, but `latest`, sorted, one space behind each. */
static const char *names(void) {
    static char text[2048];
    struct dirent **entries;
    int n = scandir(root, &entries, NULL, alphasort);
    text[0] = 0;
    for (int i = 0; i < n; i++) {
        const char *name = entries[i]->d_name;
        if (name[0] != '.' && strncmp(name, "latest", 6) != 0)
            snprintf(text + strlen(text), sizeof text - strlen(text), "%s ", name);
        free(entries[i]);
    }
    if (n >= 0) free(entries);
    return text;
}

static bool holds(fm_ctx *ctx, const char *name, int seed) {
    char path[600];
    content c;
    content_make(&c, 1, 0, 1, "{}");
    content_clear(&c);
    snprintf(path, sizeof path, "%s/%s", root, name);
    fm_ckpt_reader *r;
    fm_status status = fm_ckpt_open(ctx, path, &r);
    for (int a = 0; status == FM_OK && a < CONTENT_ARRAYS; a++)
        status = fm_ckpt_read(ctx, r, &c.arrays[a]);
    if (status == FM_OK) fm_ckpt_close(r);
    bool good = status == FM_OK && content_wrong(&c, seed) == 0;
    content_free(&c);
    return good;
}

#define OLD_RUN "step_00000100 step_00000200 step_00000300 "

/* 100, 200, 300 of a run that has ended. */
static fm_status old_run(fm_ctx *ctx, const char *name) {
    fm_mesh *mesh;
    fm_checkpointer *k;
    fm_status status = open_root(ctx, name, &mesh, &k);
    for (int step = 100; status == FM_OK && step <= 300; step += 100)
        status = save(ctx, k, step, step);
    fm_checkpointer_free(k);
    fm_mesh_free(mesh);
    return status;
}

static void another_run_is_refused(fm_ctx *ctx) {
    fm_mesh *mesh;
    fm_checkpointer *k;
    CHECK_OK(old_run(ctx, "refused"));
    CHECK_OK(open_root(ctx, NULL, &mesh, &k));
    CHECK_FAILS(save(ctx, k, 10, 10), FM_ERR_VALUE, "step 10 was not saved", "below step 300", root,
                "another folder", "load first");
    CHECK(strcmp(names(), OLD_RUN) == 0, "%s", names());
    CHECK_FAILS(save(ctx, k, 300, 7), FM_ERR_VALUE, "step 300 was not saved", "already step 300",
                root, "another folder", "load first");
    CHECK(holds(ctx, "step_00000300", 300), "step 300 is replaced");
    /* Higher ones are not, and then its own may be replaced. */
    CHECK_OK(save(ctx, k, 310, 311));
    CHECK_OK(save(ctx, k, 310, 310));
    CHECK(holds(ctx, "step_00000310", 310), "step 310 is not replaced");
    CHECK(strcmp(names(), "step_00000200 step_00000300 step_00000310 ") == 0, "%s", names());
    /* also for the run that saved them, until it loads */
    CHECK_FAILS(save(ctx, k, 250, 1), FM_ERR_VALUE, "below step 310", "step 310 was", "load");
    CHECK(!fm_checkpointer_notes(k), "there is nothing to say");
    fm_checkpointer_free(k);
    fm_mesh_free(mesh);
}

static void going_back(fm_ctx *ctx) {
    fm_mesh *mesh;
    fm_checkpointer *k;
    CHECK_OK(old_run(ctx, "back"));
    CHECK_OK(open_root(ctx, NULL, &mesh, &k));
    fm_checkpointer_loaded(k, 100, 300);
    CHECK_FAILS(save(ctx, k, 90, 1), FM_ERR_VALUE, "below step 300", "step 100");
    CHECK(strcmp(names(), OLD_RUN) == 0, "%s", names());
    CHECK_OK(save(ctx, k, 110, 110));
    const char *notes = fm_checkpointer_notes(k);
    CHECK(notes && strstr(notes, "went back to step 100") && strstr(notes, "2 checkpoints") &&
              strstr(notes, "step_00000300.abandoned"),
          "%s", notes ? notes : "no notes");
    CHECK(strcmp(names(), "step_00000100 step_00000110 step_00000200.abandoned "
                          "step_00000300.abandoned ") == 0,
          "%s", names());
    CHECK(holds(ctx, "step_00000300.abandoned", 300), "it is whole");
    /* The old branch counts for nothing, and nothing takes it away. */
    CHECK_OK(save(ctx, k, 200, 201));
    CHECK_OK(save(ctx, k, 210, 210));
    CHECK_OK(save(ctx, k, 220, 220));
    CHECK(!fm_checkpointer_notes(k), "said already");
    CHECK(strcmp(names(), "step_00000200 step_00000200.abandoned step_00000210 step_00000220 "
                          "step_00000300.abandoned ") == 0,
          "%s", names());
    /* A step that is saved again, and a step beyond what was left; the names are taken. */
    fm_checkpointer_loaded(k, 200, 220);
    CHECK_OK(save(ctx, k, 220, 221));
    CHECK(strcmp(names(), "step_00000200 step_00000200.abandoned step_00000210.abandoned "
                          "step_00000220 step_00000220.abandoned step_00000300.abandoned ") == 0,
          "%s", names());
    CHECK(holds(ctx, "step_00000220.abandoned", 220) && holds(ctx, "step_00000220", 221), "220");
    fm_checkpointer_loaded(k, 200, 220);
    CHECK_OK(save(ctx, k, 1000, 1000));
    CHECK(strcmp(names(), "step_00000200 step_00000200.abandoned step_00000210.abandoned "
                          "step_00000220.abandoned step_00000220.abandoned2 "
                          "step_00000300.abandoned step_00001000 ") == 0,
          "%s", names());
    fm_checkpointer_free(k);
    fm_mesh_free(mesh);
}

/* What came after the load is not this run's to set aside. */
static void somebody_else_went_on(fm_ctx *ctx) {
    fm_mesh *mesh, *mesh2;
    fm_checkpointer *k, *other;
    CHECK_OK(old_run(ctx, "somebody"));
    CHECK_OK(open_root(ctx, NULL, &mesh, &k));
    CHECK_OK(open_root(ctx, NULL, &mesh2, &other));
    fm_checkpointer_loaded(k, 200, 300);
    fm_checkpointer_loaded(other, 300, 300);
    CHECK_OK(save(ctx, other, 310, 310));
    CHECK_FAILS(save(ctx, k, 210, 1), FM_ERR_VALUE, "below step 310", "step 200");
    CHECK_FAILS(save(ctx, k, 310, 1), FM_ERR_VALUE, "already step 310", "step 200");
    CHECK(holds(ctx, "step_00000310", 310), "somebody else's is replaced");
    CHECK(strcmp(names(), "step_00000200 step_00000300 step_00000310 ") == 0, "%s", names());
    fm_checkpointer_free(other);
    fm_checkpointer_free(k);
    fm_mesh_free(mesh2);
    fm_mesh_free(mesh);
}

/* The n-th call of the save after going back fails: the newest is the old branch's or the new step. */
static void going_back_fails(fm_ctx *ctx) {
    bool done = false;
    int afterwards = 0;
    for (int64_t n = 0; !done; n++) {
        char name[32];
        fm_mesh *mesh;
        fm_checkpointer *k;
        snprintf(name, sizeof name, "fails%lld", (long long)n);
        CHECK(n < 500, "the save never succeeds");
        CHECK_OK(old_run(ctx, name));
        CHECK_OK(open_root(ctx, NULL, &mesh, &k));
        fm_checkpointer_loaded(k, 100, 300);
        fm_checkpointer_fail_at(k, n, ENOSPC);
        fm_status status = save(ctx, k, 110, 110);
        const char *notes = fm_checkpointer_notes(k);
        done = status == FM_OK && !strstr(notes, "No space");
        afterwards += status == FM_OK && !done;
        if (status == FM_OK) {
            CHECK(notes && strstr(notes, "step 110 is saved") && strstr(notes, ".abandoned"), "%s",
                  notes ? notes : "no notes");
            CHECK(holds(ctx, "step_00000110", 110), "call %lld", (long long)n);
            CHECK(holds(ctx, "step_00000300.abandoned", 300), "call %lld", (long long)n);
        } else {
            CHECK(status == FM_ERR_IO && strstr(ctx->error.message, "110 was not saved"), "%s",
                  ctx->error.message);
            fm_error_clear(&ctx->error);
            CHECK(strcmp(names(), OLD_RUN) == 0, "call %lld: %s", (long long)n, names());
        }
        fm_checkpointer_free(k);
        fm_mesh_free(mesh);
    }
    CHECK(afterwards > 3, "%d", afterwards);
}

static const test_case cases[] = {{"another_run_is_refused", another_run_is_refused},
                                  {"going_back", going_back},
                                  {"somebody_else_went_on", somebody_else_went_on},
                                  {"going_back_fails", going_back_fails}};
TEST_MAIN(cases)
