/* A file of many arrays damaged anywhere, HDF5's own structures included: reading it ends in an error
 * or in the right numbers, never in a crash. Each damaged file is read by a process of its own. */
#include "io/h5.h"
#include "tests/io/check.h"
#include "tests/io/content.h"

#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

enum { ARRAYS = 60, TRIALS = 200, COLS = 16, MAX_ROWS = 3000 };
enum { RIGHT = 0, ERROR = 1, WRONG = 2 };

static fm_placement placement(int i) {
    /* more names than HDF5 keeps in one place by itself; a few arrays of several chunks */
    int64_t rows = i % 20 == 0 ? MAX_ROWS : 3 + i;
    return placement_of(2, (int64_t[]){rows, COLS}, 1, (int64_t[]){0, 0, rows, COLS});
}

static fm_status write_arrays(fm_error *err, const char *path) {
    static float data[MAX_ROWS * COLS];
    for (int64_t i = 0; i < MAX_ROWS * COLS; i++) data[i] = content_value(0, i, 3);
    fm_h5 *h;
    FM_TRY(fm_h5_create(err, NULL, path, &h));
    for (int i = 0; i < ARRAYS; i++) {
        char name[64];
        snprintf(name, sizeof name, "%slayers.%d.norm1.weight", i % 2 ? "adamw.m/" : "", i);
        fm_placement p = placement(i);
        fm_region r = fm_region_of(&p);
        FM_TRY(fm_h5_write(err, h, name, &r, data, 0));
    }
    return fm_h5_close(err, h);
}

static int read_arrays(const char *path) {
    static float data[MAX_ROWS * COLS];
    fm_error err = {0};
    fm_h5 *h;
    fm_h5_array *a;
    int64_t n;
    if (fm_h5_open(&err, path, &h) != FM_OK || fm_h5_arrays(&err, h, &a, &n) != FM_OK) return ERROR;
    if (n != ARRAYS) return WRONG;
    for (int64_t i = 0; i < n; i++) {
        int64_t numel = fm_box_numel(2, &a[i].boxes[0]);
        if (numel > MAX_ROWS * COLS) return WRONG;
        if (fm_h5_read(&err, h, &a[i], 0, &a[i].boxes[0], data) != FM_OK) return ERROR;
        for (int64_t j = 0; j < numel; j++)
            if (data[j] != content_value(0, j, 3)) return WRONG;
    }
    return RIGHT;
}

/* RIGHT, ERROR or WRONG; minus the signal where the reader was killed. */
static int read_apart(const char *path) {
    fflush(stdout);
    pid_t pid = fork();
    if (pid == 0) {
        alarm(20);
        _exit(read_arrays(path));
    }
    int status;
    if (pid < 0 || waitpid(pid, &status, 0) != pid) return WRONG;
    return WIFSIGNALED(status) ? -WTERMSIG(status) : WEXITSTATUS(status);
}

typedef void (*damage_fn)(char *data, size_t n, uint64_t random);
static void flip_one(char *data, size_t n, uint64_t random) {
    size_t at = random % n;
    data[at] = (char)(data[at] ^ (1 << (random >> 61)));
}
static void flip_many(char *data, size_t n, uint64_t random) {
    for (size_t at = random % n; at < n; at += 1024) data[at] = (char)(data[at] ^ 0x10);
}
static void overwrite(char *data, size_t n, uint64_t random) {
    size_t at = random % n, length = n - at < 512 ? n - at : 512;
    memset(data + at, (int)(random >> 56), length);
}

static void damaged(const char *label, damage_fn damage) {
    char path[600];
    fm_error err = {0};
    snprintf(path, sizeof path, "%s/fuzz.h5", test_folder());
    CHECK(write_arrays(&err, path) == FM_OK, "%s", err.message);
    FILE *f = fopen(path, "rb");
    CHECK(f, "%s", path);
    fseek(f, 0, SEEK_END);
    size_t n = (size_t)ftell(f);
    char *good = malloc(n), *bad = malloc(n);
    rewind(f);
    CHECK(good && bad && fread(good, 1, n, f) == n, "cannot read %s", path);
    fclose(f);
    CHECK(read_apart(path) == RIGHT, "the undamaged file");
    int errors = 0;
    for (int i = 0; i < TRIALS; i++) {
        memcpy(bad, good, n);
        damage(bad, n, fm_mix64((uint64_t)i * 7919));
        test_write_file(path, bad, n);
        int result = read_apart(path);
        CHECK(result >= 0, "%s, number %d: killed by signal %d", label, i, -result);
        CHECK(result != WRONG, "%s, number %d: wrong numbers", label, i);
        errors += result == ERROR;
    }
    free(good), free(bad);
    CHECK(errors > TRIALS * 9 / 10, "%s: only %d of %d found", label, errors, TRIALS);
}

static void one_bit(fm_ctx *ctx) {
    (void)ctx;
    damaged("one_bit", flip_one);
}
static void many_bits(fm_ctx *ctx) {
    (void)ctx;
    damaged("many_bits", flip_many);
}
static void overwritten(fm_ctx *ctx) {
    (void)ctx;
    damaged("overwritten", overwrite);
}

static const test_case cases[] = {
    {"one_bit", one_bit}, {"many_bits", many_bits}, {"overwritten", overwritten}};
TEST_MAIN(cases)
