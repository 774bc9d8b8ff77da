/* The folders step_N below a run's folder: their names, which there are, which are complete. */
#ifndef FM_IO_STEPS_H
#define FM_IO_STEPS_H
#include "io/disk.h"

/* What lies there by its name: step_N, step_N.tmp, step_N.old, step_N.dead (see commit.h). */
typedef enum fm_step_kind { FM_STEP, FM_STEP_TMP, FM_STEP_OLD, FM_STEP_DEAD } fm_step_kind;

typedef struct fm_steps {
    int64_t *items; /* rising; malloc'ed */
    int n, room;
} fm_steps;

/* root/step_N, with any suffix behind it. */
fm_status fm_step_path(fm_error *err, const char *root, int64_t step, const char *suffix,
                       char out[FM_PATH]);
fm_status fm_step_path_of(fm_error *err, const char *root, int64_t step, fm_step_kind kind,
                          char out[FM_PATH]);
/* A folder, and no link, with a manifest. */
bool fm_step_is_complete(const char *folder);

/* `out` is zeroed by the caller, who frees its items, also after an error. A root that is not there has
 * no steps. */
fm_status fm_steps_of_kind(fm_error *err, const char *root, fm_step_kind kind, fm_steps *out);
fm_status fm_steps_complete(fm_error *err, const char *root, fm_steps *out);
/* For readers: fm_steps_complete, but a step_N.old without its step_N is first put back where no
 * writer is at work; a writer gets a second to do it. */
fm_status fm_steps_list(fm_error *err, const char *root, fm_steps *out);
/* For the holder of root's lock: a run died between the two renames that replace step_N, and what was
 * aside is put back. Where that cannot be done (a read-only disk) the others still serve. */
fm_status fm_steps_restore(fm_error *err, const char *root);
/* A moment, for somebody else to come to an end. */
void fm_steps_pause(void);

#endif
