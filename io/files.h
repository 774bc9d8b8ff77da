/* The files of a dataset: which ones a path and a pattern name, in an order that is the
 * same on every machine. */
#ifndef FM_IO_FILES_H
#define FM_IO_FILES_H
#include "tensor/status.h"

#include <stdint.h>

typedef struct fm_file {
    char *name; /* relative to the folder; a single file's own name */
    char *path; /* as it can be opened */
    int64_t size;
} fm_file;

typedef struct fm_files {
    fm_file *items;
    int64_t n, capacity;
} fm_files;

/* `path` itself when it is a file, else the files below the folder whose names match `pattern`
 * (fnmatch; NULL: all), sorted by their relative paths as bytes. Files and folders whose names match
 * `exclude` (NULL: none) are skipped, and hidden ones; links to files are followed, links to folders
 * not (they could run in circles). FM_ERR_IO names the path and the reason. After an error `out` is
 * empty. */
fm_status fm_files_list(fm_error *err, const char *path, const char *pattern, const char *exclude,
                        fm_files *out);
void fm_files_free(fm_files *f); /* safe on a zeroed one */

#endif
