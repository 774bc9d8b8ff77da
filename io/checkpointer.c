/* Saving: a copy on the main thread, writing in a thread, the commit on the main thread again. */
#include "io/agree.h"
#include "io/checkpoint.h"
#include "io/writer.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

enum { PATIENCE_S = 600 };

struct fm_checkpointer {
    fm_mesh *mesh;
    pid_t process; /* a fork has a copy, but neither the thread nor a say in the folder */
    char root[FM_PATH];
    int compression;
    bool asynchronous;
    double patience;
    fm_commit_plan
        plan;       /* from, seen: the step it loaded or saved last, the newest there was then */
    fm_notes notes; /* not handed out yet */
    char told[sizeof(fm_notes)];
    bool dead;     /* there may be step_N.dead, deleted by the last commit, to be removed */
    fm_io_env env; /* the thread's while it runs */
    int lock;      /* of root, while a save is under way; rank 0's */

    bool pending;   /* a save whose end was not told yet */
    int64_t step;   /* its step */
    uint64_t id;    /* its number: of no other save of this or another program */
    bool begun;     /* step_N.tmp is ours */
    bool announced; /* a note says that it failed */
    bool running;   /* a thread was started and not joined */
    atomic_bool written;
    pthread_t thread;
    fm_snapshot *snapshot; /* until this rank has no more to do */
    int collected;         /* rank 0: of the ranks below, what they wrote is in the manifest */
    fm_error error;        /* of the thread, then of the save */
    fm_notes swept;        /* of the thread */
    fm_status status;
};

static fm_comm *world(const fm_checkpointer *k) { return k->mesh->world_comm; }
static bool commits(const fm_checkpointer *k) { return world(k)->rank == 0; }
static bool alone(const fm_checkpointer *k) { return world(k)->size == 1; }

fm_status fm_checkpointer_new(fm_ctx *ctx, fm_mesh *mesh, const fm_ckpt_config *c,
                              fm_checkpointer **out) {
    *out = NULL;
    FM_CHECK(c->root && *c->root, FM_ERR_VALUE, "checkpointer: the path is empty");
    FM_CHECK(c->keep_last >= 1, FM_ERR_VALUE, "keep_last is %d; it must be at least 1",
             c->keep_last);
    FM_CHECK(c->compression >= 0 && c->compression <= 9, FM_ERR_VALUE,
             "compression is %d; allowed are 0 (none) to 9", c->compression);
    fm_checkpointer *k = calloc(1, sizeof *k);
    FM_CHECK(k, FM_ERR_OOM, "out of memory: a checkpointer");
    k->mesh = mesh;
    k->process = getpid();
    k->plan = (fm_commit_plan){c->keep_last, -1, -1};
    k->compression = c->compression;
    k->asynchronous = c->asynchronous;
    k->patience = PATIENCE_S;
    k->env.fail_at = -1;
    k->lock = -1;
    size_t n = strlen(c->root);
    while (n > 1 && c->root[n - 1] == '/') n--;
    if (n >= sizeof k->root) {
        free(k);
        return fm_fail(&ctx->error, FM_ERR_VALUE,
                       "checkpointer: the path has %zu bytes; allowed are %d", n, FM_PATH - 1);
    }
    memcpy(k->root, c->root, n);
    *out = k;
    return FM_OK;
}

void fm_checkpointer_set_patience(fm_checkpointer *k, double seconds) { k->patience = seconds; }

void fm_checkpointer_fail_at(fm_checkpointer *k, int64_t n, int error_number) {
    k->env = (fm_io_env){.fail_at = n, .fail_errno = error_number};
}

static fm_status tmp_of(fm_error *err, const fm_checkpointer *k, char tmp[FM_PATH]) {
    return fm_step_path_of(err, k->root, k->step, FM_STEP_TMP, tmp);
}

/* For waits in which other ranks write; a path that is too long was refused before. */
static fm_patience patience_of(const fm_checkpointer *k) {
    fm_patience p = {.limit = k->patience};
    fm_error ignored = {0};
    if (tmp_of(&ignored, k, p.folder) != FM_OK) p.folder[0] = 0;
    return p;
}

/* Where file systems lag, what rank 0 has made appears here later. */
static fm_status wait_for_folder(fm_checkpointer *k, const char *tmp) {
    enum { LAG_S = 60 };
    fm_patience p = patience_of(k);
    if (p.limit > LAG_S) p.limit = LAG_S;
    while (!fm_disk_is_folder(tmp)) {
        FM_REQUIRE(&k->error, fm_patience_left(&p), FM_ERR_IO,
                   "%s: rank 0 has made the folder, but it does not appear here", tmp);
        fm_steps_pause();
    }
    return FM_OK;
}

/* Everything but the commit; a thread's body or a plain call. */
static void *write_shards(void *user) {
    fm_checkpointer *k = user;
    fm_snapshot *s = k->snapshot;
    char tmp[FM_PATH];
    if (commits(k)) fm_commit_sweep(k->root, k->step, &k->swept);
    k->status = tmp_of(&k->error, k, tmp);
    if (k->status == FM_OK && !commits(k)) k->status = wait_for_folder(k, tmp);
    if (k->status == FM_OK) k->status = fm_snapshot_write(&k->error, &k->env, tmp, s);
    if (k->status == FM_OK) k->status = fm_commit_seal(&k->error, &k->env, k->root, &s->manifest);
    if (!commits(k)) {
        fm_manifest_part part = {k->id, k->status, k->error.message, s->manifest.n_files,
                                 s->manifest.files};
        fm_error also = {0}; /* the first failure is the one to tell */
        fm_status told = fm_manifest_part_write(&also, &k->env, tmp, world(k)->rank, &part);
        if (k->status == FM_OK && told != FM_OK)
            k->status = fm_fail(&k->error, told, "%s", also.message);
    }
    atomic_store(&k->written, true);
    return NULL;
}

/* Removing what a commit deleted takes as long as the disk wants: it is done where somebody waits
 * anyhow, or by the thread of the next save. */
static void reap(fm_checkpointer *k, fm_notes *notes) {
    if (k->dead) fm_commit_reap(k->root, notes);
    k->dead = false;
}

static fm_status commit(fm_checkpointer *k) {
    fm_notes notes = {0};
    FM_TRY(fm_commit_end(&k->error, &k->env, k->root, &k->snapshot->manifest, &k->plan, &notes));
    k->plan.from = k->plan.seen = k->step;
    k->dead = true;
    if (!k->asynchronous) reap(k, &notes);
    if (notes.text[0])
        fm_note(&k->notes, "checkpoint of step %lld is saved in %s; %s", (long long)k->step,
                k->root, notes.text);
    return FM_OK;
}

static void join(fm_checkpointer *k) {
    if (k->running) pthread_join(k->thread, NULL);
    k->running = false;
}

/* Rank 0: adds what the other ranks have written to the manifest, as far as they have. True: that is all
 * of them, or one has failed. */
static bool collect(fm_checkpointer *k) {
    char tmp[FM_PATH];
    if (k->status == FM_OK) k->status = tmp_of(&k->error, k, tmp);
    while (k->status == FM_OK && k->collected < world(k)->size) {
        bool there;
        k->status = fm_manifest_part_read(&k->error, tmp, k->collected, k->id,
                                          &k->snapshot->manifest, &there);
        if (k->status == FM_OK && !there) return false;
        k->collected++;
    }
    return true;
}

static void collect_patiently(fm_checkpointer *k) {
    fm_patience p = patience_of(k);
    while (!collect(k)) {
        if (!fm_patience_left(&p))
            k->status = fm_fail(&k->error, FM_ERR_IO,
                                "rank %d has not written its part, and nothing has changed in %s "
                                "for %.0f s",
                                k->collected, p.folder, p.limit);
        fm_steps_pause();
    }
}

/* The ranks' notes are no part of a checkpoint. */
static fm_status remove_parts(fm_checkpointer *k) {
    char tmp[FM_PATH], path[FM_PATH];
    FM_TRY(tmp_of(&k->error, k, tmp));
    for (int r = 1; r < world(k)->size; r++) {
        FM_TRY(fm_manifest_part_path(&k->error, tmp, r, path));
        FM_TRY(fm_disk_remove(&k->error, path));
    }
    return FM_OK;
}

/* Renamed first: nobody can begin another file there while it is emptied. */
static void discard(const fm_checkpointer *k) {
    char tmp[FM_PATH], dead[FM_PATH];
    fm_error ignored = {0};
    if (tmp_of(&ignored, k, tmp) != FM_OK ||
        fm_step_path_of(&ignored, k->root, k->step, FM_STEP_DEAD, dead) != FM_OK)
        return;
    bool renamed = rename(tmp, dead) == 0;
    (void)fm_disk_remove(&ignored, renamed ? dead : tmp);
}

/* What this rank has to do for its save is done: rank 0 commits, unless something has failed here or, as
 * it knows by now, elsewhere. k->status and k->error are the end of it. */
static void settle(fm_checkpointer *k) {
    if (!k->snapshot) return;
    if (k->swept.text[0]) fm_note(&k->notes, "%s", k->swept.text);
    k->swept.text[0] = 0;
    if (commits(k)) {
        if (k->status == FM_OK) k->status = remove_parts(k);
        if (k->status == FM_OK) k->status = commit(k);
        if (k->status != FM_OK && k->begun) discard(k);
        fm_disk_unlock(k->lock);
        k->lock = -1;
    }
    fm_snapshot_free(k->snapshot);
    k->snapshot = NULL;
}

static fm_status tell(fm_ctx *ctx, const fm_checkpointer *k) {
    if (k->status == FM_OK) return FM_OK;
    return fm_fail(&ctx->error, k->status, "checkpoint of step %lld was not saved: %s",
                   (long long)k->step, k->error.message);
}

/* All ranks: writes, commits, and all are told the same. */
static fm_status finish(fm_ctx *ctx, fm_checkpointer *k) {
    if (k->process != getpid() || !k->pending) return FM_OK;
    fm_patience patience = patience_of(k);
    join(k);
    k->pending = false;
    fm_status written = fm_save_agree(ctx, world(k), &patience, tell(ctx, k), 0, NULL, NULL);
    if (written != FM_OK && k->status == FM_OK)
        k->status = fm_fail(&k->error, written, "%s", ctx->error.message);
    if (k->snapshot && commits(k)) collect_patiently(k);
    settle(k);
    if (written != FM_OK || alone(k)) return written == FM_OK ? tell(ctx, k) : written;
    patience = patience_of(k);
    return fm_save_agree(ctx, world(k), &patience, tell(ctx, k), 0, NULL, NULL);
}

fm_status fm_checkpointer_wait(fm_ctx *ctx, fm_checkpointer *k) {
    fm_status status = finish(ctx, k);
    if (k->process == getpid()) reap(k, &k->notes);
    return status;
}

fm_status fm_checkpointer_poll(fm_ctx *ctx, fm_checkpointer *k) {
    if (k->process != getpid() || !k->snapshot || !atomic_load(&k->written)) return FM_OK;
    if (alone(k)) return finish(ctx, k);
    join(k);
    if (k->announced || (commits(k) && !collect(k))) return FM_OK;
    /* Where something failed others may be writing still: their folder stays until they are known to be
     * done. */
    if (k->status == FM_OK || !commits(k)) settle(k);
    if (k->status != FM_OK && commits(k)) {
        fm_note(&k->notes, "checkpoint of step %lld was not saved: %s; the next save raises it",
                (long long)k->step, k->error.message);
        k->announced = true;
    }
    return FM_OK;
}

/* The others leave the program when rank 0 is done with the folder where they wrote. */
static void wait_for_commit(fm_checkpointer *k) {
    fm_patience p = patience_of(k);
    while (k->status == FM_OK && fm_disk_is_folder(p.folder)) {
        if (!fm_patience_left(&p))
            k->status = fm_fail(&k->error, FM_ERR_IO,
                                "rank 0 does not complete it: nothing has changed in %s for %.0f s",
                                p.folder, p.limit);
        fm_steps_pause();
    }
}

static void end(fm_checkpointer *k) {
    join(k);
    k->pending = false;
    if (k->snapshot && commits(k)) collect_patiently(k);
    settle(k);
    if (!commits(k)) wait_for_commit(k);
    reap(k, &k->notes);
}

fm_status fm_checkpointer_end(fm_ctx *ctx, fm_checkpointer *k) {
    if (k->process != getpid() || !k->pending) return FM_OK;
    end(k);
    return tell(ctx, k);
}

void fm_checkpointer_loaded(fm_checkpointer *k, int64_t step, int64_t newest) {
    k->plan.from = step;
    k->plan.seen = newest;
}

bool fm_checkpointer_busy(const fm_checkpointer *k) { return k->pending; }

const char *fm_checkpointer_notes(fm_checkpointer *k) {
    if (!k->notes.text[0]) return NULL;
    memcpy(k->told, k->notes.text, sizeof k->told);
    k->notes.text[0] = 0;
    return k->told;
}

/* Signals are the main thread's: Ctrl-C must reach the interpreter. */
static int start_thread(fm_checkpointer *k) {
    sigset_t all, was;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &was);
    int failed = pthread_create(&k->thread, NULL, write_shards, k);
    pthread_sigmask(SIG_SETMASK, &was, NULL);
    return failed;
}

/* Rank 0: may this step be saved, and where. */
static fm_status begin(fm_checkpointer *k) {
    char tmp[FM_PATH];
    FM_TRY(fm_commit_lock(&k->error, &k->env, k->root, &k->lock));
    FM_TRY(fm_commit_check_order(&k->error, k->root, &k->plan, k->step));
    k->begun = true;
    return fm_commit_begin(&k->error, &k->env, k->root, k->step, tmp);
}

fm_status fm_checkpointer_save(fm_ctx *ctx, fm_checkpointer *k, const fm_ckpt_content *content) {
    FM_CHECK(k->process == getpid(), FM_ERR_STATE,
             "save: this checkpointer belongs to process %d, and this is %d, forked from it; make "
             "another",
             (int)k->process, (int)getpid());
    FM_TRY(finish(ctx, k));
    fm_status status = fm_snapshot_take(ctx, content->mesh ? content->mesh : k->mesh, content,
                                        k->compression, !k->asynchronous, &k->snapshot);
    k->step = content->step;
    k->begun = k->announced = false;
    k->collected = 1;
    k->status = FM_OK;
    fm_error_clear(&k->error);
    atomic_store(&k->written, false);
    if (status == FM_OK && commits(k)) {
        k->status = begin(k);
        status = tell(ctx, k);
    }
    fm_patience patience = patience_of(k);
    status = fm_save_agree_to_begin(ctx, world(k), &patience, status, k->step,
                                    fm_ckpt_balance(content), &k->id);
    if (status != FM_OK) {
        if (k->status == FM_OK) k->status = status; /* nothing to commit */
        settle(k);
        return status;
    }
    k->pending = true;
    if (k->asynchronous && start_thread(k) == 0) {
        k->running = true;
        return FM_OK;
    }
    write_shards(k); /* also where no thread could be had */
    return k->asynchronous ? FM_OK : finish(ctx, k);
}

void fm_checkpointer_free(fm_checkpointer *k) {
    if (!k) return;
    if (k->process == getpid() && k->pending) end(k);
    fm_snapshot_free(k->snapshot);
    free(k);
}

fm_status fm_checkpoint_list(fm_ctx *ctx, const char *root, int64_t **steps, int *n) {
    fm_steps all = {0};
    fm_status status = fm_steps_list(&ctx->error, root, &all);
    *steps = NULL;
    *n = 0;
    if (status != FM_OK) {
        free(all.items);
        return status;
    }
    *steps = all.items;
    *n = all.n;
    return FM_OK;
}
