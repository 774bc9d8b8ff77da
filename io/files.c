#include "io/files.h"

#include <dirent.h>
#include <errno.h>
#include <fnmatch.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static fm_status add(fm_error *err, fm_files *f, const char *name, const char *path, int64_t size) {
    if (f->n == f->capacity) {
        int64_t capacity = f->capacity ? 2 * f->capacity : 64;
        fm_file *items = realloc(f->items, (size_t)capacity * sizeof *items);
        if (!items) return fm_fail(err, FM_ERR_OOM, "dataset: no memory to list '%s'", path);
        f->items = items, f->capacity = capacity;
    }
    fm_file *file = &f->items[f->n];
    *file = (fm_file){strdup(name), strdup(path), size};
    if (!file->name || !file->path) {
        free(file->name), free(file->path);
        return fm_fail(err, FM_ERR_OOM, "dataset: no memory to list '%s'", path);
    }
    f->n++;
    return FM_OK;
}

/* `skip`: how many characters of a path come before the relative name. */
static fm_status walk(fm_error *err, fm_files *f, const char *folder, size_t skip,
                      const char *pattern, const char *exclude) {
    fm_status status = FM_OK;
    char *path = NULL;
    DIR *dir = opendir(folder);
    if (!dir)
        return fm_fail(err, FM_ERR_IO, "dataset: cannot list '%s': %s", folder, strerror(errno));
    for (;;) {
        errno = 0;
        struct dirent *entry = readdir(dir);
        if (!entry) {
            if (errno)
                status = fm_fail(err, FM_ERR_IO, "dataset: cannot list '%s': %s", folder,
                                 strerror(errno));
            break;
        }
        if (entry->d_name[0] == '.') continue;
        if (exclude && fnmatch(exclude, entry->d_name, 0) == 0) continue;
        free(path), path = NULL;
        if (asprintf(&path, "%s/%s", folder, entry->d_name) < 0) {
            path = NULL;
            status = fm_fail(err, FM_ERR_OOM, "dataset: no memory to list '%s'", folder);
            break;
        }
        struct stat st;
        if (lstat(path, &st) != 0) {
            status = fm_fail(err, FM_ERR_IO, "dataset: cannot look at '%s': %s", path,
                             strerror(errno));
            break;
        }
        if (S_ISDIR(st.st_mode)) {
            status = walk(err, f, path, skip, pattern, exclude);
        } else if (!pattern || fnmatch(pattern, entry->d_name, 0) == 0) {
            /* A link that leads nowhere is no file of the dataset. */
            if (S_ISLNK(st.st_mode) && stat(path, &st) != 0) continue;
            if (S_ISREG(st.st_mode)) status = add(err, f, path + skip, path, st.st_size);
        }
        if (status != FM_OK) break;
    }
    free(path);
    closedir(dir);
    return status;
}

static int by_name(const void *a, const void *b) {
    return strcmp(((const fm_file *)a)->name, ((const fm_file *)b)->name);
}

fm_status fm_files_list(fm_error *err, const char *path, const char *pattern, const char *exclude,
                        fm_files *out) {
    *out = (fm_files){0};
    struct stat st;
    if (stat(path, &st) != 0)
        return fm_fail(err, FM_ERR_IO, "dataset: cannot open '%s': %s", path, strerror(errno));
    fm_status status;
    if (S_ISREG(st.st_mode)) {
        const char *slash = strrchr(path, '/');
        status = add(err, out, slash ? slash + 1 : path, path, st.st_size);
    } else if (S_ISDIR(st.st_mode)) {
        size_t n = strlen(path);
        while (n > 1 && path[n - 1] == '/') n--;
        char *folder = strndup(path, n);
        if (!folder) return fm_fail(err, FM_ERR_OOM, "dataset: no memory to list '%s'", path);
        status = walk(err, out, folder, n + 1, pattern, exclude);
        free(folder);
    } else {
        return fm_fail(err, FM_ERR_IO, "dataset: '%s' is neither a file nor a folder", path);
    }
    if (status != FM_OK) {
        fm_files_free(out);
        return status;
    }
    if (out->n) qsort(out->items, (size_t)out->n, sizeof *out->items, by_name);
    return FM_OK;
}

void fm_files_free(fm_files *f) {
    for (int64_t i = 0; i < f->n; i++) free(f->items[i].name), free(f->items[i].path);
    free(f->items);
    *f = (fm_files){0};
}
