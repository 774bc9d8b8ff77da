/* Damaged and hostile checkpoints: found, named, never a crash, never wrong data. */
#include "io/commit.h"
#include "tests/io/check.h"
#include "tests/io/content.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

static const char *const FILES[] = {"dense-pp00-tp00.h5", "expert-pp00-ep00-etp00.h5",
                                    "optim-rank00000.h5", "state.h5", "manifest.json"};
enum { N_FILES = 5 };

static char root[512], folder[600];

/* A fresh good checkpoint of step 1 under root. */
static fm_status save_one(fm_ctx *ctx, content *c) {
    fm_mesh *mesh;
    fm_mesh_config config = fm_mesh_config_default();
    fm_checkpointer *k;
    snprintf(root, sizeof root, "%s/damage", test_folder());
    snprintf(folder, sizeof folder, "%s/step_00000001", root);
    FM_TRY(fm_mesh_new(ctx, &config, NULL, &mesh));
    fm_ckpt_config cc = {root, 1, false, 0};
    FM_TRY(fm_checkpointer_new(ctx, mesh, &cc, &k));
    content_make(c, 1, 8, 9, "{\"a\": 1}");
    fm_status status = fm_checkpointer_save(ctx, k, &c->checkpoint);
    fm_checkpointer_free(k);
    fm_mesh_free(mesh);
    return status;
}

static char *slurp(const char *name, size_t *n) {
    char path[700];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *f = fopen(path, "rb");
    if (!f) abort();
    fseek(f, 0, SEEK_END);
    *n = (size_t)ftell(f);
    rewind(f);
    char *data = malloc(*n + 1);
    if (!data || fread(data, 1, *n, f) != *n) abort();
    fclose(f);
    return data;
}

static void put(const char *name, const void *data, size_t n) {
    char path[700];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    test_write_file(path, data, n);
}

/* True where neither reading nor verifying says anything. A read that succeeds has to be right. */
static bool unnoticed(fm_ctx *ctx, content *c, bool *wrong_data) {
    content_clear(c);
    bool read = content_read(ctx, c, root, 1) == FM_OK;
    *wrong_data = read && content_wrong(c, 8) > 0;
    fm_error_clear(&ctx->error);
    bool verified = fm_ckpt_verify(ctx, folder) == FM_OK;
    fm_error_clear(&ctx->error);
    return read && verified;
}

static void truncated(fm_ctx *ctx) {
    content c;
    CHECK_OK(save_one(ctx, &c));
    for (int f = 0; f < N_FILES; f++) {
        size_t n;
        char *good = slurp(FILES[f], &n);
        for (int cut = 0; cut < 12; cut++) {
            size_t keep = cut == 0 ? 0 : fm_mix64((uint64_t)(f * 100 + cut)) % n;
            put(FILES[f], good, keep);
            bool wrong_data, missed = unnoticed(ctx, &c, &wrong_data);
            CHECK(!missed && !wrong_data, "%s cut to %zu of %zu bytes: unnoticed %d, wrong data %d",
                  FILES[f], keep, n, missed, wrong_data);
        }
        put(FILES[f], good, n);
        free(good);
    }
    bool wrong_data;
    CHECK(unnoticed(ctx, &c, &wrong_data) && !wrong_data, "the restored one is good");
    content_free(&c);
}

static void flipped_bits(fm_ctx *ctx) {
    content c;
    CHECK_OK(save_one(ctx, &c));
    int named = 0, flips = 0;
    for (int f = 0; f < 4; f++) {
        size_t n;
        char *good = slurp(FILES[f], &n);
        for (int i = 0; i < 60; i++, flips++) {
            uint64_t h = fm_mix64((uint64_t)(f * 1000 + i));
            size_t at = h % n;
            good[at] = (char)(good[at] ^ (1 << (h >> 61)));
            put(FILES[f], good, n);
            good[at] = (char)(good[at] ^ (1 << (h >> 61)));
            bool wrong_data, missed = unnoticed(ctx, &c, &wrong_data);
            CHECK(!missed && !wrong_data,
                  "%s, bit flipped in byte %zu: unnoticed %d, wrong data %d", FILES[f], at, missed,
                  wrong_data);
            if (fm_ckpt_verify(ctx, folder) != FM_OK)
                named += strstr(ctx->error.message, FILES[f]) != NULL;
            fm_error_clear(&ctx->error);
        }
        put(FILES[f], good, n);
        free(good);
    }
    CHECK(named == flips, "%d of %d flips were reported with the file's name", named, flips);
    content_free(&c);
}

/* A flip in the data of one array: reading that array fails by its chunk's checksum. */
static void flip_names_dataset(fm_ctx *ctx) {
    content c;
    CHECK_OK(save_one(ctx, &c));
    size_t n;
    char *good = slurp(FILES[0], &n);
    const float *data = c.arrays[0].data;
    char *at = NULL;
    for (size_t i = 0; !at && i + 64 <= n; i++)
        if (memcmp(good + i, data, 64) == 0) at = good + i;
    CHECK(at, "the array's bytes are in the file");
    at[20] = (char)(at[20] ^ 4);
    put(FILES[0], good, n);
    CHECK_FAILS(content_read(ctx, &c, root, 1), FM_ERR_CHECKPOINT, FILES[0], "embed.token");
    CHECK_FAILS(fm_ckpt_verify(ctx, folder), FM_ERR_CHECKPOINT, FILES[0], "embed.token");
    free(good);
    content_free(&c);
}

static void manifests(fm_ctx *ctx) {
    content c;
    CHECK_OK(save_one(ctx, &c));
    size_t n;
    char *good = slurp("manifest.json", &n);
    good[n] = 0;
    static const char layout[] = /* what %s stands for */
        "\"layout\": {\"world_size\": 1, \"dp\": 1, \"tp\": 1, \"pp\": 1, \"ep\": 1, \"etp\": 1, "
        "\"zero\": 1}";
    static const char elsewhere[] =
        "{\"format\": \"fmoe checkpoint\", \"version\": 1, \"step\": 1, %s, \"files\": [{\"name\": "
        "\"../x\", \"bytes\": 1, \"xxh3_128\": \"00000000000000000000000000000000\"}]}";
    static const char huge[] =
        "{\"format\": \"fmoe checkpoint\", \"version\": 1, \"step\": 1, %s, \"files\": [{\"name\": "
        "\"state.h5\", \"bytes\": 9223372036854775807, \"xxh3_128\": "
        "\"00000000000000000000000000000000\"}]}";
    static const char *const texts[] = {
        "",
        "{",
        "null",
        "[]",
        "{\"format\": \"fmoe checkpoint\"}",
        "{\"format\": \"other\", \"version\": 1}",
        "{\"format\": \"fmoe checkpoint\", \"version\": 2}",
        "{\"format\": \"fmoe checkpoint\", \"version\": \"1\"}",
        "{\"format\": \"fmoe checkpoint\", \"version\": 1, \"step\": -1, %s, \"files\": []}",
        "{\"format\": \"fmoe checkpoint\", \"version\": 1, \"step\": 1, %s, \"files\": {}}",
        "{\"format\": \"fmoe checkpoint\", \"version\": 1, \"step\": 1, %s, \"files\": []}",
        "{\"format\": \"fmoe checkpoint\", \"version\": 1, \"step\": 1, %s, \"files\": [1]}",
        elsewhere,
        huge,
    };
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        char text[1024];
        snprintf(text, sizeof text, texts[i], layout);
        put("manifest.json", text, strlen(text));
        CHECK_FAILS(content_read(ctx, &c, root, 1), FM_ERR_CHECKPOINT, "step_00000001");
    }
    put("manifest.json", good, n);
    CHECK_OK(content_read(ctx, &c, root, 1));
    free(good);
    content_free(&c);
}

/* Links, folders and pipes in place of a file are refused, not followed or waited for. */
static void not_regular(fm_ctx *ctx) {
    content c;
    CHECK_OK(save_one(ctx, &c));
    char path[700], aside[700];
    snprintf(path, sizeof path, "%s/%s", folder, FILES[0]);
    snprintf(aside, sizeof aside, "%s/aside.h5", test_folder());
    CHECK(rename(path, aside) == 0, "rename");
    CHECK_FAILS(content_read(ctx, &c, root, 1), FM_ERR_CHECKPOINT, FILES[0]);
    CHECK(symlink(aside, path) == 0, "symlink");
    CHECK_FAILS(content_read(ctx, &c, root, 1), FM_ERR_CHECKPOINT, FILES[0]);
    unlink(path);
    CHECK(mkdir(path, 0755) == 0, "mkdir");
    CHECK_FAILS(content_read(ctx, &c, root, 1), FM_ERR_CHECKPOINT, FILES[0]);
    rmdir(path);
    CHECK(mkfifo(path, 0644) == 0, "mkfifo");
    CHECK_FAILS(content_read(ctx, &c, root, 1), FM_ERR_CHECKPOINT, FILES[0]);
    unlink(path);
    CHECK(rename(aside, path) == 0, "rename");
    CHECK_OK(content_read(ctx, &c, root, 1));
    content_free(&c);
}

/* The n-th call of a save fails, n = 0, 1, 2 ... until none is left: the save says so, the checkpoint
 * before stays whole, and the next save works. */
static void staircase(fm_ctx *ctx, bool asynchronous, int error_number) {
    content c;
    CHECK_OK(save_one(ctx, &c));
    content next;
    content_make(&next, 2, 9, 1, "{}");
    fm_mesh *mesh;
    fm_mesh_config config = fm_mesh_config_default();
    CHECK_OK(fm_mesh_new(ctx, &config, NULL, &mesh));
    fm_checkpointer *k;
    fm_ckpt_config cc = {root, 2, asynchronous, 0};
    CHECK_OK(fm_checkpointer_new(ctx, mesh, &cc, &k));
    int64_t n = 0;
    for (;; n++) {
        CHECK(n < 500, "the save never succeeds");
        fm_checkpointer_fail_at(k, n, error_number);
        fm_status status = fm_checkpointer_save(ctx, k, &next.checkpoint);
        if (status == FM_OK) status = fm_checkpointer_wait(ctx, k);
        if (status == FM_OK) break;
        CHECK(status == FM_ERR_IO, "call %lld: %s: %s", (long long)n, fm_status_name(status),
              ctx->error.message);
        CHECK(strstr(ctx->error.message, "step 2 was not saved"), "call %lld: %s", (long long)n,
              ctx->error.message);
        fm_error_clear(&ctx->error);
        content_clear(&c);
        CHECK_OK(content_read(ctx, &c, root, 1));
        CHECK(content_wrong(&c, 8) == 0, "call %lld: the one before is damaged", (long long)n);
        int64_t *steps;
        int count;
        CHECK_OK(fm_checkpoint_list(ctx, root, &steps, &count));
        CHECK(count >= 1 && steps[0] == 1, "call %lld", (long long)n);
        /* Behind its last rename a save counts, though it may end in an error. */
        if (count == 2) {
            content_clear(&next);
            CHECK_OK(content_read(ctx, &next, root, 2));
            CHECK(content_wrong(&next, 9) == 0, "call %lld: half a checkpoint", (long long)n);
        }
        free(steps);
    }
    CHECK(n > 20, "only %lld calls could fail", (long long)n);
    CHECK_OK(content_read(ctx, &next, root, 2));
    fm_checkpointer_free(k);
    fm_mesh_free(mesh);
    content_free(&c);
    content_free(&next);
}

static void disk_full(fm_ctx *ctx) { staircase(ctx, false, ENOSPC); }
static void io_error_in_thread(fm_ctx *ctx) { staircase(ctx, true, EIO); }

static const test_case cases[] = {{"truncated", truncated},
                                  {"flipped_bits", flipped_bits},
                                  {"flip_names_dataset", flip_names_dataset},
                                  {"manifests", manifests},
                                  {"not_regular", not_regular},
                                  {"disk_full", disk_full},
                                  {"io_error_in_thread", io_error_in_thread}};
TEST_MAIN(cases)
