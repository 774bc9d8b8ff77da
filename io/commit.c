#include "io/commit.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

void fm_note(fm_notes *n, const char *fmt, ...) {
    size_t used = strlen(n->text);
    if (used > 0 && used + 2 < sizeof n->text) used += (size_t)sprintf(n->text + used, "; ");
    va_list args;
    va_start(args, fmt);
    (void)vsnprintf(n->text + used, sizeof n->text - used, fmt, args);
    va_end(args);
}

/* A step_N.old that could not be put back may be the only one there is. */
static bool is_needed(const char *path, const char *old) {
    return fm_step_is_complete(old) && !fm_step_is_complete(path);
}

/* What cannot be removed (another user's, or a file that somebody has open on NFS) is in nobody's
 * way. */
static void sweep_kind(const char *root, fm_step_kind kind, int64_t but, fm_notes *notes) {
    fm_steps left = {0};
    fm_error e = {0};
    if (fm_steps_of_kind(&e, root, kind, &left) != FM_OK) fm_note(notes, "%s", e.message);
    for (int i = 0; i < left.n; i++) {
        char path[FM_PATH], leftover[FM_PATH];
        fm_error_clear(&e);
        if (left.items[i] == but || fm_step_path(&e, root, left.items[i], "", path) != FM_OK ||
            fm_step_path_of(&e, root, left.items[i], kind, leftover) != FM_OK ||
            (kind == FM_STEP_OLD && is_needed(path, leftover)))
            continue;
        if (fm_disk_remove(&e, leftover) != FM_OK)
            fm_note(notes, "a leftover stays: %s", e.message);
    }
    free(left.items);
}

void fm_commit_sweep(const char *root, int64_t step, fm_notes *notes) {
    sweep_kind(root, FM_STEP_TMP, step, notes);
    sweep_kind(root, FM_STEP_OLD, -1, notes);
    sweep_kind(root, FM_STEP_DEAD, -1, notes);
}

void fm_commit_reap(const char *root, fm_notes *notes) {
    sweep_kind(root, FM_STEP_DEAD, -1, notes);
}

enum { LOCK_TRIES = 10 };

fm_status fm_commit_lock(fm_error *err, fm_io_env *env, const char *root, int *lock) {
    *lock = -1;
    FM_TRY(fm_disk_make_folders(err, env, root));
    fm_error held = {0};
    for (int i = 1; i < LOCK_TRIES; i++) { /* a reader may be putting something back */
        if (fm_disk_lock(&held, root, lock) == FM_OK) return FM_OK;
        fm_steps_pause();
    }
    return fm_disk_lock(err, root, lock);
}

/* The largest number is the one to go on from, so a lower one must be a step back that somebody meant:
 * of a run that loaded from here, and knows what it leaves. The same number replaces that checkpoint,
 * which only the run that it belongs to may do; whoever has loaded or saved nothing here is another. */
fm_status fm_commit_check_order(fm_error *err, const char *root, const fm_commit_plan *plan,
                                int64_t step) {
    fm_steps all = {0};
    fm_status status = fm_steps_restore(err, root);
    if (status == FM_OK) status = fm_steps_complete(err, root, &all);
    int64_t newest = status == FM_OK && all.n > 0 ? all.items[all.n - 1] : -1;
    free(all.items);
    if (status != FM_OK || step > newest) return status;
    const char *is = step == newest ? "there is already" : "it is below";
    FM_REQUIRE(err, plan->from >= 0, FM_ERR_VALUE,
               "%s step %lld, the newest in %s, from where nothing was loaded: two runs would be "
               "mixed; save into another folder, or load first",
               is, (long long)newest, root);
    FM_REQUIRE(err, step >= plan->from && newest <= plan->seen, FM_ERR_VALUE,
               "%s step %lld, the newest in %s, and step %lld was loaded or saved here last: save "
               "into another folder, or load the step to go on from first",
               is, (long long)newest, root, (long long)plan->from);
    return FM_OK;
}

fm_status fm_commit_begin(fm_error *err, fm_io_env *env, const char *root, int64_t step,
                          char tmp[FM_PATH]) {
    FM_TRY(fm_disk_make_folders(err, env, root));
    FM_TRY(fm_steps_restore(err, root));
    FM_TRY(fm_step_path_of(err, root, step, FM_STEP_TMP, tmp));
    FM_TRY(fm_disk_remove(err, tmp));
    return fm_disk_make_folder(err, env, tmp);
}

/* Renamed it counts no more; removing it takes as long as it is large, and is left to others. */
static fm_status delete_step(fm_error *err, fm_io_env *env, const char *root, int64_t step) {
    char path[FM_PATH], dead[FM_PATH];
    FM_TRY(fm_step_path(err, root, step, "", path));
    FM_TRY(fm_step_path_of(err, root, step, FM_STEP_DEAD, dead));
    return fm_disk_rename(err, env, path, dead);
}

static void retain(fm_io_env *env, const char *root, int64_t newest, int keep_last,
                   fm_notes *notes) {
    fm_steps all = {0};
    fm_error e = {0};
    if (fm_steps_complete(&e, root, &all) != FM_OK) fm_note(notes, "%s", e.message);
    /* The one just written stays, whatever its number. */
    for (int i = 0; i < all.n - keep_last; i++) {
        fm_error_clear(&e);
        if (all.items[i] != newest && delete_step(&e, env, root, all.items[i]) != FM_OK)
            fm_note(notes, "%s", e.message);
    }
    free(all.items);
}

fm_status fm_commit_seal(fm_error *err, fm_io_env *env, const char *root, fm_manifest *m) {
    char tmp[FM_PATH], file[FM_PATH];
    FM_TRY(fm_step_path_of(err, root, m->step, FM_STEP_TMP, tmp));
    for (int64_t i = 0; i < m->n_files; i++) {
        FM_TRY(fm_disk_join(err, file, tmp, m->files[i].name));
        FM_TRY(fm_disk_hash(err, env, file, true, m->files[i].hash, &m->files[i].bytes));
    }
    return FM_OK;
}

/* What a run leaves when it goes back: steps, and the suffix that they get. */
typedef struct branch {
    fm_steps steps;
    char suffix[32];
    int moved;
} branch;

/* A suffix that no step of the branch has beside it yet. */
static fm_status choose_suffix(fm_error *err, const char *root, branch *b) {
    for (int number = 1;; number++) {
        snprintf(b->suffix, sizeof b->suffix, number == 1 ? ".abandoned" : ".abandoned%d", number);
        int taken = 0;
        for (int i = 0; i < b->steps.n; i++) {
            char path[FM_PATH];
            FM_TRY(fm_step_path(err, root, b->steps.items[i], b->suffix, path));
            taken += access(path, F_OK) == 0;
        }
        if (taken == 0) return FM_OK;
    }
}

static fm_status move_branch(fm_error *err, fm_io_env *env, const char *root,
                             const fm_commit_plan *plan, branch *b) {
    if (plan->from < 0 || plan->seen <= plan->from) return FM_OK;
    FM_TRY(fm_steps_complete(err, root, &b->steps));
    int kept = 0;
    for (int i = 0; i < b->steps.n; i++)
        if (b->steps.items[i] > plan->from && b->steps.items[i] <= plan->seen)
            b->steps.items[kept++] = b->steps.items[i];
    b->steps.n = kept;
    FM_TRY(choose_suffix(err, root, b));
    /* The lowest first: until the last is moved, the newest one stays what it was. */
    for (; b->moved < b->steps.n; b->moved++) {
        char from[FM_PATH], to[FM_PATH];
        FM_TRY(fm_step_path(err, root, b->steps.items[b->moved], "", from));
        FM_TRY(fm_step_path(err, root, b->steps.items[b->moved], b->suffix, to));
        FM_TRY(fm_disk_rename(err, env, from, to));
    }
    return b->moved > 0 ? fm_disk_sync_folder(err, env, root) : FM_OK;
}

/* The save failed: until one succeeds the branch is not left. */
static void move_branch_back(const char *root, const branch *b) {
    fm_error ignored = {0};
    for (int i = b->moved - 1; i >= 0; i--) {
        char from[FM_PATH], to[FM_PATH];
        if (fm_step_path(&ignored, root, b->steps.items[i], b->suffix, from) == FM_OK &&
            fm_step_path(&ignored, root, b->steps.items[i], "", to) == FM_OK)
            (void)rename(from, to);
    }
}

/* The rename that makes it count. */
static fm_status commit(fm_error *err, fm_io_env *env, const char *root, int64_t step) {
    char tmp[FM_PATH], path[FM_PATH], old[FM_PATH];
    FM_TRY(fm_step_path_of(err, root, step, FM_STEP_TMP, tmp));
    FM_TRY(fm_step_path(err, root, step, "", path));
    FM_TRY(fm_step_path_of(err, root, step, FM_STEP_OLD, old));
    bool replaces = access(path, F_OK) == 0;
    if (replaces) FM_TRY(fm_disk_rename(err, env, path, old));
    fm_status renamed = fm_disk_rename(err, env, tmp, path);
    /* Whoever opens step_N by its path finds the one before; if this fails too, listing tries again. */
    if (renamed != FM_OK && replaces) (void)rename(old, path);
    return renamed;
}

/* The step is there; what is still to be done may fail without harm to it. */
static void tidy_up(fm_io_env *env, const char *root, int64_t step, int keep_last,
                    fm_notes *notes) {
    char old[FM_PATH], latest[FM_PATH], text[64];
    fm_error e = {0};
    if (fm_disk_sync_folder(&e, env, root) != FM_OK) {
        /* nothing that is surely on disk is deleted for something that may not be */
        fm_note(notes, "%s, so the one before stays as well", e.message);
        return;
    }
    if (fm_step_path_of(&e, root, step, FM_STEP_OLD, old) != FM_OK ||
        fm_disk_remove(&e, old) != FM_OK)
        fm_note(notes, "%s", e.message);
    fm_error_clear(&e);
    snprintf(text, sizeof text, "step_%08lld\n", (long long)step);
    if (fm_disk_join(&e, latest, root, "latest") != FM_OK ||
        fm_disk_write(&e, env, latest, text, true) != FM_OK)
        fm_note(notes, "%s", e.message);
    retain(env, root, step, keep_last, notes);
}

static void note_branch(const branch *b, int64_t from, fm_notes *notes) {
    int64_t last = b->steps.items[b->moved - 1];
    fm_note(notes,
            "the run went back to step %lld, and what it had saved after that (%d checkpoint%s) is "
            "kept aside, up to step_%08lld%s: delete what is not wanted",
            (long long)from, b->moved, b->moved > 1 ? "s" : "", (long long)last, b->suffix);
}

fm_status fm_commit_end(fm_error *err, fm_io_env *env, const char *root, const fm_manifest *m,
                        const fm_commit_plan *plan, fm_notes *notes) {
    char tmp[FM_PATH], file[FM_PATH];
    branch left = {0};
    FM_TRY(fm_step_path_of(err, root, m->step, FM_STEP_TMP, tmp));
    FM_TRY(fm_disk_join(err, file, tmp, "manifest.json"));
    FM_TRY(fm_manifest_write(err, env, file, m));
    FM_TRY(fm_disk_sync_folder(err, env, tmp));
    /* From here on the new checkpoint is whole. */
    fm_status status = move_branch(err, env, root, plan, &left);
    if (status == FM_OK) status = commit(err, env, root, m->step);
    if (status != FM_OK) {
        move_branch_back(root, &left);
    } else {
        if (left.moved > 0) note_branch(&left, plan->from, notes);
        tidy_up(env, root, m->step, plan->keep_last, notes);
    }
    free(left.steps.items);
    return status;
}
