#include "io/agree.h"
#include "io/steps.h"
#include "tensor/rng.h"
#include "tensor/seconds.h"

#include <dirent.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

static int64_t look(const char *path) {
    DIR *folder = opendir(path);
    if (!folder) return -1;
    int64_t seen = 0;
    for (struct dirent *e; (e = readdir(folder));) {
        struct stat s;
        if (fstatat(dirfd(folder), e->d_name, &s, AT_SYMLINK_NOFOLLOW) == 0)
            seen += 1 + (S_ISREG(s.st_mode) ? (int64_t)s.st_size : 0);
    }
    closedir(folder);
    return seen;
}

bool fm_patience_left(fm_patience *p) {
    enum { BETWEEN_LOOKS = 1 };
    double now = fm_seconds();
    bool first = p->since <= 0;
    if (first || now - p->looked >= BETWEEN_LOOKS || now - p->since >= p->limit) {
        int64_t seen = look(p->folder);
        p->looked = now;
        if (first || seen != p->seen) p->since = now;
        p->seen = seen;
    }
    return now - p->since < p->limit;
}

/* Not fm_comm_wait, whose time limit is meant for ranks that compute: here one may wait for a disk. */
static fm_status run(fm_ctx *ctx, fm_comm *comm, fm_patience *patience, const fm_collective *w) {
    fm_request r;
    bool done = false;
    FM_TRY(fm_comm_start(comm, ctx, w, &r));
    for (int turn = 0; !done; turn++) {
        FM_TRY(fm_comm_test(&r, ctx, &done));
        if (done) break;
        FM_CHECK(fm_patience_left(patience), FM_ERR_COMM,
                 "a checkpoint's ranks wait for one that has not come, and nothing has changed in "
                 "%s for %.0f s",
                 patience->folder, patience->limit);
        if (turn < 1000)
            sched_yield();
        else
            fm_steps_pause();
    }
    return FM_OK;
}

typedef struct words {
    int32_t status;
    char text[sizeof((fm_error *)0)->message];
} words;

/* Rank `root`'s error becomes everybody's. */
static fm_status hand_out(fm_ctx *ctx, fm_comm *comm, fm_patience *patience, int root) {
    words *w = calloc(1, sizeof *w); /* the transport's until it is done */
    FM_CHECK(w, FM_ERR_OOM, "out of memory: an error message");
    if (comm->rank == root) {
        w->status = (int32_t)ctx->error.status;
        int n = root == 0 ? 0 : snprintf(w->text, sizeof w->text, "rank %d: ", root);
        snprintf(w->text + n, sizeof w->text - (size_t)n, "%s", ctx->error.message);
    }
    fm_error_clear(&ctx->error);
    fm_collective broadcast = {.kind = FM_BROADCAST,
                               .dt = FM_I32,
                               .y = w,
                               .n = (int64_t)(sizeof *w / sizeof(int32_t)),
                               .peer = root};
    FM_TRY(run(ctx, comm, patience, &broadcast)); /* else *w may still be written: better a leak */
    fm_status status = fm_fail(&ctx->error, (fm_status)w->status, "%s", w->text);
    free(w);
    return status;
}

fm_status fm_save_agree(fm_ctx *ctx, fm_comm *comm, fm_patience *patience, fm_status mine, int n,
                        const int64_t *numbers, int64_t *all) {
    if (comm->size == 1) {
        if (n > 0) memcpy(all, numbers, (size_t)n * sizeof *all);
        return mine;
    }
    if (mine == FM_ERR_COMM) return mine; /* nothing more may be sent */
    size_t row = (size_t)n + 1;
    int64_t *table = calloc(((size_t)comm->size + 1) * row, sizeof *table);
    FM_CHECK(table, FM_ERR_OOM, "out of memory: %d ranks' numbers", comm->size);
    int64_t *here = table + (size_t)comm->size * row;
    here[0] = (int64_t)mine;
    if (n > 0) memcpy(here + 1, numbers, (size_t)n * sizeof *here);
    fm_collective gather = {
        .kind = FM_ALL_GATHER, .dt = FM_I64, .y = table, .x = here, .n = (int64_t)row};
    FM_TRY(run(ctx, comm, patience, &gather)); /* as above */
    int failed = comm->size;
    for (int r = comm->size - 1; r >= 0; r--) {
        const int64_t *of_rank = table + (size_t)r * row;
        if (of_rank[0] != FM_OK) failed = r;
        if (n > 0) memcpy(all + (size_t)r * (size_t)n, of_rank + 1, (size_t)n * sizeof *all);
    }
    free(table);
    return failed < comm->size ? hand_out(ctx, comm, patience, failed) : FM_OK;
}

static uint64_t new_id(void) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return fm_mix64((uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec +
                    fm_mix64((uint64_t)getpid()));
}

fm_status fm_save_agree_to_begin(fm_ctx *ctx, fm_comm *comm, fm_patience *patience, fm_status mine,
                                 int64_t step, uint64_t balance, uint64_t *id) {
    enum { STEP, BALANCE, ID, NUMBERS };
    int64_t numbers[NUMBERS] = {step, (int64_t)balance, (int64_t)new_id()};
    int64_t *all = calloc((size_t)comm->size, sizeof numbers);
    FM_CHECK(all, FM_ERR_OOM, "out of memory: %d ranks' numbers", comm->size);
    fm_status status = fm_save_agree(ctx, comm, patience, mine, NUMBERS, numbers, all);
    uint64_t sum = 0;
    for (int r = 0; r < comm->size; r++) {
        const int64_t *n = all + (ptrdiff_t)r * NUMBERS;
        sum += (uint64_t)n[BALANCE];
        if (status == FM_OK && n[STEP] != all[STEP])
            status = fm_fail(&ctx->error, FM_ERR_VALUE,
                             "save: step is %lld on rank 0 and %lld on rank %d",
                             (long long)all[STEP], (long long)n[STEP], r);
    }
    if (status == FM_OK && sum != 0)
        status = fm_fail(&ctx->error, FM_ERR_STATE,
                         "checkpoint: the arrays that the %d ranks hand over do not hold each "
                         "element once, as their global shapes want it",
                         comm->size);
    *id = (uint64_t)all[ID];
    free(all);
    return status;
}
