#include "io/dataset.h"
#include "tests/io/check.h"

#include <sys/stat.h>
#include <unistd.h>

static char path_buffer[8][1024];
static int next_path;
/* folder/name; valid until eight more calls. */
static const char *in(const char *folder, const char *name) {
    char *p = path_buffer[next_path++ % 8];
    snprintf(p, sizeof path_buffer[0], "%s/%s", folder, name);
    return p;
}
static void put(const char *folder, const char *name, const char *text) {
    test_write_file(in(folder, name), text, strlen(text));
}
/* All of a dataset as text. */
static const char *text_of(fm_ctx *ctx, const fm_dataset *d) {
    static char text[4096];
    static int32_t tokens[4096];
    int64_t n = fm_dataset_tokens(d);
    if (n >= 4096 || fm_dataset_read(ctx, d, 0, n, tokens) != FM_OK) return ctx->error.message;
    for (int64_t i = 0; i < n; i++) text[i] = (char)tokens[i];
    text[n] = 0;
    return text;
}

static void reads_a_file(fm_ctx *ctx) {
    const char *dir = test_folder();
    unsigned char bytes[256];
    for (int i = 0; i < 256; i++) bytes[i] = (unsigned char)(255 - i);
    test_write_file(in(dir, "f"), bytes, sizeof bytes);
    fm_dataset *d;
    CHECK_OK(fm_dataset_bytes(ctx, in(dir, "f"), NULL, NULL, &d));
    CHECK(fm_dataset_tokens(d) == 256 && fm_dataset_files(d) == 1 && fm_dataset_vocab(d) == 256,
          "sizes");
    int32_t out[256];
    CHECK_OK(fm_dataset_read(ctx, d, 0, 256, out));
    for (int i = 0; i < 256; i++) CHECK(out[i] == 255 - i, "token %d is %d", i, out[i]);
    CHECK_OK(fm_dataset_read(ctx, d, 256, 0, out));
    CHECK_OK(fm_dataset_read(ctx, d, 255, 1, out));
    CHECK_FAILS(fm_dataset_read(ctx, d, 255, 2, out), FM_ERR_RANGE, "[255, 255 + 2)", "[0, 256)");
    CHECK_FAILS(fm_dataset_read(ctx, d, -1, 1, out), FM_ERR_RANGE, "-1");
    CHECK_FAILS(fm_dataset_read(ctx, d, 1, INT64_MAX, out), FM_ERR_RANGE, "9223372036854775807");
    fm_dataset_free(d);
}

/* Order: '+' < '-' < '/' < digits < letters, by whole relative paths; empty files everywhere. */
static void orders_a_folder(fm_ctx *ctx) {
    const char *dir = test_folder();
    mkdir(in(dir, "a"), 0777), mkdir(in(dir, "a/b"), 0777), mkdir(in(dir, ".git"), 0777);
    put(dir, "a/z", "<a/z>"), put(dir, "a/b/c", "<a/b/c>"), put(dir, "a-b", "<a-b>");
    put(dir, "A", "<A>"), put(dir, "a0", "<a0>"), put(dir, "0", ""), put(dir, "a/b/d", "");
    put(dir, "zz", ""), put(dir, ".hidden", "hidden"), put(dir, ".git/x", "hidden");
    fm_dataset *d;
    CHECK_OK(fm_dataset_bytes(ctx, dir, NULL, NULL, &d));
    CHECK(strcmp(text_of(ctx, d), "<A><a-b><a/b/c><a/z><a0>") == 0, "%s", text_of(ctx, d));
    CHECK(fm_dataset_files(d) == 8, "%lld files", (long long)fm_dataset_files(d));
    /* Every window, across files. */
    char whole[128];
    snprintf(whole, sizeof whole, "%s", text_of(ctx, d));
    int64_t n = fm_dataset_tokens(d);
    for (int64_t start = 0; start < n; start++)
        for (int64_t len = 1; start + len <= n; len++) {
            int32_t out[64];
            CHECK_OK(fm_dataset_read(ctx, d, start, len, out));
            for (int64_t i = 0; i < len; i++)
                CHECK(out[i] == whole[start + i], "window %lld+%lld", (long long)start,
                      (long long)len);
        }
    fm_dataset_free(d);
    /* A slash behind the folder changes nothing. */
    fm_dataset *e;
    CHECK_OK(fm_dataset_bytes(ctx, in(dir, "/"), NULL, NULL, &e));
    CHECK(strcmp(text_of(ctx, e), whole) == 0, "%s", text_of(ctx, e));
    fm_dataset_free(e);
}

static void matches_a_pattern(fm_ctx *ctx) {
    const char *dir = test_folder();
    mkdir(in(dir, "x"), 0777);
    put(dir, "x/1.py", "one"), put(dir, "2.py", "two"), put(dir, "3.txt", "three");
    fm_dataset *d;
    CHECK_OK(fm_dataset_bytes(ctx, dir, "*.py", NULL, &d));
    CHECK(strcmp(text_of(ctx, d), "twoone") == 0, "%s", text_of(ctx, d));
    fm_dataset_free(d);
    CHECK_FAILS(fm_dataset_bytes(ctx, dir, "*.rs", NULL, &d), FM_ERR_VALUE, dir, "*.rs");
    CHECK(d == NULL, "not NULL after an error");
}

static void leaves_out(fm_ctx *ctx) {
    const char *dir = test_folder();
    mkdir(in(dir, "site-packages"), 0777), mkdir(in(dir, "x"), 0777);
    put(dir, "site-packages/1.py", "one"), put(dir, "2.py", "two"), put(dir, "x/3.txt", "three");
    fm_dataset *d, *e;
    CHECK_OK(fm_dataset_bytes(ctx, dir, "*.py", "*-packages", &d));
    CHECK(strcmp(text_of(ctx, d), "two") == 0, "%s", text_of(ctx, d));
    put(dir, "site-packages/4.py", "four"); /* what is left out changes nothing */
    CHECK_OK(fm_dataset_bytes(ctx, dir, "*.py", "*-packages", &e));
    CHECK(strcmp(fm_dataset_identity(d), fm_dataset_identity(e)) == 0, "%s, %s",
          fm_dataset_identity(d), fm_dataset_identity(e));
    fm_dataset_free(d), fm_dataset_free(e);
    CHECK_OK(fm_dataset_bytes(ctx, dir, NULL, "*.py", &d));
    CHECK(strcmp(text_of(ctx, d), "three") == 0, "%s", text_of(ctx, d));
    fm_dataset_free(d);
    CHECK_FAILS(fm_dataset_bytes(ctx, dir, "*.py", "*.py", &d), FM_ERR_VALUE, dir, "not '*.py'");
}

static void follows_links_to_files(fm_ctx *ctx) {
    const char *dir = test_folder(), *other = test_folder();
    put(other, "real", "text");
    if (symlink(in(other, "real"), in(dir, "link")) != 0 ||
        symlink("nowhere", in(dir, "broken")) != 0 || symlink(dir, in(dir, "loop")) != 0 ||
        mkfifo(in(dir, "pipe"), 0666) != 0)
        CHECK(false, "cannot make links");
    fm_dataset *d;
    CHECK_OK(fm_dataset_bytes(ctx, dir, NULL, NULL, &d));
    CHECK(strcmp(text_of(ctx, d), "text") == 0, "%s", text_of(ctx, d));
    CHECK(fm_dataset_files(d) == 1, "%lld files", (long long)fm_dataset_files(d));
    fm_dataset_free(d);
}

static void names_what_is_wrong(fm_ctx *ctx) {
    const char *dir = test_folder();
    fm_dataset *d;
    CHECK_FAILS(fm_dataset_bytes(ctx, in(dir, "none"), NULL, NULL, &d), FM_ERR_IO, "/none",
                "No such file");
    CHECK_FAILS(fm_dataset_bytes(ctx, "/dev/null", NULL, NULL, &d), FM_ERR_IO, "/dev/null",
                "neither");
    CHECK_FAILS(fm_dataset_bytes(ctx, dir, NULL, NULL, &d), FM_ERR_VALUE, dir);
    put(dir, "empty", "");
    CHECK_FAILS(fm_dataset_bytes(ctx, dir, NULL, NULL, &d), FM_ERR_VALUE, dir, "no byte");
    put(dir, "full", "0123456789");
    CHECK_OK(fm_dataset_bytes(ctx, dir, NULL, NULL, &d));
    put(dir, "full", "0123");
    int32_t out[10];
    CHECK_FAILS(fm_dataset_read(ctx, d, 0, 10, out), FM_ERR_IO, "/full", "10 bytes");
    fm_dataset_free(d);
    fm_dataset_free(NULL);
}

/* The file is open already, and becomes shorter behind our back: no SIGBUS. */
static void becomes_shorter(fm_ctx *ctx) {
    enum { N = 200000 };
    const char *dir = test_folder();
    char *bytes = malloc(N);
    memset(bytes, 'x', N);
    test_write_file(in(dir, "data"), bytes, N);
    free(bytes);
    fm_dataset *d;
    int32_t out[100];
    CHECK_OK(fm_dataset_bytes(ctx, dir, NULL, NULL, &d));
    CHECK_OK(fm_dataset_read(ctx, d, N - 100, 100, out));
    CHECK(truncate(in(dir, "data"), 8192) == 0, "truncate");
    CHECK_FAILS(fm_dataset_read(ctx, d, N - 100, 100, out), FM_ERR_IO, "/data", "200000 bytes");
    CHECK_FAILS(fm_dataset_read(ctx, d, 8100, 100, out), FM_ERR_IO, "/data", "byte 8192");
    CHECK_OK(fm_dataset_read(ctx, d, 8092, 100, out));
    CHECK(out[99] == 'x', "%d", out[99]);
    fm_dataset_free(d);
}

/* More files than are open at a time, read in a scattered order. */
static void reads_many_files(fm_ctx *ctx) {
    enum { N = 700 };
    const char *dir = test_folder();
    for (int i = 0; i < N; i++) {
        char name[16], text[16];
        snprintf(name, sizeof name, "%03d", i);
        snprintf(text, sizeof text, "<%03d>", i);
        put(dir, name, text);
    }
    fm_dataset *d;
    CHECK_OK(fm_dataset_bytes(ctx, dir, NULL, NULL, &d));
    for (int64_t i = 0; i < 4000; i++) {
        int64_t at = fm_permute_index(5, N * 5 - 7, i % (N * 5 - 7));
        int32_t out[7];
        CHECK_OK(fm_dataset_read(ctx, d, at, 7, out));
        for (int64_t j = 0; j < 7; j++) {
            char text[32];
            snprintf(text, sizeof text, "<%03lld>", (long long)((at + j) / 5));
            CHECK(out[j] == text[(at + j) % 5], "token %lld", (long long)(at + j));
        }
    }
    fm_dataset_free(d);
}

static void has_an_identity(fm_ctx *ctx) {
    const char *dir = test_folder(), *copy = test_folder();
    char big[5000];
    memset(big, 'x', sizeof big);
    test_write_file(in(dir, "big"), big, sizeof big);
    test_write_file(in(copy, "big"), big, sizeof big);
    put(dir, "small", "s"), put(copy, "small", "s");
    fm_dataset *d, *e;
    CHECK_OK(fm_dataset_bytes(ctx, dir, NULL, NULL, &d));
    CHECK_OK(fm_dataset_bytes(ctx, copy, NULL, NULL, &e));
    char first[256];
    snprintf(first, sizeof first, "%s", fm_dataset_identity(d));
    CHECK(strncmp(first, "bytes:files=2:tokens=5001:", 26) == 0, "%s", first);
    CHECK(strcmp(first, fm_dataset_identity(e)) == 0, "a copy: %s", fm_dataset_identity(e));
    fm_dataset_free(d), fm_dataset_free(e);
    /* A changed byte near an end, a changed name, and a moved byte all show. */
    static const char *const changes[] = {"first", "last", "name", "sizes"};
    for (int c = 0; c < 4; c++) {
        if (c == 0) big[10] = 'y', test_write_file(in(copy, "big"), big, sizeof big);
        if (c == 1) big[10] = 'x', big[4990] = 'y', test_write_file(in(copy, "big"), big, 5000);
        if (c == 2) big[4990] = 'x', test_write_file(in(copy, "big"), big, sizeof big);
        if (c == 2) rename(in(copy, "small"), in(copy, "smaller"));
        if (c == 3) rename(in(copy, "smaller"), in(copy, "small"));
        if (c == 3) test_write_file(in(copy, "big"), big, 4999), put(copy, "small", "xs");
        CHECK_OK(fm_dataset_bytes(ctx, copy, NULL, NULL, &e));
        CHECK(strcmp(first, fm_dataset_identity(e)) != 0, "%s: unnoticed", changes[c]);
        fm_dataset_free(e);
    }
}

static const test_case cases[] = {
    {"dataset(file)", reads_a_file},
    {"dataset(order)", orders_a_folder},
    {"dataset(pattern)", matches_a_pattern},
    {"dataset(exclude)", leaves_out},
    {"dataset(links)", follows_links_to_files},
    {"dataset(errors)", names_what_is_wrong},
    {"dataset(700 files)", reads_many_files},
    {"dataset(identity)", has_an_identity},
    {"dataset(shorter)", becomes_shorter},
};
TEST_MAIN(cases)
