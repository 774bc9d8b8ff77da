/* What h5.c, h5_write.c and h5_read.c share. */
#ifndef FM_IO_H5_INTERNAL_H
#define FM_IO_H5_INTERNAL_H
#include "io/h5.h"

#include <hdf5.h>

struct fm_h5 {
    hid_t file;
    fm_io_env *env;
    char path[1024];
};

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
