#include "io/dataset.h"
#include "io/files.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

/* Files mapped at a time: a process may have 65530 maps, and a folder more files. */
#ifdef FM_HOSTILE
enum { MAX_MAPS = 2 };
#else
enum { MAX_MAPS = 256 };
#endif
enum { EDGE = 1024 }; /* bytes at either end that enter the identity */

/* Files mapped now: a ring, the oldest gives way. */
typedef struct fm_maps {
    int64_t file[MAX_MAPS]; /* -1: the slot is free */
    const uint8_t *data[MAX_MAPS];
    int next;
} fm_maps;

struct fm_dataset {
    fm_files files;
    int64_t *start; /* [files.n]: token that the file begins with */
    int32_t *slot;  /* [files.n]: where it is mapped, or -1 */
    fm_maps *maps;
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
    d->slot = malloc(n * sizeof *d->slot);
    d->maps = calloc(1, sizeof *d->maps);
    FM_CHECK(d->start && d->slot && d->maps, FM_ERR_OOM, "dataset: no memory for %zu files", n);
    for (int i = 0; i < MAX_MAPS; i++) d->maps->file[i] = -1;
    for (size_t i = 0; i < n; i++) {
        d->start[i] = d->tokens;
        d->slot[i] = -1;
        d->tokens += d->files.items[i].size;
    }
    return FM_OK;
}

fm_status fm_dataset_bytes(fm_ctx *ctx, const char *path, const char *pattern, fm_dataset **out) {
    *out = NULL;
    fm_status status = FM_OK;
    fm_dataset *d = calloc(1, sizeof *d);
    FM_CHECK(d, FM_ERR_OOM, "dataset: no memory to open '%s'", path);
    FM_TRY_GOTO(fm_files_list(&ctx->error, path, pattern, &d->files));
    FM_CHECK_GOTO(d->files.n > 0, FM_ERR_VALUE,
                  "dataset: path: no file below '%s' matches the pattern '%s'; at least one must",
                  path, pattern ? pattern : "*");
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

static void unmap(fm_dataset *d, int slot) {
    int64_t file = d->maps->file[slot];
    if (file < 0) return;
    munmap((void *)(uintptr_t)d->maps->data[slot], (size_t)d->files.items[file].size);
    d->slot[file] = -1;
    d->maps->file[slot] = -1;
}

void fm_dataset_free(fm_dataset *d) {
    if (!d) return;
    if (d->maps)
        for (int i = 0; i < MAX_MAPS; i++) unmap(d, i);
    fm_files_free(&d->files);
    free(d->start), free(d->slot), free(d->maps), free(d);
}

int64_t fm_dataset_tokens(const fm_dataset *d) { return d->tokens; }
int64_t fm_dataset_files(const fm_dataset *d) { return d->files.n; }
int64_t fm_dataset_vocab(const fm_dataset *d) {
    (void)d;
    return 256;
}
const char *fm_dataset_identity(const fm_dataset *d) { return d->identity; }

static fm_status map_file(fm_ctx *ctx, fm_dataset *d, int64_t file, const uint8_t **data) {
    if (d->slot[file] < 0) {
        const fm_file *f = &d->files.items[file];
        int fd;
        FM_TRY(open_file(ctx, f, &fd));
        void *p = mmap(NULL, (size_t)f->size, PROT_READ, MAP_SHARED, fd, 0);
        int why = errno;
        close(fd);
        FM_CHECK(p != MAP_FAILED, FM_ERR_IO, "dataset: cannot map '%s' (%lld bytes): %s", f->path,
                 (long long)f->size, strerror(why));
        int slot = d->maps->next;
        d->maps->next = (slot + 1) % MAX_MAPS;
        unmap(d, slot);
        d->maps->file[slot] = file, d->maps->data[slot] = p;
        d->slot[file] = slot;
    }
    *data = d->maps->data[d->slot[file]];
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
        const uint8_t *data = NULL;
        /* Which files are mapped is not part of the dataset's value. */
        FM_TRY(map_file(ctx, (fm_dataset *)(uintptr_t)d, file, &data));
        for (int64_t i = 0; i < here; i++) out[i] = data[at + i];
        out += here, start += here, n -= here;
    }
    return FM_OK;
}
