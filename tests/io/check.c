#include "tests/io/check.h"

#include <fcntl.h>
#include <ftw.h>
#include <sys/stat.h>
#include <unistd.h>

int test_failures;

enum { MAX_FOLDERS = 256 };
static char folders[MAX_FOLDERS][512];
static int n_folders;
static pid_t owner; /* a forked child leaves the folders alone */

static int remove_entry(const char *path, const struct stat *st, int kind, struct FTW *ftw) {
    (void)st, (void)kind, (void)ftw;
    return remove(path);
}

static void remove_folders(void) {
    if (getpid() != owner) return;
    for (int i = 0; i < n_folders; i++) nftw(folders[i], remove_entry, 16, FTW_DEPTH | FTW_PHYS);
    n_folders = 0;
}

const char *test_folder(void) {
    const char *tmp = getenv("TEST_TMPDIR");
    if (n_folders == MAX_FOLDERS) {
        fprintf(stderr, "test_folder: more than %d folders\n", MAX_FOLDERS);
        exit(1);
    }
    char *folder = folders[n_folders];
    snprintf(folder, sizeof folders[0], "%s/fmoe_io_XXXXXX", tmp ? tmp : "/tmp");
    if (!mkdtemp(folder)) {
        perror(folder);
        exit(1);
    }
    n_folders++;
    return folder;
}

void test_write_file(const char *path, const void *data, size_t n) {
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0666);
    if (fd < 0 || write(fd, data, n) != (ssize_t)n || close(fd) != 0) {
        perror(path);
        exit(1);
    }
}

int test_main(int argc, char **argv, const test_case *cases, size_t n) {
    const char *only = argc == 3 && strcmp(argv[1], "--only") == 0 ? argv[2] : NULL;
    if (argc != 1 && !only) {
        fprintf(stderr, "usage: %s [--only NAME]\n", argv[0]);
        return 2;
    }
    owner = getpid();
    int passed = 0, failed = 0;
    for (size_t i = 0; i < n; i++) {
        if (only && strcmp(only, cases[i].name) != 0) continue;
        fm_ctx *ctx;
        fm_error err = {0};
        if (fm_ctx_new("cpu", &err, NULL, 0, &ctx) != FM_OK) {
            fprintf(stderr, "no context: %s\n", err.message);
            return 1;
        }
        test_failures = 0;
        cases[i].run(ctx);
        fm_ctx_free(ctx);
        remove_folders();
        printf("%s  %s --only '%s'\n", test_failures ? "FAIL" : "ok  ", argv[0], cases[i].name);
        if (test_failures)
            failed++;
        else
            passed++;
    }
    printf("%d passed, %d failed, 0 skipped\n", passed, failed);
    return failed > 0 || passed + failed == 0;
}
