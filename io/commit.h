/* A checkpoint's folder from its birth to its end. See docs/checkpoint-format.md, "Commit".
 *
 *   step_N.tmp   being written: worthless
 *   step_N       complete
 *   step_N.old   the one that step_N replaces, for the moment of the two renames
 *   step_N.dead  being deleted: worthless
 */
#ifndef FM_IO_COMMIT_H
#define FM_IO_COMMIT_H
#include "io/manifest.h"

/* Makes root and locks it: what lies there unfinished is then of dead runs, and goes. FM_ERR_IO where
 * another program is between this and its fm_disk_unlock(*lock). */
fm_status fm_commit_lock(fm_error *err, fm_io_env *env, const char *root, int *lock);
/* Removes what dead runs left, and makes an empty step_N.tmp, whose path goes to `tmp`. */
fm_status fm_commit_begin(fm_error *err, fm_io_env *env, const char *root, int64_t step,
                          char tmp[FM_PATH]);
/* Hashes and syncs the files of step_N.tmp that m names: fills in their sizes and hashes. The slow
 * part; for the writer's thread. */
fm_status fm_commit_seal(fm_error *err, fm_io_env *env, const char *root, fm_manifest *m);
/* Writes the manifest, renames to step_N, updates `latest`, deletes all but the newest
 * `keep_last`. */
fm_status fm_commit_end(fm_error *err, fm_io_env *env, const char *root, const fm_manifest *m,
                        int keep_last);
/* Steps of the complete checkpoints, rising; malloc'ed. Puts back a step_N.old without its step_N. */
fm_status fm_commit_list(fm_error *err, const char *root, int64_t **steps, int *n);
fm_status fm_commit_path(fm_error *err, const char *root, int64_t step, const char *suffix,
                         char out[FM_PATH]);

#endif
