#include "io/commit.h"

#include <ctype.h>
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static const char *const SUFFIXES[] = {"", ".tmp", ".old", ".dead"};
enum { COMPLETE, TMP, OLD, DEAD, N_SUFFIXES };

fm_status fm_commit_path(fm_error *err, const char *root, int64_t step, const char *suffix,
                         char out[FM_PATH]) {
    char name[64];
    snprintf(name, sizeof name, "step_%08lld%s", (long long)step, suffix);
    return fm_disk_join(err, out, root, name);
}

/* The step of a name, and which of the suffixes it has; false: none of ours. */
static bool parse_name(const char *name, int64_t *step, int *suffix) {
    if (strncmp(name, "step_", 5) != 0) return false;
    const char *digits = name + 5;
    size_t n = 0;
    while (isdigit((unsigned char)digits[n])) n++;
    if (n < 8 || n > 18) return false;
    *step = strtoll(digits, NULL, 10);
    for (*suffix = 0; *suffix < N_SUFFIXES; (*suffix)++)
        if (strcmp(digits + n, SUFFIXES[*suffix]) == 0) return true;
    return false;
}

static bool is_complete(const char *folder) {
    char path[FM_PATH];
    fm_error ignored = {0};
    return fm_disk_is_folder(folder) &&
           fm_disk_join(&ignored, path, folder, "manifest.json") == FM_OK &&
           access(path, R_OK) == 0;
}

typedef struct step_list {
    int64_t *steps;
    int n, room;
} step_list;

static fm_status push(fm_error *err, step_list *l, int64_t step) {
    if (l->n == l->room) {
        int room = l->room ? 2 * l->room : 16;
        int64_t *grown = realloc(l->steps, (size_t)room * sizeof *grown);
        FM_REQUIRE(err, grown, FM_ERR_OOM, "out of memory: the list of checkpoints");
        l->steps = grown;
        l->room = room;
    }
    l->steps[l->n++] = step;
    return FM_OK;
}

static int rising(const void *a, const void *b) {
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return x < y ? -1 : x > y;
}

/* The steps of the folders with one of the suffixes, rising. */
static fm_status list(fm_error *err, const char *root, int wanted, step_list *l) {
    DIR *folder = opendir(root);
    if (!folder) {
        if (errno == ENOENT) return FM_OK;
        return fm_fail(err, FM_ERR_IO, "%s: cannot be listed: %s", root, strerror(errno));
    }
    fm_status status = FM_OK;
    for (struct dirent *e; status == FM_OK && (e = readdir(folder));) {
        int64_t step;
        int suffix;
        if (parse_name(e->d_name, &step, &suffix) && suffix == wanted) status = push(err, l, step);
    }
    closedir(folder);
    if (l->n > 0) qsort(l->steps, (size_t)l->n, sizeof *l->steps, rising);
    return status;
}

/* A run died between the two renames that replace step_N: what was aside is put back. Where that
 * cannot be done (a read-only disk) the others still serve. */
static fm_status restore_aside(fm_error *err, const char *root) {
    step_list aside = {0};
    fm_status status = list(err, root, OLD, &aside);
    for (int i = 0; status == FM_OK && i < aside.n; i++) {
        char old[FM_PATH], path[FM_PATH];
        FM_TRY_GOTO(fm_commit_path(err, root, aside.steps[i], SUFFIXES[OLD], old));
        FM_TRY_GOTO(fm_commit_path(err, root, aside.steps[i], "", path));
        if (is_complete(old) && access(path, F_OK) != 0) (void)rename(old, path);
    }
out:
    free(aside.steps);
    return status;
}

fm_status fm_commit_list(fm_error *err, const char *root, int64_t **steps, int *n) {
    step_list all = {0};
    *steps = NULL;
    *n = 0;
    fm_status status = FM_OK;
    FM_TRY_GOTO(restore_aside(err, root));
    FM_TRY_GOTO(list(err, root, COMPLETE, &all));
    int kept = 0;
    for (int i = 0; i < all.n; i++) {
        char path[FM_PATH];
        FM_TRY_GOTO(fm_commit_path(err, root, all.steps[i], "", path));
        if (is_complete(path)) all.steps[kept++] = all.steps[i];
    }
    *steps = all.steps;
    *n = kept;
    all.steps = NULL;
out:
    free(all.steps);
    return status;
}

/* A step_N.old that could not be put back may be the only one there is. */
static bool is_needed(const char *path, const char *old) {
    return is_complete(old) && !is_complete(path);
}

/* What dead runs left behind: everything of ours that is worthless by its name. */
static fm_status sweep(fm_error *err, const char *root) {
    fm_status status = restore_aside(err, root);
    for (int suffix = TMP; status == FM_OK && suffix <= DEAD; suffix++) {
        step_list left = {0};
        status = list(err, root, suffix, &left);
        for (int i = 0; status == FM_OK && i < left.n; i++) {
            char path[FM_PATH], leftover[FM_PATH];
            status = fm_commit_path(err, root, left.steps[i], "", path);
            if (status == FM_OK)
                status = fm_commit_path(err, root, left.steps[i], SUFFIXES[suffix], leftover);
            if (status == FM_OK && !(suffix == OLD && is_needed(path, leftover)))
                status = fm_disk_remove(err, leftover);
        }
        free(left.steps);
    }
    return status;
}

fm_status fm_commit_lock(fm_error *err, fm_io_env *env, const char *root, int *lock) {
    *lock = -1;
    FM_TRY(fm_disk_make_folders(err, env, root));
    return fm_disk_lock(err, root, lock);
}

fm_status fm_commit_begin(fm_error *err, fm_io_env *env, const char *root, int64_t step,
                          char tmp[FM_PATH]) {
    FM_TRY(fm_disk_make_folders(err, env, root));
    FM_TRY(sweep(err, root));
    FM_TRY(fm_commit_path(err, root, step, SUFFIXES[TMP], tmp));
    return fm_disk_make_folder(err, env, tmp);
}

/* A folder that is renamed first is never seen half deleted. */
static fm_status delete_step(fm_error *err, fm_io_env *env, const char *root, int64_t step) {
    char path[FM_PATH], dead[FM_PATH];
    FM_TRY(fm_commit_path(err, root, step, "", path));
    FM_TRY(fm_commit_path(err, root, step, SUFFIXES[DEAD], dead));
    FM_TRY(fm_disk_rename(err, env, path, dead));
    return fm_disk_remove(err, dead);
}

static fm_status retain(fm_error *err, fm_io_env *env, const char *root, int64_t newest,
                        int keep_last) {
    int64_t *steps;
    int n;
    FM_TRY(fm_commit_list(err, root, &steps, &n));
    fm_status status = FM_OK;
    /* The one just written stays, whatever its number (a run that was set back). */
    for (int i = 0; steps && status == FM_OK && i < n - keep_last; i++)
        if (steps[i] != newest) status = delete_step(err, env, root, steps[i]);
    free(steps);
    return status;
}

fm_status fm_commit_seal(fm_error *err, fm_io_env *env, const char *root, fm_manifest *m) {
    char tmp[FM_PATH], file[FM_PATH];
    FM_TRY(fm_commit_path(err, root, m->step, SUFFIXES[TMP], tmp));
    for (int64_t i = 0; i < m->n_files; i++) {
        FM_TRY(fm_disk_join(err, file, tmp, m->files[i].name));
        FM_TRY(fm_disk_hash(err, env, file, true, m->files[i].hash, &m->files[i].bytes));
    }
    return FM_OK;
}

fm_status fm_commit_end(fm_error *err, fm_io_env *env, const char *root, const fm_manifest *m,
                        int keep_last) {
    char tmp[FM_PATH], path[FM_PATH], old[FM_PATH], file[FM_PATH], text[64];
    FM_TRY(fm_commit_path(err, root, m->step, SUFFIXES[TMP], tmp));
    FM_TRY(fm_commit_path(err, root, m->step, "", path));
    FM_TRY(fm_commit_path(err, root, m->step, SUFFIXES[OLD], old));
    FM_TRY(fm_disk_join(err, file, tmp, "manifest.json"));
    FM_TRY(fm_manifest_write(err, env, file, m));
    FM_TRY(fm_disk_sync_folder(err, env, tmp));
    /* From here on the new checkpoint is whole; the next rename makes it count. */
    bool replaces = access(path, F_OK) == 0;
    if (replaces) FM_TRY(fm_disk_rename(err, env, path, old));
    fm_status renamed = fm_disk_rename(err, env, tmp, path);
    /* Whoever opens step_N by its path finds the one before; if this fails too, listing tries again. */
    if (renamed != FM_OK && replaces) (void)rename(old, path);
    FM_TRY(renamed);
    FM_TRY(fm_disk_sync_folder(err, env, root));
    FM_TRY(fm_disk_remove(err, old));
    FM_TRY(fm_disk_join(err, file, root, "latest"));
    snprintf(text, sizeof text, "step_%08lld\n", (long long)m->step);
    FM_TRY(fm_disk_write(err, env, file, text, true));
    return retain(err, env, root, m->step, keep_last);
}
