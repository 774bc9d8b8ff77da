/* Sharded HDF5 checkpoints: written in the background, committed by one rename.
 *
 *   root/step_00000100/  manifest.json  dense-pp00-tp00.h5  expert-pp00-ep00-etp00.h5
 *                        optim-....h5   state.h5
 *   root/latest          one line
 *
 * docs/checkpoint-format.md specifies the files. What a checkpoint holds is a list of
 * named arrays, each with the region of it that a rank has; io knows no model and no optimiser.
 *
 * Several ranks: each writes what it hands over into files of its own; rank 0 alone locks, commits and
 * deletes. Calls marked "all ranks" are made by all ranks of the mesh's world together, and give all of
 * them the same status and the same words, whichever rank failed. The writers' threads send no messages:
 * rank 0 learns from files that the others are done.
 */
#ifndef FM_IO_CHECKPOINT_H
#define FM_IO_CHECKPOINT_H
#include "parallel/fragment.h"

/* Which file an array goes to. */
typedef enum fm_ckpt_group { FM_CKPT_DENSE, FM_CKPT_EXPERT, FM_CKPT_OPTIM } fm_ckpt_group;

/* One array, or a piece of it: fp32 in memory of the device; views of flat buffers. Names:
 * "layers.0.attn.qkv.weight"; optimiser: "adamw.m/layers.0.attn.qkv.weight". For saving they are unique
 * on a rank, but for pieces that lie in different places of memory: those come one after another. */
typedef struct fm_ckpt_array {
    char name[160];
    fm_ckpt_group group;
    fm_region region; /* its boxes are borrowed; without boxes it is not there */
    void *data;       /* the region's elements, fp32, device memory */
} fm_ckpt_array;

/* Longest state_json, in bytes with its end: what is saved can be loaded. */
enum { FM_CKPT_STATE_LIMIT = 16 << 20 };

/* What this rank hands over: it writes it. All ranks' arrays together hold every element once. */
typedef struct fm_ckpt_content {
    int64_t step; /* the same on all ranks */
    int n_arrays; /* may be 0 */
    fm_ckpt_array *arrays;
    const char
        *state_json; /* sample position, schedule, seed, extra: one JSON object, UTF-8; of rank 0 */
    /* of the model: the manifest and the files' names tell it; NULL: the checkpointer's */
    const fm_mesh *mesh;
} fm_ckpt_content;

typedef struct fm_ckpt_config {
    const char *root;
    int keep_last; /* at least 1 */
    bool asynchronous;
    int compression; /* gzip level, 0 = none */
} fm_ckpt_config;

typedef struct fm_checkpointer fm_checkpointer;

/* The mesh is borrowed. */
fm_status fm_checkpointer_new(fm_ctx *ctx, fm_mesh *mesh, const fm_ckpt_config *c,
                              fm_checkpointer **out);
/* As fm_checkpointer_end; a failure is lost. NULL is legal. */
void fm_checkpointer_free(fm_checkpointer *k);

/* All ranks. Copies everything to host memory (4 bytes an element until it is on disk: for AdamW three times
 * the masters), then writes in a thread; writes at once when not asynchronous, from where the arrays
 * are if that is host memory. A save still under way is finished
 * first; a failure of it is returned here, and this one has not begun. FM_ERR_VALUE: a name twice, a
 * step below 0, or not above the newest in the folder where that is not this run's own, or one that it
 * went back from (see fm_checkpointer_loaded). FM_ERR_STATE: the ranks' arrays together do not hold each
 * element once. FM_ERR_IO names file and reason; earlier checkpoints stay as they were. */
fm_status fm_checkpointer_save(fm_ctx *ctx, fm_checkpointer *k, const fm_ckpt_content *content);
/* All ranks. Until the last save is on disk and committed; returns its failure, once. */
fm_status fm_checkpointer_wait(fm_ctx *ctx, fm_checkpointer *k);
/* Commits a finished background save without waiting and without messages: call between steps. Where
 * there are several ranks a failure becomes a note of rank 0, and is returned by the next save or wait,
 * on all ranks at once; alone it is returned here. */
fm_status fm_checkpointer_poll(fm_ctx *ctx, fm_checkpointer *k);
bool fm_checkpointer_busy(const fm_checkpointer *k); /* the last save's end was not told yet */
/* As fm_checkpointer_wait, for the program's end, when other ranks may be gone: no messages. Rank 0
 * commits when it finds that all have written; the others wait until it has. A rank from which nothing is
 * seen for longer than the patience is a failure. */
fm_status fm_checkpointer_end(fm_ctx *ctx, fm_checkpointer *k);
/* Seconds without any progress of other ranks, seen in the files, that a wait bears; 600. */
void fm_checkpointer_set_patience(fm_checkpointer *k, double seconds);

/* The run goes on from `step`, which was loaded when `newest` was the newest in the folder. Saving a step
 * below `newest` is allowed from now on; the first save that is complete sets the steps above `step`
 * and up to `newest` aside, as step_M.abandoned, so that they are not loaded, counted or deleted. */
void fm_checkpointer_loaded(fm_checkpointer *k, int64_t step, int64_t newest);
/* What the last saves left to say, once: steps set aside, and what failed after a checkpoint was
 * complete (deleting an older one, ...) and did it no harm. NULL: nothing. Valid until the next call. */
const char *fm_checkpointer_notes(fm_checkpointer *k);

/* Steps of the complete checkpoints under root, rising; *steps is malloc'ed. None: n = 0. */
fm_status fm_checkpoint_list(fm_ctx *ctx, const char *root, int64_t **steps, int *n);

/* An opened checkpoint, for reading. */
typedef struct fm_ckpt_reader fm_ckpt_reader;
/* `path` is a step_N folder. Everything about the files is checked here but the arrays' data: sizes,
 * types, that the boxes of all files hold each element of each array exactly once; state.h5 and the
 * manifest by their checksums. */
fm_status fm_ckpt_open(fm_ctx *ctx, const char *path, fm_ckpt_reader **out);
void fm_ckpt_close(fm_ckpt_reader *r);
int64_t fm_ckpt_step(const fm_ckpt_reader *r);
const char *fm_ckpt_state_json(const fm_ckpt_reader *r);
const char *fm_ckpt_manifest_json(const fm_ckpt_reader *r);
/* Fills want->data (device memory) with the elements of want->region, whatever layout the writer had.
 * FM_ERR_CHECKPOINT names file and dataset: missing, other global shape, checksum, truncated; the
 * elements are then unspecified. */
fm_status fm_ckpt_read(fm_ctx *ctx, fm_ckpt_reader *r, const fm_ckpt_array *want);
/* The same into host memory. */
fm_status fm_ckpt_read_host(fm_ctx *ctx, fm_ckpt_reader *r, const fm_ckpt_array *want);
bool fm_ckpt_has(const fm_ckpt_reader *r, const char *name);
/* What fm_ckpt_open checks, every dataset's chunks, every file's checksum; FM_ERR_CHECKPOINT names the first bad one. */
fm_status fm_ckpt_verify(fm_ctx *ctx, const char *path);
/* What a checkpoint holds, for inspection: the i-th array of n, or NULL. */
typedef struct fm_ckpt_entry {
    const char *name, *file;
    int ndim;
    const int64_t *global_shape;
    int64_t numel; /* in this file */
} fm_ckpt_entry;
int64_t fm_ckpt_count(const fm_ckpt_reader *r);
fm_ckpt_entry fm_ckpt_at(const fm_ckpt_reader *r, int64_t i);
/* An array in the first file that has it; false: none has. */
bool fm_ckpt_find(const fm_ckpt_reader *r, const char *name, fm_ckpt_entry *out);

/* ---- tools */

/* Writes the checkpoint `from`, a step_N folder of any layout, as root/step_N in that of one rank: array by
 * array, so that memory holds the largest one. FM_ERR_VALUE: root has this step or a later one. */
fm_status fm_ckpt_merge(fm_ctx *ctx, const char *from, const char *root);

/* How far an array of two checkpoints differs. A NaN is equal to one of the same bits only. */
typedef struct fm_ckpt_difference {
    int64_t unequal; /* elements */
    double max_abs;  /* of |x - y|; infinite where one is no number */
    double relative; /* |x - y| / max(|x|, |y|), Euclidean norms; 0 where both are 0 */
} fm_ckpt_difference;
/* In blocks of a few MiB (a row at least). FM_ERR_CHECKPOINT as fm_ckpt_read; other shapes as well. */
fm_status fm_ckpt_compare(fm_ctx *ctx, fm_ckpt_reader *a, fm_ckpt_reader *b, const char *name,
                          fm_ckpt_difference *out);

/* Testing: the n-th file or HDF5 call of the saves from now on fails with this errno; -1: none. */
void fm_checkpointer_fail_at(fm_checkpointer *k, int64_t n, int error_number);

#endif
