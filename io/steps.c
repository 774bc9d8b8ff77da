#include "io/steps.h"

#include <ctype.h>
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

static const char *const SUFFIXES[] = {"", ".tmp", ".old", ".dead"};
enum { N_SUFFIXES = sizeof SUFFIXES / sizeof *SUFFIXES };

fm_status fm_step_path(fm_error *err, const char *root, int64_t step, const char *suffix,
                       char out[FM_PATH]) {
    char name[64];
    snprintf(name, sizeof name, "step_%08lld%s", (long long)step, suffix);
    return fm_disk_join(err, out, root, name);
}

fm_status fm_step_path_of(fm_error *err, const char *root, int64_t step, fm_step_kind kind,
                          char out[FM_PATH]) {
    return fm_step_path(err, root, step, SUFFIXES[kind], out);
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

bool fm_step_is_complete(const char *folder) {
    char path[FM_PATH];
    fm_error ignored = {0};
    return fm_disk_is_folder(folder) &&
           fm_disk_join(&ignored, path, folder, "manifest.json") == FM_OK &&
           access(path, R_OK) == 0;
}

static fm_status push(fm_error *err, fm_steps *l, int64_t step) {
    if (l->n == l->room) {
        int room = l->room ? 2 * l->room : 16;
        int64_t *grown = realloc(l->items, (size_t)room * sizeof *grown);
        FM_REQUIRE(err, grown, FM_ERR_OOM, "out of memory: the list of checkpoints");
        l->items = grown;
        l->room = room;
    }
    l->items[l->n++] = step;
    return FM_OK;
}

static int rising(const void *a, const void *b) {
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return x < y ? -1 : x > y;
}

fm_status fm_steps_of_kind(fm_error *err, const char *root, fm_step_kind kind, fm_steps *out) {
    DIR *folder = opendir(root);
    if (!folder) {
        if (errno == ENOENT) return FM_OK;
        return fm_fail(err, FM_ERR_IO, "%s: cannot be listed: %s", root, strerror(errno));
    }
    fm_status status = FM_OK;
    for (struct dirent *e; status == FM_OK && (e = readdir(folder));) {
        int64_t step;
        int suffix;
        if (parse_name(e->d_name, &step, &suffix) && suffix == (int)kind)
            status = push(err, out, step);
    }
    closedir(folder);
    if (out->n > 0) qsort(out->items, (size_t)out->n, sizeof *out->items, rising);
    return status;
}

fm_status fm_steps_complete(fm_error *err, const char *root, fm_steps *out) {
    FM_TRY(fm_steps_of_kind(err, root, FM_STEP, out));
    int kept = 0;
    for (int i = 0; i < out->n; i++) {
        char path[FM_PATH];
        FM_TRY(fm_step_path(err, root, out->items[i], "", path));
        if (fm_step_is_complete(path)) out->items[kept++] = out->items[i];
    }
    out->n = kept;
    return FM_OK;
}

/* Where some step_N.old is whole and its step_N is not there: *any; put back where `restore`. */
static fm_status look_aside(fm_error *err, const char *root, bool restore, bool *any) {
    fm_steps aside = {0};
    fm_status status = fm_steps_of_kind(err, root, FM_STEP_OLD, &aside);
    *any = false;
    for (int i = 0; status == FM_OK && i < aside.n; i++) {
        char old[FM_PATH], path[FM_PATH];
        FM_TRY_GOTO(fm_step_path_of(err, root, aside.items[i], FM_STEP_OLD, old));
        FM_TRY_GOTO(fm_step_path(err, root, aside.items[i], "", path));
        if (!fm_step_is_complete(old) || access(path, F_OK) == 0) continue;
        *any = true;
        if (restore) (void)rename(old, path);
    }
out:
    free(aside.items);
    return status;
}

fm_status fm_steps_restore(fm_error *err, const char *root) {
    bool any;
    return look_aside(err, root, true, &any);
}

enum { PAUSE_MS = 10, TRIES = 100 };
void fm_steps_pause(void) {
    (void)nanosleep(&(struct timespec){.tv_nsec = PAUSE_MS * 1000000L}, NULL);
}

/* A writer that holds the lock is between its two renames for a moment only; were step_N.old taken from
 * it there, its second rename would fail. */
static fm_status restore_or_wait(fm_error *err, const char *root) {
    for (int i = 0; i < TRIES; i++) {
        bool any;
        int lock;
        fm_error held = {0};
        FM_TRY(look_aside(err, root, false, &any));
        if (!any) return FM_OK;
        if (fm_disk_lock(&held, root, &lock) == FM_OK) {
            fm_status status = fm_steps_restore(err, root);
            fm_disk_unlock(lock);
            return status;
        }
        fm_steps_pause();
    }
    return FM_OK;
}

fm_status fm_steps_list(fm_error *err, const char *root, fm_steps *out) {
    FM_TRY(restore_or_wait(err, root));
    return fm_steps_complete(err, root, out);
}
