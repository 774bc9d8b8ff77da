/* The little of HDF5 that checkpoints need, checked: every message names file and dataset, HDF5
 * prints nothing by itself, and one lock keeps the library (not thread-safe as packaged) to one
 * thread at a time.
 */
#ifndef FM_IO_H5_H
#define FM_IO_H5_H
#include "io/boxes.h"
#include "io/env.h"

typedef struct fm_h5 fm_h5;

/* A new file; FM_ERR_IO where it exists. */
fm_status fm_h5_create(fm_error *err, fm_io_env *env, const char *path, fm_h5 **out);
/* An existing file, read-only. FM_ERR_CHECKPOINT: not HDF5, truncated. */
fm_status fm_h5_open(fm_error *err, const char *path, fm_h5 **out);
/* Closes; for a written file an error means that its data is not on disk. NULL is legal. */
fm_status fm_h5_close(fm_error *err, fm_h5 *h);

/* Numbers in the attribute `boxes`, 2 ndim for each box: HDF5 keeps an attribute in 64 KB. */
enum { FM_H5_BOX_NUMBERS = 8000 };

/* Dataset `name` (with '/': in groups) of float32: the elements of the region's boxes, one box
 * after another. Its shape is [rows, ...] where the boxes agree in all dimensions but the first,
 * else [elements]. Chunks of about 1 MiB with fletcher32; gzip where compression > 0. Attributes:
 * global_shape int64 [ndim], boxes int64 [n, 2, ndim], dtype "float32". FM_ERR_VALUE: more boxes than
 * an attribute holds. */
fm_status fm_h5_write(fm_error *err, fm_h5 *h, const char *name, const fm_region *r,
                      const float *data, int compression);
/* A UTF-8 string. */
fm_status fm_h5_write_text(fm_error *err, fm_h5 *h, const char *name, const char *text);
/* malloc'ed; FM_ERR_CHECKPOINT beyond `limit` bytes. */
fm_status fm_h5_read_text(fm_error *err, fm_h5 *h, const char *name, size_t limit, char **out);

/* What a dataset claims to be; checked against the file, nothing of its size was allocated. */
typedef struct fm_h5_array {
    char name[160];
    int ndim;
    int64_t global_shape[FM_MAX_DIMS];
    int64_t n_boxes;
    fm_box *boxes; /* malloc'ed */
    bool stacked;  /* its shape is [rows, ...], else [elements] */
} fm_h5_array;

/* All arrays of a file; *out is malloc'ed, to be freed by fm_h5_arrays_free. */
fm_status fm_h5_arrays(fm_error *err, fm_h5 *h, fm_h5_array **out, int64_t *n);
void fm_h5_arrays_free(fm_h5_array *a, int64_t n);

/* The elements of `part`, a part of box number `box`, in row-major order. Reads no more of the file
 * than the chunks they lie in, where stacked. */
fm_status fm_h5_read(fm_error *err, fm_h5 *h, const fm_h5_array *a, int64_t box, const fm_box *part,
                     float *out);

const char *fm_h5_version(void); /* "1.10.8" */

#endif
