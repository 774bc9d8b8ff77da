#include "io/dataset.h"
#include "io/files.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

/* Files held open at a time: a process may have 1024, and a folder more files. */
#ifdef FM_HOSTILE
enum { MAX_OPEN = 2 };
#else
enum { MAX_OPEN = 64 };
#endif
enum { EDGE = 1024 }; /* bytes at either end that enter the identity */

typedef struct open_slot {
    int64_t file; /* -1: the slot is free */
    int fd;
} open_slot;

struct fm_dataset {
    fm_files files;
    int64_t *start;           /* [files.n]: token that the file begins with */
    open_slot open[MAX_OPEN]; /* file i, when it is open, is in slot i % MAX_OPEN */
    int64_t tokens;
    char identity[160];
};

static fm_status open_file(fm_ctx *ctx, const fm_file *f, int *fd) {
    struct stat st;
    *fd = open(f->path, O_RDONLY | O_CLOEXEC);
    FM_CHECK(*fd >= 0, FM_ERR_IO, "dataset: cannot open '%s': %s", f->path, strerror(errno));
    if (fstat(*fd, &st) != 0 || st.st_size != f->size) {
        close(*fd);
        return fm_fail(&ctx->error, FM_ERR_IO,
                       "dataset: '%s' had %lld bytes when the dataset was opened and has another "
                       "size now",
                       f->path, (long long)f->size);
    }
    return FM_OK;
}

static fm_status hash_edge(fm_ctx *ctx, const fm_file *f, int fd, int64_t at, XXH3_state_t *hash) {
    char edge[EDGE];
    size_t want = f->size - at < EDGE ? (size_t)(f->size - at) : EDGE;
    ssize_t got = pread(fd, edge, want, at);
    FM_CHECK(got == (ssize_t)want, FM_ERR_IO, "dataset: cannot read '%s': %s", f->path,
             got < 0 ? strerror(errno) : "it became shorter");
    XXH3_64bits_update(hash, edge, want);
    return FM_OK;
}

static fm_status hash_file(fm_ctx *ctx, const fm_file *f, XXH3_state_t *hash) {
    int fd;
    FM_TRY(open_file(ctx, f, &fd));
    XXH3_64bits_update(hash, f->name, strlen(f->name) + 1);
    XXH3_64bits_update(hash, &f->size, sizeof f->size);
    fm_status status = hash_edge(ctx, f, fd, 0, hash);
    if (status == FM_OK) status = hash_edge(ctx, f, fd, f->size > EDGE ? f->size - EDGE : 0, hash);
    close(fd);
    return status;
}

static fm_status identify(fm_ctx *ctx, fm_dataset *d) {
    XXH3_state_t *hash = XXH3_createState();
    FM_CHECK(hash, FM_ERR_OOM, "dataset: no memory for a hash");
    XXH3_64bits_reset(hash);
    fm_status status = FM_OK;
    for (int64_t i = 0; i < d->files.n && status == FM_OK; i++)
        status = hash_file(ctx, &d->files.items[i], hash);
    if (status == FM_OK)
        snprintf(d->identity, sizeof d->identity, "bytes:files=%lld:tokens=%lld:xxh3=%016llx",
                 (long long)d->files.n, (long long)d->tokens,
                 (unsigned long long)XXH3_64bits_digest(hash));
    XXH3_freeState(hash);
    return status;
}

static fm_status index_files(fm_ctx *ctx, fm_dataset *d) {
    size_t n = (size_t)d->files.n;
    d->start = malloc(n * sizeof *d->start);
    FM_CHECK(d->start, FM_ERR_OOM, "dataset: no memory for %zu files", n);
    for (size_t i = 0; i < n; i++) {
        d->start[i] = d->tokens;
        d->tokens += d->files.items[i].size;
    }
    return FM_OK;
}

fm_status fm_dataset_bytes(fm_ctx *ctx, const char *path, const char *pattern, const char *exclude,
                           fm_dataset **out) {
    *out = NULL;
    fm_status status = FM_OK;
    fm_dataset *d = calloc(1, sizeof *d);
    FM_CHECK(d, FM_ERR_OOM, "dataset: no memory to open '%s'", path);
    for (int i = 0; i < MAX_OPEN; i++) d->open[i].file = -1;
    FM_TRY_GOTO(fm_files_list(&ctx->error, path, pattern, exclude, &d->files));
    FM_CHECK_GOTO(d->files.n > 0, FM_ERR_VALUE,
                  "dataset: path: no file below '%s' matches the pattern '%s'%s%s%s; at least one "
                  "must",
                  path, pattern ? pattern : "*", exclude ? " and not '" : "",
                  exclude ? exclude : "", exclude ? "'" : "");
    FM_TRY_GOTO(index_files(ctx, d));
    FM_CHECK_GOTO(d->tokens > 0, FM_ERR_VALUE,
                  "dataset: path: '%s' (%lld files) holds no byte; it must hold at least one", path,
                  (long long)d->files.n);
    FM_TRY_GOTO(identify(ctx, d));
    *out = d;
    return FM_OK;
out:
    fm_dataset_free(d);
    return status;
}

static void close_slot(open_slot *slot) {
    if (slot->file >= 0) close(slot->fd);
    slot->file = -1;
}

void fm_dataset_free(fm_dataset *d) {
    if (!d) return;
    for (int i = 0; i < MAX_OPEN; i++) close_slot(&d->open[i]);
    fm_files_free(&d->files);
    free(d->start);
    free(d);
}

int64_t fm_dataset_tokens(const fm_dataset *d) { return d->tokens; }
int64_t fm_dataset_files(const fm_dataset *d) { return d->files.n; }
int64_t fm_dataset_vocab(const fm_dataset *d) {
    (void)d;
    return 256;
}
const char *fm_dataset_identity(const fm_dataset *d) { return d->identity; }

static fm_status descriptor(fm_ctx *ctx, fm_dataset *d, int64_t file, int *fd) {
    open_slot *slot = &d->open[file % MAX_OPEN];
    if (slot->file != file) {
        close_slot(slot);
        FM_TRY(open_file(ctx, &d->files.items[file], &slot->fd));
        slot->file = file;
    }
    *fd = slot->fd;
    return FM_OK;
}

/* Bytes [at, at + n) of a file, as tokens. Read, not mapped: a file that becomes shorter under a map
 * kills the process. */
static fm_status read_file(fm_ctx *ctx, const fm_file *f, int fd, int64_t at, int64_t n,
                           int32_t *out) {
    uint8_t block[16 << 10];
    while (n > 0) {
        size_t want = n < (int64_t)sizeof block ? (size_t)n : sizeof block;
        ssize_t got = pread(fd, block, want, at);
        if (got < 0 && errno == EINTR) continue;
        FM_CHECK(got >= 0, FM_ERR_IO, "dataset: cannot read '%s': %s", f->path, strerror(errno));
        FM_CHECK(got > 0, FM_ERR_IO,
                 "dataset: '%s' had %lld bytes when the dataset was opened and ends at byte %lld "
                 "now",
                 f->path, (long long)f->size, (long long)at);
        for (ssize_t i = 0; i < got; i++) out[i] = block[i];
        out += got, at += got, n -= got;
    }
    return FM_OK;
}

/* The last file that begins at or before the token; empty files before it begin there too. */
static int64_t file_of(const fm_dataset *d, int64_t token) {
    int64_t low = 0, high = d->files.n;
    while (high - low > 1) {
        int64_t middle = low + (high - low) / 2;
        if (d->start[middle] <= token)
            low = middle;
        else
            high = middle;
    }
    return low;
}

fm_status fm_dataset_read(fm_ctx *ctx, const fm_dataset *d, int64_t start, int64_t n,
                          int32_t *out) {
    FM_CHECK(start >= 0 && n >= 0 && start <= d->tokens && n <= d->tokens - start, FM_ERR_RANGE,
             "dataset: tokens [%lld, %lld + %lld) are outside [0, %lld)", (long long)start,
             (long long)start, (long long)n, (long long)d->tokens);
    if (n == 0) return FM_OK;
    for (int64_t file = file_of(d, start); n > 0; file++) {
        int64_t at = start - d->start[file], here = d->files.items[file].size - at;
        if (here <= 0) continue;
        if (here > n) here = n;
        int fd;
        /* Which files are open is not part of the dataset's value. */
        FM_TRY(descriptor(ctx, (fm_dataset *)(uintptr_t)d, file, &fd));
        FM_TRY(read_file(ctx, &d->files.items[file], fd, at, here, out));
        out += here, start += here, n -= here;
    }
    return FM_OK;
}
