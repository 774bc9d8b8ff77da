/* Where the Python package lies. */
#include "pyembed/host.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int is_package_root(const char *dir) {
    char file[3 * PATH_MAX];
    snprintf(file, sizeof file, "%s/fmoe/__init__.py", dir);
    return access(file, R_OK) == 0;
}

int fm_package_dir(char *out, size_t n) {
    char exe[PATH_MAX];
    ssize_t len = readlink("/proc/self/exe", exe, sizeof exe - 1);
    if (len < 0) return -1;
    exe[len] = 0;
    char beside[PATH_MAX + 16];
    snprintf(beside, sizeof beside, "%s.runfiles", exe);
    /* A test has its own tree, where Bazel has put what it built now; beside the program lies what its
     * last build on its own put there. RUNFILES_DIR comes last: it may be another program's that
     * started us. */
    const char *roots[] = {getenv("TEST_SRCDIR"), beside, getenv("RUNFILES_DIR")};
    /* Bazel's name of the tree: with WORKSPACE, with MODULE.bazel. */
    static const char *const names[] = {"fmoe", "_main"};
    for (size_t r = 0; r < sizeof roots / sizeof *roots; r++) {
        for (size_t i = 0; roots[r] && i < sizeof names / sizeof *names; i++) {
            snprintf(out, n, "%s/%s/pyembed", roots[r], names[i]);
            if (is_package_root(out)) return 0;
        }
    }
    /* Copied out of the tree: train and pyembed/ side by side. */
    *strrchr(exe, '/') = 0;
    snprintf(out, n, "%s/pyembed", exe);
    return is_package_root(out) ? 0 : -1;
}
