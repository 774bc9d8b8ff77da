/* kill -9 at a random moment of saving: the newest complete checkpoint is whole, and the next run
 * goes on from it. KILLS says how often (argument 1; 3 by default); the moments come from a seed. */
#include "tests/io/check.h"
#include "tests/io/content.h"

#include <signal.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* Saves step after step until it is killed. Content of step s has seed s. */
static void save_for_ever(const char *root) {
    fm_ctx *ctx;
    fm_mesh *mesh;
    fm_checkpointer *k;
    fm_mesh_config config = fm_mesh_config_default();
    fm_ckpt_config cc = {root, 2, true, 0};
    int64_t *steps;
    int n;
    if (fm_ctx_new("cpu", NULL, NULL, 0, &ctx) != FM_OK ||
        fm_mesh_new(ctx, &config, NULL, &mesh) != FM_OK ||
        fm_checkpointer_new(ctx, mesh, &cc, &k) != FM_OK ||
        fm_checkpoint_list(ctx, root, &steps, &n) != FM_OK)
        _exit(1);
    if (n > 0) fm_checkpointer_loaded(k, steps[n - 1], steps[n - 1]);
    for (int64_t step = n ? steps[n - 1] : 0;; step++) { /* the newest one is replaced first */
        content c;
        content_make(&c, step, (int)step, 300, "{}");
        if (fm_checkpointer_save(ctx, k, &c.checkpoint) != FM_OK) _exit(1);
        content_free(&c);
    }
}

static int64_t newest(fm_ctx *ctx, const char *root) {
    int64_t *steps, step = -1;
    int n;
    if (fm_checkpoint_list(ctx, root, &steps, &n) != FM_OK) return -2;
    for (int i = 0; i < n; i++) step = steps[i];
    free(steps);
    return step;
}

static int kills = 3;

static void killed(fm_ctx *ctx) {
    char root[512];
    snprintf(root, sizeof root, "%s/killed", test_folder());
    int64_t last = -1;
    for (int i = 0; i < kills; i++) {
        pid_t child = fork();
        CHECK(child >= 0, "fork");
        if (child == 0) save_for_ever(root);
        /* a few saves long (each waits for the disk), somewhere else each time */
        long us = 150000 + (long)(fm_mix64((uint64_t)i + 1) % 800000);
        nanosleep(&(struct timespec){0, us * 1000}, NULL);
        kill(child, SIGKILL);
        int status;
        CHECK(waitpid(child, &status, 0) == child && WIFSIGNALED(status),
              "kill %d: the child ended by itself (%d)", i, status);
        int64_t step = newest(ctx, root);
        CHECK(step >= last, "kill %d: step %lld after %lld", i, (long long)step, (long long)last);
        last = step;
        if (step < 0) continue; /* killed before the first was complete */
        content c;
        content_make(&c, step, 0, 300, "{}");
        content_clear(&c);
        CHECK_OK(content_read(ctx, &c, root, step));
        CHECK(content_wrong(&c, (int)step) == 0, "kill %d: step %lld is damaged", i,
              (long long)step);
        char path[600];
        snprintf(path, sizeof path, "%s/step_%08lld", root, (long long)step);
        CHECK_OK(fm_ckpt_verify(ctx, path));
        content_free(&c);
    }
    CHECK(last > 0, "no checkpoint was ever complete");
    printf("  %d kills, %lld steps\n", kills, (long long)last);
}

int main(int argc, char **argv) {
    static const test_case cases[] = {{"killed", killed}};
    long asked = argc > 1 ? strtol(argv[1], NULL, 10) : 0;
    if (asked > 0) {
        kills = (int)asked;
        argc--, argv++;
    }
    return test_main(argc, argv, cases, 1);
}
