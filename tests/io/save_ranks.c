/* Checkpoints of several ranks: what each writes, what all are told, what any number of ranks reads.
 *
 *   save_ranks                     the cases, under mpirun
 *   save_ranks --for-ever ROOT     saves step after step until it is killed (kill_ranks_test.py)
 *   save_ranks --write ROOT KIND   saves step 1 (format_test.py) */
#include "io/steps.h"
#include "tests/io/split.h"
#include "tests/parallel/ranks.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static char root[512];
static int64_t scale = 1; /* of the contents */

static int size(void) { return ranks_world()->size; }
static int rank(void) { return ranks_world()->rank; }

/* A fresh folder, the same on all ranks; the ranks remove it together. */
static void make_root(test *t) {
    static char path[512];
    if (rank() == 0) {
        const char *tmp = getenv("TEST_TMPDIR");
        snprintf(path, sizeof path, "%s/fmoe_ranks_XXXXXX", tmp ? tmp : "/tmp");
        if (!mkdtemp(path)) path[0] = 0;
    }
    EXPECT_OK(t, fm_broadcast_now(ranks_world(), t->ctx, FM_I32, path, sizeof path / 4, 0));
    EXPECT(t, path[0], "no folder");
    snprintf(root, sizeof root, "%.400s/run", path);
}

static void remove_root(test *t) {
    EXPECT_OK(t, fm_barrier_now(ranks_world(), t->ctx));
    *strrchr(root, '/') = 0;
    if (rank() == 0) EXPECT_OK(t, fm_disk_remove(&t->ctx->error, root));
}

static const char *step_path(int64_t step) {
    static char path[600];
    snprintf(path, sizeof path, "%s/step_%08lld", root, (long long)step);
    return path;
}

/* The same on all ranks? */
static bool agreed(test *t, fm_status status) {
    const char *text = status == FM_OK ? "" : t->ctx->error.message;
    int64_t mine = (int64_t)fm_mix64(fm_rng_stream(text) + (uint64_t)status), all[16];
    if (fm_all_gather_now(ranks_world(), t->ctx, FM_I64, all, &mine, 1) != FM_OK) return false;
    for (int r = 0; r < size(); r++)
        if (all[r] != all[0]) return false;
    return true;
}

typedef struct saver {
    fm_mesh *mesh;
    fm_checkpointer *k;
} saver;

static saver open_saver(test *t, fm_mesh_config config, bool asynchronous) {
    saver s = {0};
    fm_ckpt_config c = {root, 2, asynchronous, 0};
    if (fm_mesh_new(t->ctx, &config, ranks_world(), &s.mesh) != FM_OK ||
        fm_checkpointer_new(t->ctx, s.mesh, &c, &s.k) != FM_OK)
        test_fail(t, "%s", t->ctx->error.message);
    return s;
}

static void close_saver(saver *s) {
    fm_checkpointer_free(s->k);
    fm_mesh_free(s->mesh);
}

static fm_status save(test *t, fm_checkpointer *k, split_kind kind, int64_t step, bool wait) {
    split c;
    split_make(&c, kind, rank(), size(), step, (int)step, scale);
    fm_status status = fm_checkpointer_save(t->ctx, k, &c.checkpoint);
    split_free(&c); /* in the background it has its own copy */
    if (status == FM_OK && wait) status = fm_checkpointer_wait(t->ctx, k);
    return status;
}

/* All of step `step`, as each of `readers` ranks would have it. */
static void read_as(test *t, split_kind kind, int readers, int64_t step) {
    for (int r = 0; r < readers; r++) {
        split c;
        int64_t wrong;
        split_make(&c, kind, r, readers, step, 0, scale);
        fm_status status = split_read(t->ctx, step_path(step), &c, (int)step, &wrong);
        split_free(&c);
        EXPECT_OK(t, status);
        EXPECT(t, wrong == 0, "step %d as %d of %d, kind %d: %d wrong", (int)step, r, readers,
               (int)kind, (int)wrong);
    }
}

/* As one rank's, it is equal to what it was made of. */
static void merge(test *t, int64_t step) {
    char merged[560], path[640];
    snprintf(merged, sizeof merged, "%s/merged", root);
    snprintf(path, sizeof path, "%s/step_%08lld", merged, (long long)step);
    EXPECT_OK(t, fm_ckpt_merge(t->ctx, step_path(step), merged));
    EXPECT_OK(t, fm_ckpt_verify(t->ctx, path));
    fm_ckpt_reader *one, *many;
    EXPECT_OK(t, fm_ckpt_open(t->ctx, path, &one));
    EXPECT_OK(t, fm_ckpt_open(t->ctx, step_path(step), &many));
    EXPECT(t, fm_ckpt_count(one) == SPLIT_ARRAYS, "%d arrays", (int)fm_ckpt_count(one));
    for (int i = 0; i < SPLIT_ARRAYS; i++) {
        fm_ckpt_difference d;
        EXPECT_OK(t, fm_ckpt_compare(t->ctx, many, one, fm_ckpt_at(one, i).name, &d));
        EXPECT(t, d.unequal == 0 && d.max_abs == 0 && d.relative == 0, "%d differ", (int)d.unequal);
    }
    fm_ckpt_close(one);
    fm_ckpt_close(many);
}

/* Every way of splitting is written, and read in every way by 1, 3 and 5: the ranks share the work. */
static void any_to_any(test *t) {
    make_root(t);
    saver s = open_saver(t, fm_mesh_config_default(), false);
    int turn = 0;
    for (split_kind kind = 0; kind < SPLIT_KINDS; kind++) {
        int64_t step = (int)kind + 1;
        EXPECT_OK(t, save(t, s.k, kind, step, true));
        if (rank() == 0) merge(t, step);
        for (split_kind as = 0; as < SPLIT_KINDS; as++)
            for (int readers = 1; readers <= 5; readers += 2)
                if (turn++ % size() == rank()) read_as(t, as, readers, step);
    }
    close_saver(&s);
    remove_root(t);
}

/* The same in the background, one save after another. */
static void in_the_background(test *t) {
    make_root(t);
    saver s = open_saver(t, fm_mesh_config_default(), true);
    for (split_kind kind = 0; kind < SPLIT_KINDS; kind++)
        EXPECT_OK(t, save(t, s.k, kind, (int)kind + 1, false));
    EXPECT_OK(t, fm_checkpointer_wait(t->ctx, s.k));
    for (split_kind kind = SPLIT_KINDS - 2; kind < SPLIT_KINDS; kind++) { /* what is kept */
        if (rank() == 0) EXPECT_OK(t, fm_ckpt_verify(t->ctx, step_path((int)kind + 1)));
        read_as(t, kind, size(), (int)kind + 1);
    }
    close_saver(&s);
    remove_root(t);
}

static bool there(const char *name) {
    char path[1024];
    snprintf(path, sizeof path, "%s/%s", root, name);
    return access(path, F_OK) == 0;
}

/* One file a rank and group, named by the mesh; nothing is left beside them. */
static void files(test *t) {
    make_root(t);
    fm_mesh_config config = fm_mesh_config_default();
    config.tp = size();
    saver s = open_saver(t, config, false);
    EXPECT_OK(t, save(t, s.k, SPLIT_COLUMNS, 1, true));
    if (rank() == 0) {
        for (int r = 0; r < size(); r++) {
            char names[3][128], edp[16] = "";
            if (r > 0) snprintf(edp, sizeof edp, "-edp%02d", r);
            snprintf(names[0], sizeof names[0], "step_00000001/dense-pp00-tp%02d.h5", r);
            snprintf(names[1], sizeof names[1], "step_00000001/optim-rank%05d.h5", r);
            snprintf(names[2], sizeof names[2], "step_00000001/expert-pp00-ep00-etp00%s.h5", edp);
            for (int i = 0; i < 3; i++) EXPECT(t, there(names[i]), "%s", names[i]);
        }
        fm_ckpt_reader *r;
        EXPECT_OK(t, fm_ckpt_open(t->ctx, step_path(1), &r));
        const char *manifest = fm_ckpt_manifest_json(r);
        int listed = 0;
        for (const char *at = manifest; (at = strstr(at, ".h5\"")); at++) listed++;
        char tp[32];
        snprintf(tp, sizeof tp, "\"tp\": %d", size());
        bool layout = strstr(manifest, tp) && !there("step_00000001/shards-00001.json");
        fm_ckpt_close(r);
        EXPECT(t, listed == 3 * size() + 1 && layout, "%d files listed", listed);
    }
    close_saver(&s);
    remove_root(t);
}

/* The n-th call of one rank fails, n = 0, 1, 2 ...: all ranks are told the same, the checkpoint before
 * stays, and in the end a save succeeds. */
static void failures_of(test *t, int who, bool asynchronous) {
    make_root(t);
    saver s = open_saver(t, fm_mesh_config_default(), asynchronous);
    EXPECT_OK(t, save(t, s.k, SPLIT_FRAGMENTS, 1, true));
    int failed = 0, n = 0;
    for (;; n++) {
        EXPECT(t, n < 300, "the save never succeeds");
        if (rank() == who) fm_checkpointer_fail_at(s.k, n, ENOSPC);
        fm_status status = save(t, s.k, SPLIT_FRAGMENTS, 2, true);
        EXPECT(t, agreed(t, status), "call %d: %s", n, t->ctx->error.message);
        bool noted = fm_checkpointer_notes(s.k) != NULL;
        int32_t any = noted;
        EXPECT_OK(t, fm_all_reduce_now(ranks_world(), t->ctx, FM_I32, &any, 1, FM_MAX));
        if (status == FM_OK && !any) break;
        read_as(t, SPLIT_THIRDS, 1, status == FM_OK ? 2 : 1);
        if (status == FM_OK) continue; /* what failed came behind the commit */
        char prefix[64] = "checkpoint of step 2 was not saved";
        if (who > 0) snprintf(prefix, sizeof prefix, "rank %d: ", who);
        EXPECT(t,
               status == FM_ERR_IO && strncmp(t->ctx->error.message, prefix, strlen(prefix)) == 0,
               "call %d: %s", n, t->ctx->error.message);
        fm_error_clear(&t->ctx->error);
        EXPECT_OK(t, fm_barrier_now(ranks_world(), t->ctx)); /* who reads is done */
        failed++;
    }
    EXPECT(t, failed > 10, "only %d calls could fail", failed);
    read_as(t, SPLIT_COLUMNS, 2, 2);
    EXPECT(t, !there("step_00000002.tmp"), "step_00000002.tmp is left");
    close_saver(&s);
    remove_root(t);
}

static void failures_of_the_first(test *t) { failures_of(t, 0, false); }
static void failures_of_the_last(test *t) { failures_of(t, size() - 1, false); }
static void failures_in_the_background(test *t) { failures_of(t, size() - 1, true); }

/* Rank 0 commits between steps, without messages; the others learn of it in the next save or wait. */
static void poll_commits(test *t) {
    make_root(t);
    saver s = open_saver(t, fm_mesh_config_default(), true);
    EXPECT_OK(t, save(t, s.k, SPLIT_THIRDS, 1, false));
    for (int i = 0; !there("step_00000001/manifest.json"); i++) {
        EXPECT(t, i < 3000, "it is never committed");
        EXPECT_OK(t, fm_checkpointer_poll(t->ctx, s.k));
        fm_steps_pause();
    }
    EXPECT(t, fm_checkpointer_busy(s.k) == (size() > 1), "only alone one was told");
    EXPECT_OK(t, save(t, s.k, SPLIT_THIRDS, 2, false));
    EXPECT_OK(t, fm_checkpointer_wait(t->ctx, s.k));
    EXPECT(t, !fm_checkpointer_busy(s.k), "all were told");
    read_as(t, SPLIT_FIRST, 1, 1);
    read_as(t, SPLIT_FIRST, 1, 2);
    close_saver(&s);
    remove_root(t);
}

/* A failure that rank 0 finds between steps is a note there, and an error of the next call on all. */
static void poll_fails(test *t) {
    int last = size() - 1;
    if (last == 0) return; /* alone it is returned there: tests of one rank */
    make_root(t);
    saver s = open_saver(t, fm_mesh_config_default(), true);
    if (rank() == last) fm_checkpointer_fail_at(s.k, 2, EDQUOT);
    EXPECT_OK(t, save(t, s.k, SPLIT_THIRDS, 1, false));
    if (rank() == 0) {
        const char *notes = NULL;
        for (int i = 0; !notes; i++) {
            EXPECT(t, i < 3000, "it is never noticed");
            EXPECT_OK(t, fm_checkpointer_poll(t->ctx, s.k));
            notes = fm_checkpointer_notes(s.k);
            fm_steps_pause();
        }
        EXPECT(t, strstr(notes, "rank ") && strstr(notes, "the next save raises it"), "%s", notes);
        EXPECT_OK(t, fm_checkpointer_poll(t->ctx, s.k));
        EXPECT(t, !fm_checkpointer_notes(s.k), "it is noted once");
    }
    fm_status status = save(t, s.k, SPLIT_THIRDS, 2, false);
    EXPECT(t, agreed(t, status), "%s", t->ctx->error.message);
    EXPECT_ERROR(t, status, FM_ERR_IO, "checkpoint of step 1 was not saved");
    EXPECT_OK(t, save(t, s.k, SPLIT_THIRDS, 2, true)); /* the failure is told once */
    EXPECT(t, !there("step_00000001") && !there("step_00000001.tmp"), "something is left");
    close_saver(&s);
    remove_root(t);
}

/* What is refused is refused to all, and nothing is begun. */
static void refused(test *t) {
    make_root(t);
    int last = size() - 1;
    saver s = open_saver(t, fm_mesh_config_default(), false);
    EXPECT_OK(t, save(t, s.k, SPLIT_THIRDS, 5, true));
    fm_status status = save(t, s.k, SPLIT_THIRDS, 4, true);
    EXPECT(t, agreed(t, status), "%s", t->ctx->error.message);
    EXPECT_ERROR(t, status, FM_ERR_VALUE, "step 4", "below step 5");
    split c;
    split_make(&c, SPLIT_COLUMNS, rank(), size(), rank() == last ? 7 : 6, 6, 1);
    if (last > 0) {
        status = fm_checkpointer_save(t->ctx, s.k, &c.checkpoint);
        EXPECT(t, agreed(t, status), "%s", t->ctx->error.message);
        EXPECT_ERROR(t, status, FM_ERR_VALUE, "step is 6 on rank 0 and 7 on rank");
    }
    c.checkpoint.step = 6;
    if (rank() == last && last > 0) c.arrays[4].region.n_boxes = 0; /* a part is missing */
    if (last == 0) c.arrays[4].region.global_shape[0]++;
    status = fm_checkpointer_save(t->ctx, s.k, &c.checkpoint);
    EXPECT(t, agreed(t, status), "%s", t->ctx->error.message);
    EXPECT_ERROR(t, status, FM_ERR_STATE, "each element once");
    if (rank() == last) memcpy(c.arrays[1].name, c.arrays[0].name, sizeof c.arrays[1].name);
    status = fm_checkpointer_save(t->ctx, s.k, &c.checkpoint);
    EXPECT(t, agreed(t, status), "%s", t->ctx->error.message);
    EXPECT_ERROR(t, status, FM_ERR_VALUE, "two arrays are called");
    EXPECT_OK(t, fm_barrier_now(ranks_world(), t->ctx)); /* rank 0 cleans up */
    EXPECT(t, !there("step_00000006") && !there("step_00000006.tmp"), "it has begun");
    EXPECT_OK(t, fm_barrier_now(ranks_world(), t->ctx));
    split_free(&c);
    EXPECT_OK(t, save(t, s.k, SPLIT_LAST, 6, true));
    close_saver(&s);
    remove_root(t);
}

/* At the end of a program no rank may wait for a message: rank 0 commits from what it sees. */
static void at_the_end(test *t) {
    make_root(t);
    int last = size() - 1;
    saver s = open_saver(t, fm_mesh_config_default(), true);
    EXPECT_OK(t, save(t, s.k, SPLIT_FRAGMENTS, 1, false));
    EXPECT_OK(t, fm_checkpointer_end(t->ctx, s.k));
    read_as(t, SPLIT_FIRST, 1, 1);
    EXPECT_OK(t, fm_barrier_now(ranks_world(), t->ctx));
    /* the last rank fails in every call in turn, that of saying so included */
    for (int n = 0, silent = 0; last > 0; n++) {
        EXPECT(t, n < 100, "the save never succeeds");
        if (rank() == last) fm_checkpointer_fail_at(s.k, n, ENOSPC);
        EXPECT_OK(t, save(t, s.k, SPLIT_FRAGMENTS, 2, false));
        fm_checkpointer_set_patience(s.k, 1);
        fm_status status = fm_checkpointer_end(t->ctx, s.k);
        fm_checkpointer_set_patience(s.k, 600);
        int32_t failed = status != FM_OK && rank() == 0;
        const char *words = t->ctx->error.message;
        silent += failed && strstr(words, "has not written its part");
        EXPECT(t, !failed || strstr(words, "was not saved: rank "), "%s", words);
        fm_error_clear(&t->ctx->error);
        EXPECT_OK(t,
                  fm_barrier_now(ranks_world(), t->ctx)); /* the others have seen the end as well */
        EXPECT_OK(t, fm_broadcast_now(ranks_world(), t->ctx, FM_I32, &failed, 1, 0));
        EXPECT_OK(t, fm_broadcast_now(ranks_world(), t->ctx, FM_I32, &silent, 1, 0));
        if (failed) continue;
        EXPECT(t, n > 10 && silent > 0, "%d calls could fail, %d silently", n, silent);
        break;
    }
    if (last > 0) read_as(t, SPLIT_THIRDS, 3, 2);
    close_saver(&s);
    remove_root(t);
}

/* Saves step after step; the content of step s has seed s. Goes on from what is there. */
static void for_ever(test *t) {
    saver s = open_saver(t, fm_mesh_config_default(), true);
    int64_t newest = -1;
    if (rank() == 0) {
        int64_t *steps;
        int n;
        EXPECT_OK(t, fm_checkpoint_list(t->ctx, root, &steps, &n));
        if (n > 0) newest = steps[n - 1];
        free(steps);
    }
    EXPECT_OK(t, fm_broadcast_now(ranks_world(), t->ctx, FM_I64, &newest, 1, 0));
    if (newest >= 0) {
        read_as(t, SPLIT_THIRDS, 1, newest);
        fm_checkpointer_loaded(s.k, newest, newest);
    }
    printf("pid %d newest %d\n", (int)getpid(), (int)newest);
    fflush(stdout);
    split c;
    for (int64_t step = newest < 0 ? 0 : newest; !t->case_failed; step++) {
        split_make(&c, SPLIT_FRAGMENTS, rank(), size(), step, (int)step, scale);
        EXPECT_OK(t, fm_checkpointer_save(t->ctx, s.k, &c.checkpoint));
        split_free(&c);
    }
}

static split_kind written; /* of --write */

static void write_one(test *t) {
    saver s = open_saver(t, fm_mesh_config_default(), false);
    EXPECT_OK(t, save(t, s.k, written, 1, true));
    close_saver(&s);
}

static const test_case cases[] = {
    {"any_to_any", any_to_any},
    {"in_the_background", in_the_background},
    {"files", files},
    {"failures_of_the_first", failures_of_the_first},
    {"failures_of_the_last", failures_of_the_last},
    {"failures_in_the_background", failures_in_the_background},
    {"poll_commits", poll_commits},
    {"poll_fails", poll_fails},
    {"refused", refused},
    {"at_the_end", at_the_end},
};

int main(int argc, char **argv) {
    bool forever = argc == 3 && strcmp(argv[1], "--for-ever") == 0;
    if (forever || (argc == 4 && strcmp(argv[1], "--write") == 0)) {
        const test_case one = {argv[1], forever ? for_ever : write_one};
        snprintf(root, sizeof root, "%s", argv[2]);
        if (forever) scale = 200;
        if (!forever) written = (split_kind)(strtol(argv[3], NULL, 10) % SPLIT_KINDS);
        return ranks_program(1, argv, &one, 1);
    }
    return ranks_program(argc, argv, cases, (int)(sizeof cases / sizeof *cases));
}
