/* A disk that is really full, seen through HDF5: a limit on the size of files stands for it. A save
 * in a program of its own, because what HDF5 makes of it shows when the program ends. */
#include "tests/io/check.h"
#include "tests/io/content.h"

#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

static void limit_files(rlim_t bytes) {
    struct rlimit r;
    getrlimit(RLIMIT_FSIZE, &r);
    r.rlim_cur = bytes;
    setrlimit(RLIMIT_FSIZE, &r);
}

/* Saves under every limit until one is large enough, then once without; 0: all as it should be. */
static int child(const char *root) {
    fm_ctx *ctx;
    fm_mesh *mesh;
    fm_checkpointer *k;
    fm_mesh_config mc = fm_mesh_config_default();
    fm_ckpt_config cc = {root, 1, false, 0};
    signal(SIGXFSZ, SIG_IGN);
    if (fm_ctx_new("cpu", NULL, NULL, 0, &ctx) != FM_OK ||
        fm_mesh_new(ctx, &mc, NULL, &mesh) != FM_OK ||
        fm_checkpointer_new(ctx, mesh, &cc, &k) != FM_OK)
        return 2;
    content c;
    content_make(&c, 1, 8, 300, "{}");
    int failures = 0;
    for (rlim_t bytes = 0;; bytes += 37001) {
        limit_files(bytes);
        fm_status status = fm_checkpointer_save(ctx, k, &c.checkpoint);
        limit_files(RLIM_INFINITY);
        if (status == FM_OK) break;
        if (status != FM_ERR_IO || !strstr(ctx->error.message, "File too large") ||
            strchr(ctx->error.message, '\n')) {
            printf("  limit %lld: %s\n", (long long)bytes, ctx->error.message);
            return 3;
        }
        fm_error_clear(&ctx->error);
        failures++;
    }
    if (failures < 20) return 4;
    if (fm_checkpointer_save(ctx, k, &c.checkpoint) != FM_OK) return 5;
    content_clear(&c);
    if (content_read(ctx, &c, root, 1) != FM_OK || content_wrong(&c, 8) != 0) return 6;
    content_free(&c);
    fm_checkpointer_free(k);
    fm_mesh_free(mesh);
    fm_ctx_free(ctx);
    return 0;
}

static void full_disk(fm_ctx *ctx) {
    (void)ctx;
    char root[512];
    snprintf(root, sizeof root, "%s/full", test_folder());
    fflush(stdout);
    pid_t pid = fork();
    CHECK(pid >= 0, "fork");
    if (pid == 0) {
        /* HDF5 keeps what it could not write: that is no leak of ours. */
        setenv("ASAN_OPTIONS", "detect_leaks=0", 1);
        execl("/proc/self/exe", "full_disk_test", "--child", root, (char *)NULL);
        _exit(127);
    }
    int status;
    CHECK(waitpid(pid, &status, 0) == pid, "waitpid");
    CHECK(WIFEXITED(status), "killed by signal %d", WTERMSIG(status));
    CHECK(WEXITSTATUS(status) == 0, "exit code %d", WEXITSTATUS(status));
}

int main(int argc, char **argv) {
    static const test_case cases[] = {{"full_disk", full_disk}};
    if (argc == 3 && strcmp(argv[1], "--child") == 0) return child(argv[2]);
    return test_main(argc, argv, cases, 1);
}
