/* Saving: a copy on the main thread, writing in a thread, the commit on the main thread again. */
#include "io/checkpoint.h"
#include "io/writer.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <unistd.h>

struct fm_checkpointer {
    fm_mesh *mesh;
    pid_t process; /* a fork has a copy, but neither the thread nor a say in the folder */
    char root[FM_PATH];
    int compression;
    bool asynchronous;
    fm_commit_plan
        plan;       /* from, seen: the step it loaded or saved last, the newest there was then */
    fm_notes notes; /* not handed out yet */
    char told[sizeof(fm_notes)];
    bool dead;     /* there may be step_N.dead, deleted by the last commit, to be removed */
    fm_io_env env; /* the thread's while it runs */
    int lock;      /* of root, while a save is under way */

    bool begun;   /* step_N.tmp is ours */
    bool running; /* a thread was started and not joined */
    atomic_bool written;
    pthread_t thread;
    fm_snapshot *snapshot; /* of the save under way */
    fm_error error;        /* of the thread */
    fm_notes swept;        /* of the thread */
    fm_status status;
};

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

void fm_checkpointer_fail_at(fm_checkpointer *k, int64_t n, int error_number) {
    k->env = (fm_io_env){.fail_at = n, .fail_errno = error_number};
}

/* Everything but the commit; a thread's body or a plain call. */
static void *write_shards(void *user) {
    fm_checkpointer *k = user;
    char tmp[FM_PATH];
    fm_commit_sweep(k->root, k->snapshot->manifest.step, &k->swept);
    k->status = fm_step_path_of(&k->error, k->root, k->snapshot->manifest.step, FM_STEP_TMP, tmp);
    if (k->status == FM_OK) k->status = fm_snapshot_write(&k->error, &k->env, tmp, k->snapshot);
    if (k->status == FM_OK)
        k->status = fm_commit_seal(&k->error, &k->env, k->root, &k->snapshot->manifest);
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
    int64_t step = k->snapshot->manifest.step;
    fm_notes notes = {0};
    FM_TRY(fm_commit_end(&k->error, &k->env, k->root, &k->snapshot->manifest, &k->plan, &notes));
    k->plan.from = k->plan.seen = step;
    k->dead = true;
    if (!k->asynchronous) reap(k, &notes);
    if (notes.text[0])
        fm_note(&k->notes, "checkpoint of step %lld is saved in %s; %s", (long long)step, k->root,
                notes.text);
    return FM_OK;
}

/* The thread has written, or was never needed: commits, or hands its failure up. */
static fm_status finish(fm_ctx *ctx, fm_checkpointer *k) {
    if (k->process != getpid()) return FM_OK;
    if (k->running) pthread_join(k->thread, NULL);
    k->running = false;
    if (!k->snapshot) return FM_OK;
    fm_status status = k->status;
    if (k->swept.text[0]) fm_note(&k->notes, "%s", k->swept.text);
    k->swept.text[0] = 0;
    if (status == FM_OK) status = commit(k);
    if (status != FM_OK) {
        fm_fail(&ctx->error, status, "checkpoint of step %lld was not saved: %s",
                (long long)k->snapshot->manifest.step, k->error.message);
        char tmp[FM_PATH];
        fm_error ignored = {0};
        if (k->begun && fm_step_path_of(&ignored, k->root, k->snapshot->manifest.step, FM_STEP_TMP,
                                        tmp) == FM_OK)
            (void)fm_disk_remove(&ignored, tmp);
    }
    fm_disk_unlock(k->lock);
    k->lock = -1;
    fm_snapshot_free(k->snapshot);
    k->snapshot = NULL;
    return status;
}

fm_status fm_checkpointer_wait(fm_ctx *ctx, fm_checkpointer *k) {
    fm_status status = finish(ctx, k);
    if (k->process == getpid()) reap(k, &k->notes);
    return status;
}

fm_status fm_checkpointer_poll(fm_ctx *ctx, fm_checkpointer *k) {
    return k->snapshot && atomic_load(&k->written) ? finish(ctx, k) : FM_OK;
}

void fm_checkpointer_loaded(fm_checkpointer *k, int64_t step, int64_t newest) {
    k->plan.from = step;
    k->plan.seen = newest;
}

bool fm_checkpointer_busy(const fm_checkpointer *k) { return k->snapshot != NULL; }

const char *fm_checkpointer_notes(fm_checkpointer *k) {
    if (!k->notes.text[0]) return NULL;
    memcpy(k->told, k->notes.text, sizeof k->told);
    k->notes.text[0] = 0;
    return k->told;
}

/* The largest number is the one to go on from, so a lower one must be a step back that somebody meant:
 * of a run that loaded from here, and knows what it leaves. The same number replaces that checkpoint,
 * which only the run that it belongs to may do; whoever has loaded or saved nothing here is another. */
static fm_status check_order(fm_checkpointer *k, int64_t step) {
    fm_steps all = {0};
    const fm_commit_plan *plan = &k->plan;
    fm_status status = fm_steps_restore(&k->error, k->root);
    if (status == FM_OK) status = fm_steps_complete(&k->error, k->root, &all);
    int64_t newest = status == FM_OK && all.n > 0 ? all.items[all.n - 1] : -1;
    free(all.items);
    if (status != FM_OK || step > newest) return status;
    const char *is = step == newest ? "there is already" : "it is below";
    if (plan->from < 0)
        return fm_fail(&k->error, FM_ERR_VALUE,
                       "%s step %lld, the newest in %s, from where nothing was loaded: two runs "
                       "would be mixed; "
                       "save into another folder, or load first",
                       is, (long long)newest, k->root);
    if (step < plan->from || newest > plan->seen)
        return fm_fail(
            &k->error, FM_ERR_VALUE,
            "%s step %lld, the newest in %s, and step %lld was loaded or saved here last: "
            "save into another folder, or load the step to go on from first",
            is, (long long)newest, k->root, (long long)plan->from);
    return FM_OK;
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

fm_status fm_checkpointer_save(fm_ctx *ctx, fm_checkpointer *k, const fm_ckpt_content *content) {
    FM_CHECK(k->process == getpid(), FM_ERR_STATE,
             "save: this checkpointer belongs to process %d, and this is %d, forked from it; make "
             "another",
             (int)k->process, (int)getpid());
    FM_TRY(finish(ctx, k));
    fm_snapshot *snapshot;
    FM_TRY(fm_snapshot_take(ctx, k->mesh, content, k->compression, !k->asynchronous, &snapshot));
    k->snapshot = snapshot;
    k->status = FM_OK;
    fm_error_clear(&k->error);
    atomic_store(&k->written, false);
    char tmp[FM_PATH];
    k->begun = false;
    k->status = fm_commit_lock(&k->error, &k->env, k->root, &k->lock);
    if (k->status != FM_OK) return finish(ctx, k);
    k->status = check_order(k, content->step);
    if (k->status != FM_OK) return finish(ctx, k);
    k->begun = true;
    k->status = fm_commit_begin(&k->error, &k->env, k->root, content->step, tmp);
    if (k->status != FM_OK) return finish(ctx, k);
    if (k->asynchronous && start_thread(k) == 0) {
        k->running = true;
        return FM_OK;
    }
    write_shards(k); /* also where no thread could be had */
    return finish(ctx, k);
}

void fm_checkpointer_free(fm_checkpointer *k) {
    if (!k) return;
    if (k->process != getpid()) {
        fm_snapshot_free(k->snapshot);
        free(k);
        return;
    }
    if (k->running) pthread_join(k->thread, NULL);
    if (k->snapshot && k->status == FM_OK) (void)commit(k);
    reap(k, &k->notes);
    fm_disk_unlock(k->lock);
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
