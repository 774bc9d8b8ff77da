#include "io/disk.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

static fm_status failed(fm_error *err, const char *path, const char *what) {
    return fm_fail(err, FM_ERR_IO, "%s: %s: %s", path, what, strerror(errno));
}

fm_status fm_disk_join(fm_error *err, char *out, const char *folder, const char *name) {
    int n = snprintf(out, FM_PATH, "%s/%s", folder, name);
    FM_REQUIRE(err, n > 0 && n < FM_PATH, FM_ERR_IO, "%s/%s: the path is too long", folder, name);
    return FM_OK;
}

bool fm_disk_is_folder(const char *path) {
    struct stat s;
    return lstat(path, &s) == 0 && S_ISDIR(s.st_mode);
}

fm_status fm_disk_make_folder(fm_error *err, fm_io_env *env, const char *path) {
    if (fm_io_fails(env) || mkdir(path, 0777) != 0)
        return failed(err, path, "the folder cannot be made");
    return FM_OK;
}

fm_status fm_disk_lock(fm_error *err, const char *path, int *lock) {
    *lock = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (*lock < 0) return failed(err, path, "cannot be opened");
    if (flock(*lock, LOCK_EX | LOCK_NB) == 0) return FM_OK;
    bool held = errno == EWOULDBLOCK;
    close(*lock);
    *lock = -1;
    FM_REQUIRE(err, !held, FM_ERR_IO,
               "%s: a checkpoint is being saved there now, by another program or by another "
               "Checkpointer of this one",
               path);
    return FM_OK;
}

void fm_disk_unlock(int lock) {
    if (lock < 0) return;
    (void)flock(lock, LOCK_UN); /* a forked child may have it open still */
    close(lock);
}

/* The folder that holds it: only then is a new folder there after a crash of the machine. */
static fm_status sync_parent(fm_error *err, fm_io_env *env, const char *path) {
    char parent[FM_PATH];
    const char *slash = strrchr(path, '/');
    int length = !slash ? 0 : slash == path ? 1 : (int)(slash - path);
    snprintf(parent, sizeof parent, "%.*s", length, path);
    if (length == 0) return fm_disk_sync_folder(err, env, ".");
    return fm_disk_sync_folder(err, env, parent);
}

fm_status fm_disk_make_folders(fm_error *err, fm_io_env *env, const char *path) {
    char part[FM_PATH];
    FM_REQUIRE(err, strlen(path) < sizeof part, FM_ERR_IO, "%s: the path is too long", path);
    snprintf(part, sizeof part, "%s", path);
    for (char *at = part + 1;; at++) {
        if (*at != '/' && *at != 0) continue;
        char was = *at;
        *at = 0;
        bool made = !fm_io_fails(env) && mkdir(part, 0777) == 0;
        if (!made && errno != EEXIST) return failed(err, part, "the folder cannot be made");
        if (made) FM_TRY(sync_parent(err, env, part));
        *at = was;
        if (was == 0) return FM_OK;
    }
}

fm_status fm_disk_remove(fm_error *err, const char *path) {
    struct stat s;
    if (lstat(path, &s) != 0) return errno == ENOENT ? FM_OK : failed(err, path, "cannot be seen");
    if (!S_ISDIR(s.st_mode))
        return unlink(path) == 0 || errno == ENOENT ? FM_OK
                                                    : failed(err, path, "cannot be removed");
    DIR *folder = opendir(path);
    if (!folder) return failed(err, path, "cannot be listed");
    fm_status status = FM_OK;
    for (struct dirent *e; status == FM_OK && (e = readdir(folder));) {
        if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0) continue;
        char inside[FM_PATH];
        status = fm_disk_join(err, inside, path, e->d_name);
        if (status == FM_OK) status = fm_disk_remove(err, inside);
    }
    closedir(folder);
    if (status == FM_OK && rmdir(path) != 0 && errno != ENOENT)
        status = failed(err, path, "cannot be removed");
    return status;
}

fm_status fm_disk_rename(fm_error *err, fm_io_env *env, const char *from, const char *to) {
    if (fm_io_fails(env) || rename(from, to) != 0)
        return fm_fail(err, FM_ERR_IO, "%s: cannot be renamed to %s: %s", from, to,
                       strerror(errno));
    return FM_OK;
}

fm_status fm_disk_sync_folder(fm_error *err, fm_io_env *env, const char *path) {
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) return failed(err, path, "cannot be opened");
    fm_status status = FM_OK;
    if (fm_io_fails(env) || fsync(fd) != 0) status = failed(err, path, "cannot be synced");
    close(fd);
    return status;
}

static bool write_all(int fd, const char *text, size_t n) {
    while (n > 0) {
        ssize_t done = write(fd, text, n);
        if (done < 0 && errno == EINTR) continue;
        if (done <= 0) return false;
        text += done;
        n -= (size_t)done;
    }
    return true;
}

fm_status fm_disk_write(fm_error *err, fm_io_env *env, const char *path, const char *text,
                        bool replace) {
    char other[FM_PATH];
    const char *target = path;
    if (replace) {
        int n = snprintf(other, sizeof other, "%s.new", path);
        FM_REQUIRE(err, n < (int)sizeof other, FM_ERR_IO, "%s: the path is too long", path);
        target = other;
    }
    int fd = open(target, O_WRONLY | O_CREAT | (replace ? O_TRUNC : O_EXCL) | O_CLOEXEC, 0666);
    if (fd < 0) return failed(err, target, "cannot be created");
    fm_status status = FM_OK;
    if (fm_io_fails(env) || !write_all(fd, text, strlen(text)))
        status = failed(err, target, "cannot be written");
    if (status == FM_OK && (fm_io_fails(env) || fsync(fd) != 0))
        status = failed(err, target, "cannot be synced");
    if (close(fd) != 0 && status == FM_OK) status = failed(err, target, "cannot be closed");
    if (status == FM_OK && replace) status = fm_disk_rename(err, env, target, path);
    return status;
}

/* A regular file, no link, no device; its size. */
static fm_status open_regular(fm_error *err, const char *path, int *fd, int64_t *bytes) {
    struct stat s;
    *fd = open(path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    if (*fd < 0) return failed(err, path, "cannot be opened");
    if (fstat(*fd, &s) != 0 || !S_ISREG(s.st_mode)) {
        close(*fd);
        return fm_fail(err, FM_ERR_IO, "%s: is not a regular file", path);
    }
    *bytes = (int64_t)s.st_size;
    return FM_OK;
}

fm_status fm_disk_check_size(fm_error *err, const char *path, int64_t bytes) {
    int fd;
    int64_t got = 0; /* gcc 12 at -O1 does not see that open_regular sets it */
    FM_TRY(open_regular(err, path, &fd, &got));
    close(fd);
    FM_REQUIRE(err, got == bytes, FM_ERR_IO, "%s: has %lld bytes; the manifest says %lld", path,
               (long long)got, (long long)bytes);
    return FM_OK;
}

fm_status fm_disk_read(fm_error *err, const char *path, size_t limit, char **text) {
    *text = NULL;
    int fd;
    int64_t bytes;
    FM_TRY(open_regular(err, path, &fd, &bytes));
    fm_status status = FM_OK;
    FM_REQUIRE_GOTO(err, (size_t)bytes <= limit, FM_ERR_IO, "%s: %lld bytes; allowed are %zu", path,
                    (long long)bytes, limit);
    *text = malloc((size_t)bytes + 1);
    FM_REQUIRE_GOTO(err, *text, FM_ERR_OOM, "out of memory: %lld bytes of %s", (long long)bytes,
                    path);
    size_t at = 0;
    while (at < (size_t)bytes) {
        ssize_t n = read(fd, *text + at, (size_t)bytes - at);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) break;
        at += (size_t)n;
    }
    (*text)[at] = 0;
    FM_REQUIRE_GOTO(err, at == (size_t)bytes, FM_ERR_IO, "%s: only %zu of %lld bytes can be read",
                    path, at, (long long)bytes);
out:
    close(fd);
    if (status != FM_OK) free(*text), *text = NULL;
    return status;
}

static void print_hash(XXH128_hash_t h, char hash[FM_HASH]) {
    snprintf(hash, FM_HASH, "%016llx%016llx", (unsigned long long)h.high64,
             (unsigned long long)h.low64);
}

void fm_disk_hash_text(const char *text, char hash[FM_HASH]) {
    print_hash(XXH3_128bits(text, strlen(text)), hash);
}

fm_status fm_disk_hash(fm_error *err, fm_io_env *env, const char *path, bool sync,
                       char hash[FM_HASH], int64_t *bytes) {
    enum { BLOCK = 4 << 20 };
    int fd;
    FM_TRY(open_regular(err, path, &fd, bytes));
    fm_status status = FM_OK;
    char *block = malloc(BLOCK);
    XXH3_state_t *state = XXH3_createState();
    FM_REQUIRE_GOTO(err, block && state && XXH3_128bits_reset(state) == XXH_OK, FM_ERR_OOM,
                    "out of memory: hashing %s", path);
    /* The disk starts while the hash is computed; where it cannot, fsync does all. */
    if (sync) (void)sync_file_range(fd, 0, 0, SYNC_FILE_RANGE_WRITE);
    for (ssize_t n; (n = read(fd, block, BLOCK)) != 0;) {
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) {
            status = failed(err, path, "cannot be read");
            goto out;
        }
        XXH3_128bits_update(state, block, (size_t)n);
    }
    if (sync && (fm_io_fails(env) || fsync(fd) != 0)) {
        status = failed(err, path, "cannot be synced");
        goto out;
    }
    print_hash(XXH3_128bits_digest(state), hash);
out:
    XXH3_freeState(state);
    free(block);
    close(fd);
    return status;
}
