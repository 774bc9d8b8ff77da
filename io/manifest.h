/* manifest.json: what a checkpoint consists of. Written last; a folder without one is no checkpoint. */
#ifndef FM_IO_MANIFEST_H
#define FM_IO_MANIFEST_H
#include "io/disk.h"
#include "parallel/mesh.h"

enum { FM_MANIFEST_VERSION = 1, FM_MANIFEST_LIMIT = 64 << 20 };

typedef struct fm_manifest_file {
    char name[64];
    int64_t bytes;
    char hash[FM_HASH];
} fm_manifest_file;

typedef struct fm_manifest {
    int64_t step;
    int world_size, dp;
    fm_mesh_config layout;
    int64_t n_files;
    fm_manifest_file *files; /* malloc'ed */
    char *text;              /* the JSON itself, malloc'ed */
} fm_manifest;

/* Adds to m->files. */
fm_status fm_manifest_add(fm_error *err, fm_manifest *m, const fm_manifest_file *f);
fm_status fm_manifest_add_name(fm_error *err, fm_manifest *m, const char *name); /* to be sealed */
/* FM_ERR_VALUE, and no file: a text longer than fm_manifest_read takes. */
fm_status fm_manifest_write(fm_error *err, fm_io_env *env, const char *path, const fm_manifest *m);
/* FM_ERR_CHECKPOINT: no JSON, wrong types, another version, file names that are no plain names,
 * another checksum than its own. */
fm_status fm_manifest_read(fm_error *err, const char *path, fm_manifest *out);
void fm_manifest_free(fm_manifest *m); /* safe on a zeroed one */

/* A part of a manifest that is to come: which files one rank of a save has written, or why not. Lies in
 * step_N.tmp and is gone before the commit. */
typedef struct fm_manifest_part {
    uint64_t save;    /* the save's number: a late rank of a dead run writes another */
    fm_status status; /* FM_OK, or what failed, in these words */
    const char *message;
    int64_t n_files;
    const fm_manifest_file *files;
} fm_manifest_part;
fm_status fm_manifest_part_path(fm_error *err, const char *tmp, int rank, char out[FM_PATH]);
/* Appears whole or not at all. */
fm_status fm_manifest_part_write(fm_error *err, fm_io_env *env, const char *tmp, int rank,
                                 const fm_manifest_part *p);
/* Adds rank `rank`'s files to m->files, or fails as that rank did: "rank R: ...". *there is false, and
 * nothing else happens, where it has written nothing of this save yet. */
fm_status fm_manifest_part_read(fm_error *err, const char *tmp, int rank, uint64_t save,
                                fm_manifest *m, bool *there);

#endif
