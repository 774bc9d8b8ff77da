/* Saving and reading back; retention; resharding; what is refused. */
#include "io/commit.h"
#include "tests/io/check.h"
#include "tests/io/content.h"

#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

static const char *root_of(const char *name) {
    static char path[512];
    snprintf(path, sizeof path, "%s/%s", test_folder(), name);
    return path;
}

static fm_checkpointer *checkpointer(fm_ctx *ctx, fm_mesh **mesh, const char *root, int keep_last,
                                     bool asynchronous, int compression) {
    fm_checkpointer *k = NULL;
    fm_mesh_config config = fm_mesh_config_default();
    if (fm_mesh_new(ctx, &config, NULL, mesh) != FM_OK) return NULL;
    fm_ckpt_config c = {root, keep_last, asynchronous, compression};
    (void)fm_checkpointer_new(ctx, *mesh, &c, &k);
    return k;
}

static void round_trip(fm_ctx *ctx, const char *name, bool asynchronous, int compression) {
    const char *root = root_of(name);
    fm_mesh *mesh;
    content c;
    content_make(&c, 100, 1, 1, "{\"position\": 7}");
    fm_checkpointer *k = checkpointer(ctx, &mesh, root, 2, asynchronous, compression);
    CHECK(k, "%s", ctx->error.message);
    CHECK_OK(fm_checkpointer_save(ctx, k, &c.checkpoint));
    content_clear(&c); /* the save has its own copy by now */
    CHECK_OK(fm_checkpointer_wait(ctx, k));
    CHECK_OK(content_read(ctx, &c, root, 100));
    CHECK(content_wrong(&c, 1) == 0, "%lld elements", (long long)content_wrong(&c, 1));
    char path[600];
    snprintf(path, sizeof path, "%s/step_00000100", root);
    CHECK_OK(fm_ckpt_verify(ctx, path));
    fm_ckpt_reader *r;
    CHECK_OK(fm_ckpt_open(ctx, path, &r));
    CHECK(fm_ckpt_step(r) == 100, "step %lld", (long long)fm_ckpt_step(r));
    CHECK(strcmp(fm_ckpt_state_json(r), "{\"position\": 7}") == 0, "%s", fm_ckpt_state_json(r));
    CHECK(fm_ckpt_count(r) == CONTENT_ARRAYS, "%lld arrays", (long long)fm_ckpt_count(r));
    CHECK(fm_ckpt_has(r, "adamw.m/embed.token"), "moments");
    CHECK(!fm_ckpt_has(r, "embed"), "a prefix is no name");
    fm_ckpt_close(r);
    fm_checkpointer_free(k);
    fm_mesh_free(mesh);
    content_free(&c);
}

static void sync_round_trip(fm_ctx *ctx) { round_trip(ctx, "sync", false, 0); }
static void async_round_trip(fm_ctx *ctx) { round_trip(ctx, "async", true, 0); }
static void gzip_round_trip(fm_ctx *ctx) { round_trip(ctx, "gzip", false, 4); }

static void retention(fm_ctx *ctx) {
    const char *root = root_of("retention");
    fm_mesh *mesh;
    fm_checkpointer *k = checkpointer(ctx, &mesh, root, 2, true, 0);
    CHECK(k, "%s", ctx->error.message);
    for (int64_t step = 10; step <= 50; step += 10) {
        content c;
        content_make(&c, step, (int)step, 1, "{}");
        CHECK_OK(fm_checkpointer_save(ctx, k, &c.checkpoint));
        content_free(&c);
    }
    CHECK_OK(fm_checkpointer_wait(ctx, k));
    int64_t *steps;
    int n;
    CHECK_OK(fm_checkpoint_list(ctx, root, &steps, &n));
    CHECK(n == 2 && steps[0] == 40 && steps[1] == 50, "%d steps, first %lld", n,
          n ? (long long)steps[0] : -1);
    free(steps);
    /* Deleting takes time: a poll, between two steps of training, leaves it to who waits. */
    content next;
    content_make(&next, 60, 60, 1, "{}");
    CHECK_OK(fm_checkpointer_save(ctx, k, &next.checkpoint));
    content_free(&next);
    char dead[600];
    snprintf(dead, sizeof dead, "%s/step_00000040.dead", root);
    while (access(dead, F_OK) != 0) CHECK_OK(fm_checkpointer_poll(ctx, k));
    CHECK_OK(fm_checkpointer_wait(ctx, k));
    CHECK(access(dead, F_OK) != 0, "%s is left", dead);
    CHECK_OK(fm_checkpoint_list(ctx, root, &steps, &n));
    CHECK(n == 2 && steps[0] == 50 && steps[1] == 60, "%d steps", n);
    free(steps);
    /* the same step again: replaced, nothing left beside it */
    content c;
    content_make(&c, 60, 99, 1, "{}");
    CHECK_OK(fm_checkpointer_save(ctx, k, &c.checkpoint));
    CHECK_OK(fm_checkpointer_wait(ctx, k));
    CHECK_OK(content_read(ctx, &c, root, 60));
    CHECK(content_wrong(&c, 99) == 0, "the new one is read");
    char path[600];
    snprintf(path, sizeof path, "%s/step_00000060.old", root);
    CHECK(access(path, F_OK) != 0, "%s is left", path);
    content_free(&c);
    fm_checkpointer_free(k);
    fm_mesh_free(mesh);
}

/* A run died between the two renames of a replacement. */
static void aside_is_put_back(fm_ctx *ctx) {
    const char *root = root_of("aside");
    fm_mesh *mesh;
    content c;
    content_make(&c, 5, 3, 1, "{}");
    fm_checkpointer *k = checkpointer(ctx, &mesh, root, 2, false, 0);
    CHECK_OK(fm_checkpointer_save(ctx, k, &c.checkpoint));
    char path[600], old[610];
    snprintf(path, sizeof path, "%s/step_00000005", root);
    snprintf(old, sizeof old, "%s.old", path);
    CHECK(rename(path, old) == 0, "rename");
    int64_t *steps;
    int n;
    CHECK_OK(fm_checkpoint_list(ctx, root, &steps, &n));
    CHECK(n == 1 && steps[0] == 5, "%d", n);
    free(steps);
    CHECK_OK(content_read(ctx, &c, root, 5));
    content_free(&c);
    fm_checkpointer_free(k);
    fm_mesh_free(mesh);
}

/* Two "ranks" write parts of one array in their own layouts; another layout reads it. */
static void reshard(fm_ctx *ctx) {
    const char *root = root_of("reshard");
    const int64_t shape[] = {12, 6};
    /* rank 0 and 1: a tensor-parallel slice of qkv, three boxes each */
    fm_placement parts[2] = {
        placement_of(2, shape, 3, (int64_t[]){0, 0, 2, 6, 4, 0, 6, 6, 8, 0, 10, 6}),
        placement_of(2, shape, 3, (int64_t[]){2, 0, 4, 6, 6, 0, 8, 6, 10, 0, 12, 6})};
    /* moments: flat fragments that begin and end inside rows */
    fm_placement flat[2] = {placement_of(2, shape, 2, (int64_t[]){0, 0, 5, 6, 5, 0, 6, 3}),
                            placement_of(2, shape, 2, (int64_t[]){5, 3, 6, 6, 6, 0, 12, 6})};
    float weights[2][72], moments[2][72];
    fm_ckpt_array arrays[2][2];
    fm_ckpt_content contents[2];
    for (int rank = 0; rank < 2; rank++) {
        for (int64_t i = 0; i < fm_placement_numel(&parts[rank]); i++)
            weights[rank][i] = content_value(0, fm_placement_global_index(&parts[rank], i), 5);
        for (int64_t i = 0; i < fm_placement_numel(&flat[rank]); i++)
            moments[rank][i] = content_value(1, fm_placement_global_index(&flat[rank], i), 5);
        arrays[rank][0] = (fm_ckpt_array){.name = "w",
                                          .group = FM_CKPT_DENSE,
                                          .region = fm_region_of(&parts[rank]),
                                          .data = weights[rank]};
        arrays[rank][1] = (fm_ckpt_array){.name = "adamw.m/w",
                                          .group = FM_CKPT_OPTIM,
                                          .region = fm_region_of(&flat[rank]),
                                          .data = moments[rank]};
        contents[rank] = (fm_ckpt_content){1, 2, arrays[rank], "{}", NULL};
    }
    CHECK_OK(content_write_ranks(ctx, root, 2, contents));

    char path[600];
    snprintf(path, sizeof path, "%s/step_00000001", root);
    CHECK_OK(fm_ckpt_verify(ctx, path));
    fm_ckpt_reader *r;
    CHECK_OK(fm_ckpt_open(ctx, path, &r));
    fm_placement wanted[] = {
        placement_of(2, shape, 1, (int64_t[]){0, 0, 12, 6}),
        placement_of(2, shape, 1, (int64_t[]){3, 0, 11, 6}),
        placement_of(2, shape, 2, (int64_t[]){11, 2, 12, 6, 0, 0, 5, 1}),
        placement_of(2, shape, 3, (int64_t[]){1, 0, 3, 6, 5, 0, 7, 6, 9, 0, 11, 6}),
        placement_of(2, shape, 2, (int64_t[]){7, 0, 9, 6, 4, 0, 6, 6}), /* the second as written */
        parts[1],
        flat[1]};
    for (int w = 0; w < (int)(sizeof wanted / sizeof *wanted); w++)
        for (int array = 0; array < 2; array++) {
            float got[72];
            int64_t n = fm_placement_numel(&wanted[w]);
            fm_ckpt_array a = {.region = fm_region_of(&wanted[w]), .data = got};
            snprintf(a.name, sizeof a.name, "%s", array ? "adamw.m/w" : "w");
            CHECK_OK(fm_ckpt_read(ctx, r, &a));
            for (int64_t i = 0; i < n; i++) {
                float want = content_value(array, fm_placement_global_index(&wanted[w], i), 5);
                CHECK(got[i] == want, "layout %d, %s, element %lld: %g, not %g", w, a.name,
                      (long long)i, (double)got[i], (double)want);
            }
        }
    float got[72];
    fm_placement other = placement_of(2, (int64_t[]){6, 12}, 1, (int64_t[]){0, 0, 6, 12});
    fm_ckpt_array a = {.name = "w", .region = fm_region_of(&other), .data = got};
    CHECK_FAILS(fm_ckpt_read(ctx, r, &a), FM_ERR_CHECKPOINT, "dataset w", "global_shape");
    snprintf(a.name, sizeof a.name, "absent");
    CHECK_FAILS(fm_ckpt_read(ctx, r, &a), FM_ERR_CHECKPOINT, "absent");
    fm_ckpt_close(r);
}

/* The second rank's file is missing, and its elements with it: not written, and not read. */
static void gap(fm_ctx *ctx) {
    const char *root = root_of("gap");
    const int64_t shape[] = {4, 4};
    fm_placement half = placement_of(2, shape, 1, (int64_t[]){0, 0, 2, 4});
    float data[16] = {0};
    fm_mesh *mesh;
    fm_checkpointer *k = checkpointer(ctx, &mesh, root, 1, false, 0);
    fm_ckpt_array a = {
        .name = "w", .group = FM_CKPT_DENSE, .region = fm_region_of(&half), .data = data};
    fm_ckpt_content one = {1, 1, &a, "{}", NULL};
    CHECK_FAILS(fm_checkpointer_save(ctx, k, &one), FM_ERR_STATE, "each element once");
    CHECK_OK(content_write_ranks(ctx, root, 1, &one));
    char path[600];
    snprintf(path, sizeof path, "%s/step_00000001", root);
    CHECK_FAILS(fm_ckpt_verify(ctx, path), FM_ERR_CHECKPOINT, "dataset w", "[2, 0] is in no file");
    fm_ckpt_reader *r;
    CHECK_FAILS(fm_ckpt_open(ctx, path, &r), FM_ERR_CHECKPOINT, "dataset w", "dense-pp00-tp00.h5",
                "[2, 0] is in no file");
    fm_checkpointer_free(k);
    fm_mesh_free(mesh);
}

static char *bytes_of(const char *root, int64_t step, const char *name, size_t *n) {
    char path[700];
    snprintf(path, sizeof path, "%s/step_%08lld/%s", root, (long long)step, name);
    FILE *f = fopen(path, "rb");
    char *data = malloc(1 << 20);
    if (!f || !data) abort();
    *n = fread(data, 1, 1 << 20, f);
    fclose(f);
    return data;
}

/* Equal contents give equal files: nothing in them tells when, where or as which step. */
static void same_bytes(fm_ctx *ctx) {
    const char *root = root_of("same");
    fm_mesh *mesh;
    fm_checkpointer *k = checkpointer(ctx, &mesh, root, 2, false, 0);
    CHECK(k, "%s", ctx->error.message);
    content c;
    content_make(&c, 1, 5, 3, "{}");
    CHECK_OK(fm_checkpointer_save(ctx, k, &c.checkpoint));
    c.checkpoint.step = 2;
    nanosleep(&(struct timespec){1, 100000000}, NULL); /* HDF5 counts in seconds */
    CHECK_OK(fm_checkpointer_save(ctx, k, &c.checkpoint));
    static const char *const names[] = {"dense-pp00-tp00.h5", "expert-pp00-ep00-etp00.h5",
                                        "optim-rank00000.h5", "state.h5"};
    for (int i = 0; i < 4; i++) {
        size_t n, m;
        char *a = bytes_of(root, 1, names[i], &n), *b = bytes_of(root, 2, names[i], &m);
        bool same = n == m && n > 0 && memcmp(a, b, n) == 0;
        free(a), free(b);
        CHECK(same, "%s differs", names[i]);
    }
    content_free(&c);
    fm_checkpointer_free(k);
    fm_mesh_free(mesh);
}

/* Two programs saving into one folder: each would take the other's unfinished one for a dead run's. */
static void two_programs(fm_ctx *ctx) {
    const char *root = root_of("two");
    fm_mesh *mesh;
    content c;
    content_make(&c, 1, 6, 1, "{}");
    fm_checkpointer *k = checkpointer(ctx, &mesh, root, 1, true, 0);
    CHECK(k, "%s", ctx->error.message);
    CHECK_OK(fm_checkpointer_save(ctx, k, &c.checkpoint));
    CHECK_OK(fm_checkpointer_wait(ctx, k));
    fm_error err = {0};
    int lock;
    char tmp[FM_PATH];
    CHECK(fm_commit_lock(&err, NULL, root, &lock) == FM_OK, "%s", err.message);
    CHECK(fm_commit_begin(&err, NULL, root, 2, tmp) == FM_OK, "%s", err.message);
    c.checkpoint.step = 2;
    CHECK_FAILS(fm_checkpointer_save(ctx, k, &c.checkpoint), FM_ERR_IO, root, "another program");
    CHECK(access(tmp, F_OK) == 0, "%s was removed under its writer", tmp);
    fm_disk_unlock(lock);
    CHECK_OK(fm_checkpointer_save(ctx, k, &c.checkpoint));
    CHECK_OK(fm_checkpointer_wait(ctx, k));
    CHECK_OK(content_read(ctx, &c, root, 2));
    fm_checkpointer_free(k);
    fm_mesh_free(mesh);
    content_free(&c);
}

static void arguments(fm_ctx *ctx) {
    fm_mesh *mesh;
    const char *root = root_of("arguments");
    CHECK(!checkpointer(ctx, &mesh, root, 0, false, 0), "keep_last 0");
    CHECK(strstr(ctx->error.message, "keep_last is 0"), "%s", ctx->error.message);
    fm_error_clear(&ctx->error);
    fm_mesh_free(mesh);
    CHECK(!checkpointer(ctx, &mesh, "", 1, false, 0), "no path");
    fm_error_clear(&ctx->error);
    fm_mesh_free(mesh);
    fm_checkpointer *k = checkpointer(ctx, &mesh, root, 1, false, 0);
    content c;
    content_make(&c, -1, 0, 1, "{}");
    CHECK_FAILS(fm_checkpointer_save(ctx, k, &c.checkpoint), FM_ERR_VALUE, "step is -1");
    c.checkpoint.step = 1;
    snprintf(c.arrays[1].name, sizeof c.arrays[1].name, "embed.token");
    CHECK_FAILS(fm_checkpointer_save(ctx, k, &c.checkpoint), FM_ERR_VALUE, "embed.token");
    content_free(&c);
    fm_checkpointer_free(k);
    fm_mesh_free(mesh);
    int64_t *steps;
    int n;
    CHECK_OK(fm_checkpoint_list(ctx, root_of("nowhere"), &steps, &n));
    CHECK(n == 0, "%d", n);
    free(steps);
}

/* 200000 arrays, and the last has the first one's name: found at once, not after 2e10 comparisons. */
static void many_names(fm_ctx *ctx) {
    enum { N = 200000 };
    fm_mesh *mesh;
    fm_checkpointer *k = checkpointer(ctx, &mesh, root_of("many"), 1, false, 0);
    CHECK(k, "%s", ctx->error.message);
    float x = 0;
    fm_placement one = placement_of(1, (int64_t[]){1}, 1, (int64_t[]){0, 1});
    fm_ckpt_array *arrays = calloc(N, sizeof *arrays);
    CHECK(arrays, "no memory");
    for (int i = 0; i < N; i++) {
        arrays[i] = (fm_ckpt_array){
            .group = FM_CKPT_DENSE, .region = fm_region_of(&one), .data = &x};
        snprintf(arrays[i].name, sizeof arrays[i].name, "layers.%d.w", i % (N - 1));
    }
    struct timespec before, after;
    clock_gettime(CLOCK_MONOTONIC, &before);
    CHECK_FAILS(fm_checkpointer_save(ctx, k, &(fm_ckpt_content){1, N, arrays, "{}", NULL}),
                FM_ERR_VALUE, "two arrays are called layers.0.w");
    clock_gettime(CLOCK_MONOTONIC, &after);
    CHECK(after.tv_sec - before.tv_sec < 10, "%lld s", (long long)(after.tv_sec - before.tv_sec));
    free(arrays);
    fm_checkpointer_free(k);
    fm_mesh_free(mesh);
}

static const test_case cases[] = {{"sync_round_trip", sync_round_trip},
                                  {"async_round_trip", async_round_trip},
                                  {"gzip_round_trip", gzip_round_trip},
                                  {"retention", retention},
                                  {"aside_is_put_back", aside_is_put_back},
                                  {"reshard", reshard},
                                  {"gap", gap},
                                  {"same_bytes", same_bytes},
                                  {"two_programs", two_programs},
                                  {"many_names", many_names},
                                  {"arguments", arguments}};
TEST_MAIN(cases)
