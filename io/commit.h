/* A checkpoint's folder from its birth to its end. See docs/checkpoint-format.md, "Commit".
 *
 *   step_N.tmp        being written: worthless
 *   step_N            complete
 *   step_N.old        the one that step_N replaces, for the moment of the two renames
 *   step_N.dead       being deleted: worthless
 *   step_N.abandoned  complete, of a branch that a run left by going back; nobody touches it
 */
#ifndef FM_IO_COMMIT_H
#define FM_IO_COMMIT_H
#include "io/manifest.h"
#include "io/steps.h"

/* What went wrong beside the matter, or has to be known: sentences, one after another. */
typedef struct fm_notes {
    char text[1024];
} fm_notes;
void fm_note(fm_notes *n, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* Makes root and locks it: what lies there unfinished is then of dead runs, and goes. FM_ERR_IO where
 * another is between this and its fm_disk_unlock(*lock). */
fm_status fm_commit_lock(fm_error *err, fm_io_env *env, const char *root, int *lock);
typedef struct fm_commit_plan {
    int keep_last;
    /* The run went on from step `from` when `seen` was the newest: what lies between is of a branch that
     * it leaves. -1, -1: nothing. */
    int64_t from, seen;
} fm_commit_plan;
/* FM_ERR_VALUE: a step that is not above the newest, and not of a run that went back as planned. */
fm_status fm_commit_check_order(fm_error *err, const char *root, const fm_commit_plan *plan,
                                int64_t step);
/* Makes an empty step_N.tmp, whose path goes to `tmp`. */
fm_status fm_commit_begin(fm_error *err, fm_io_env *env, const char *root, int64_t step,
                          char tmp[FM_PATH]);
/* Removes what is worthless by its name, all but step_N.tmp: what dead runs left, and what was deleted
 * by fm_commit_end. May take long; for the writer's thread, which holds the lock. */
void fm_commit_sweep(const char *root, int64_t step, fm_notes *notes);
/* The same of what fm_commit_end deleted only; needs no lock. */
void fm_commit_reap(const char *root, fm_notes *notes);
/* Hashes and syncs the files of step_N.tmp that m names: fills in their sizes and hashes. The slow
 * part; for the writer's thread. */
fm_status fm_commit_seal(fm_error *err, fm_io_env *env, const char *root, fm_manifest *m);
/* Writes the manifest, renames the complete steps of a branch that is left to step_M.abandoned, and
 * step_N.tmp to step_N: the commit. After it nothing is an error any more, but a note: syncing the
 * folder, updating `latest`, renaming all but the newest keep_last to step_N.dead. */
fm_status fm_commit_end(fm_error *err, fm_io_env *env, const char *root, const fm_manifest *m,
                        const fm_commit_plan *plan, fm_notes *notes);

#endif
