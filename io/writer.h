/* One save: its copy in host memory, and the shard files made of it. Nothing here knows the context
 * but fm_snapshot_take, so that the rest may run in a thread. */
#ifndef FM_IO_WRITER_H
#define FM_IO_WRITER_H
#include "io/checkpoint.h"
#include "io/commit.h"

typedef struct fm_snapshot_array {
    char name[160];
    fm_ckpt_group group;
    fm_region region;
    fm_box *boxes; /* the region's, malloc'ed */
    float *data;
    bool borrowed; /* the content's own memory */
} fm_snapshot_array;

typedef struct fm_snapshot {
    fm_manifest manifest; /* step, layout; files as they are written */
    fm_mesh_place at;
    int n;
    fm_snapshot_array *arrays;
    char *state_json;
    int compression;
} fm_snapshot;

/* `borrow`: arrays in host memory are not copied; they must stay as they are until the snapshot is
 * freed. */
fm_status fm_snapshot_take(fm_ctx *ctx, const fm_mesh *mesh, const fm_ckpt_content *content,
                           int compression, bool borrow, fm_snapshot **out);
void fm_snapshot_free(fm_snapshot *s); /* NULL is legal */

/* What the content weighs against what its arrays should: the sum over all ranks is 0 (modulo 2^64)
 * where each array has as many elements as its shape says, and hardly ever else. An array counts
 * where its first element is. */
uint64_t fm_ckpt_balance(const fm_ckpt_content *content);

/* state.h5, listed in m. */
fm_status fm_state_write(fm_error *err, fm_io_env *env, const char *tmp, const char *state_json,
                         fm_manifest *m);
/* Writes this rank's files into the folder `tmp` and lists them in s->manifest. */
fm_status fm_snapshot_write(fm_error *err, fm_io_env *env, const char *tmp, fm_snapshot *s);

#endif
