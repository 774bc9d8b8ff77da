/* Files and folders, durably: every function returns only when what it did is on disk, or says why
 * not. Paths in messages; errno's text behind them. env may be NULL (no injected failures). */
#ifndef FM_IO_DISK_H
#define FM_IO_DISK_H
#include "io/env.h"

#include <stddef.h>

enum { FM_PATH = 1024, FM_HASH = 33 };

/* "a/b" into out [FM_PATH]; FM_ERR_IO where it is too long. */
fm_status fm_disk_join(fm_error *err, char *out, const char *folder, const char *name);
fm_status fm_disk_make_folders(fm_error *err, fm_io_env *env, const char *path); /* mkdir -p */
/* Keeps others out of a folder until fm_disk_unlock or the end of the process. FM_ERR_IO where another
 * holds it; *lock is -1 where the file system has no such locks, and nobody is kept out. */
fm_status fm_disk_lock(fm_error *err, const char *path, int *lock);
void fm_disk_unlock(int lock);                                                  /* -1 is legal */
fm_status fm_disk_make_folder(fm_error *err, fm_io_env *env, const char *path); /* must be new */
/* A file or folder with all below it; what is not there is no error. Follows no links. */
fm_status fm_disk_remove(fm_error *err, const char *path);
fm_status fm_disk_rename(fm_error *err, fm_io_env *env, const char *from, const char *to);
fm_status fm_disk_sync_folder(fm_error *err, fm_io_env *env, const char *path);
/* A new file of that text, synced. Replaces an old one atomically where `replace`. */
fm_status fm_disk_write(fm_error *err, fm_io_env *env, const char *path, const char *text,
                        bool replace);
/* The whole of a regular file (links are refused), malloc'ed, with a 0 behind it. */
fm_status fm_disk_read(fm_error *err, const char *path, size_t limit, char **text);
/* XXH3-128 of a regular file as 32 hexadecimal digits, and its size; synced where `sync`. */
fm_status fm_disk_hash(fm_error *err, fm_io_env *env, const char *path, bool sync,
                       char hash[FM_HASH], int64_t *bytes);
void fm_disk_hash_text(const char *text, char hash[FM_HASH]);
/* FM_ERR_IO where it is no regular file of that size. */
fm_status fm_disk_check_size(fm_error *err, const char *path, int64_t bytes);
bool fm_disk_is_folder(const char *path); /* and no link */

#endif
