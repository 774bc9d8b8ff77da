#include "tests/parallel/ranks.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static fm_comm *world;
static fm_mpi_config config;

fm_comm *ranks_world(void) { return world; }
bool ranks_threaded(void) { return config.progress >= 0; }

/* The number behind `option`, which is ours; the rest is the runner's. */
static double take(const char *option, int *argc, char **argv) {
    for (int i = 1; i + 1 < *argc; i++) {
        if (strcmp(argv[i], option) != 0) continue;
        double value = strtod(argv[i + 1], NULL);
        memmove(argv + i, argv + i + 2, (size_t)(*argc - i - 1) * sizeof *argv);
        *argc -= 2;
        return value;
    }
    return 0;
}

static void die(fm_mpi *mpi, const char *message) {
    fprintf(stderr, "%s\n", message);
    if (mpi) fm_mpi_abort(mpi, 1);
    exit(1);
}

/* Whether the case failed somewhere: counted as a failure on each rank, so that all say the same. */
static void agree(test *t, fm_mpi *mpi) {
    int32_t failed = t->case_failed;
    fm_error_clear(&t->ctx->error);
    if (fm_all_reduce_now(world, t->ctx, FM_I32, &failed, 1, FM_MAX) != FM_OK)
        die(mpi, t->ctx->error.message);
    if (failed && !t->case_failed) test_fail(t, "failed on another rank");
}

int ranks_program(int argc, char **argv, const test_case *cases, int n) {
    test t;
    fm_error err = {0};
    fm_mpi *mpi = NULL;
    config.count_limit = (int64_t)take("--count-limit", &argc, argv);
    config.progress = take("--progress", &argc, argv);
    test_init(&t, argc, argv);
    if (fm_mpi_start(&config, &err, &mpi) != FM_OK) die(NULL, err.message);
    if (test_open(&t, NULL, &err, &t.ctx) != FM_OK) die(mpi, err.message);
    if (fm_comm_mpi(mpi, t.ctx, &world) != FM_OK) die(mpi, t.ctx->error.message);
    if (world->rank > 0) printf("rank %d of %d is here\n", world->rank, world->size);
    for (int i = 0; i < n; i++) {
        if (!test_begin(&t, cases[i].label)) continue;
        if (fm_barrier_now(world, t.ctx) != FM_OK) die(mpi, t.ctx->error.message);
        cases[i].run(&t);
        agree(&t, mpi);
        test_end(&t);
    }
    int status = world->rank == 0 ? test_finish(&t) : t.failed > 0;
    fflush(stdout);
    fm_comm_free(world);
    fm_ctx_free(t.ctx);
    fm_mpi_stop(mpi);
    return status;
}
