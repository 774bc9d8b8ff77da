/* What h5.c, h5_write.c and h5_read.c share. */
#ifndef FM_IO_H5_INTERNAL_H
#define FM_IO_H5_INTERNAL_H
#include "io/h5.h"

#include <hdf5.h>

struct fm_h5 {
    hid_t file;
    fm_io_env *env;
    char path[1024];
    float *chunk; /* room for one chunk, of `room` bytes */
    size_t room;
    size_t unsent; /* bytes written since the disk was last told to start */
};

/* How a dataset of that shape is cut into chunks. */
typedef struct fm_chunking {
    int rank;
    hsize_t dims[H5S_MAX_RANK], chunk[H5S_MAX_RANK];
} fm_chunking;

/* All of a dataset whose only filter is fletcher32, chunk by chunk. */
bool fm_h5_write_chunks(fm_h5 *h, hid_t dataset, const fm_chunking *g, const float *data);
/* The elements of `slab`, row-major. False where that is not how the dataset is stored, or something is
 * wrong with it: HDF5's own reading then succeeds or says what. */
bool fm_h5_read_chunks(fm_h5 *h, hid_t dataset, const fm_box *slab, float *out);

/* The lock around every use of the library. */
void fm_h5_enter(void);
void fm_h5_leave(void);
/* For the creation list of a group or file. No times: equal contents, equal files. Names always in the
 * group's header, which has a checksum: in HDF5's other form a flipped bit crashes the reader (1.10.8
 * frees what it has not read). */
bool fm_h5_plain_group(hid_t list);
/* Records "path: dataset name: what: HDF5's innermost reason". name may be NULL. */
fm_status fm_h5_failed(fm_error *err, fm_status s, const fm_h5 *h, const char *name,
                       const char *what);

#endif
