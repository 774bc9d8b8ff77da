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
    int keep_last, compression;
    bool asynchronous;
    fm_io_env env; /* the thread's while it runs */
    int lock;      /* of root, while a save is under way */

    bool begun;   /* step_N.tmp is ours */
    bool running; /* a thread was started and not joined */
    atomic_bool written;
    pthread_t thread;
    fm_snapshot *snapshot; /* of the save under way */
    fm_error error;        /* of the thread */
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
    k->keep_last = c->keep_last;
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
    k->status = fm_commit_path(&k->error, k->root, k->snapshot->manifest.step, ".tmp", tmp);
    if (k->status == FM_OK) k->status = fm_snapshot_write(&k->error, &k->env, tmp, k->snapshot);
    if (k->status == FM_OK)
        k->status = fm_commit_seal(&k->error, &k->env, k->root, &k->snapshot->manifest);
    atomic_store(&k->written, true);
    return NULL;
}

/* The thread has written, or was never needed: commits, or hands its failure up. */
static fm_status finish(fm_ctx *ctx, fm_checkpointer *k) {
    if (k->process != getpid()) return FM_OK;
    if (k->running) pthread_join(k->thread, NULL);
    k->running = false;
    if (!k->snapshot) return FM_OK;
    fm_status status = k->status;
    if (status == FM_OK)
        status = fm_commit_end(&k->error, &k->env, k->root, &k->snapshot->manifest, k->keep_last);
    if (status != FM_OK) {
        fm_fail(&ctx->error, status, "checkpoint of step %lld was not saved: %s",
                (long long)k->snapshot->manifest.step, k->error.message);
        char tmp[FM_PATH];
        fm_error ignored = {0};
        if (k->begun &&
            fm_commit_path(&ignored, k->root, k->snapshot->manifest.step, ".tmp", tmp) == FM_OK)
            (void)fm_disk_remove(&ignored, tmp);
    }
    fm_disk_unlock(k->lock);
    k->lock = -1;
    fm_snapshot_free(k->snapshot);
    k->snapshot = NULL;
    return status;
}

fm_status fm_checkpointer_wait(fm_ctx *ctx, fm_checkpointer *k) { return finish(ctx, k); }

fm_status fm_checkpointer_poll(fm_ctx *ctx, fm_checkpointer *k) {
    return k->snapshot && atomic_load(&k->written) ? finish(ctx, k) : FM_OK;
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
    if (k->snapshot && k->status == FM_OK)
        (void)fm_commit_end(&k->error, &k->env, k->root, &k->snapshot->manifest, k->keep_last);
    fm_disk_unlock(k->lock);
    fm_snapshot_free(k->snapshot);
    free(k);
}

fm_status fm_checkpoint_list(fm_ctx *ctx, const char *root, int64_t **steps, int *n) {
    return fm_commit_list(&ctx->error, root, steps, n);
}
