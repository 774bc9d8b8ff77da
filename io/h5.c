#include "io/h5.h"

#include "io/h5_internal.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

/* HDF5's state is the process's, so its lock is, too. */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

enum { REASON = 400 };
static char reason[REASON]; /* why the last call failed; guarded by the lock */

static herr_t innermost(unsigned n, const H5E_error2_t *e, void *unused) {
    (void)unused;
    if (n == 0 && e->desc) snprintf(reason, sizeof reason, "%s", e->desc);
    return 0;
}

/* HDF5 calls this when a call of its interface fails. Later it would be too late: the next call, which
 * closes something, forgets the errors. */
static herr_t keep_reason(hid_t stack, void *unused) {
    H5Ewalk2(stack, H5E_WALK_UPWARD, innermost, unused);
    return 0;
}

void fm_h5_enter(void) {
    static bool started;
    pthread_mutex_lock(&lock);
    /* A file whose last writes failed (a full disk) cannot be closed, and HDF5's handler at exit
     * crashes over what is left of it. We close what we open, so nothing is lost without it. */
    if (!started) H5dont_atexit();
    started = true;
    reason[0] = 0;
    H5Eset_auto2(H5E_DEFAULT, keep_reason, NULL); /* and nothing is printed */
    H5Eclear2(H5E_DEFAULT);
}
void fm_h5_leave(void) { pthread_mutex_unlock(&lock); }

/* A failed system call is described by a line of addresses; errno's text stands in the middle. */
static void shorten(void) {
    static const char before[] = "error message = '";
    char *text = strstr(reason, before), *end = text ? strchr(text + sizeof before, '\'') : NULL;
    if (end) {
        *end = 0;
        text += strlen(before);
        memmove(reason, text, strlen(text) + 1);
    }
    reason[strcspn(reason, "\n")] = 0;
    if (strstr(reason, "Fletcher32"))
        snprintf(reason, sizeof reason,
                 "its checksum does not match, the data has changed on disk");
}

fm_status fm_h5_failed(fm_error *err, fm_status s, const fm_h5 *h, const char *name,
                       const char *what) {
    shorten();
    const char *colon = reason[0] ? ": " : "";
    return name ? fm_fail(err, s, "%s: dataset %s: %s%s%s", h->path, name, what, colon, reason)
                : fm_fail(err, s, "%s: %s%s%s", h->path, what, colon, reason);
}

static fm_status new_handle(fm_error *err, fm_io_env *env, const char *path, fm_h5 **out) {
    *out = calloc(1, sizeof **out);
    FM_REQUIRE(err, *out, FM_ERR_OOM, "out of memory: an HDF5 file's record");
    (*out)->file = -1;
    (*out)->env = env;
    snprintf((*out)->path, sizeof(*out)->path, "%s", path);
    return FM_OK;
}

/* Parallel file systems often refuse locks; commits are by rename and need none. */
static hid_t access_list(void) {
    hid_t list = H5Pcreate(H5P_FILE_ACCESS);
#if H5_VERSION_GE(1, 10, 7)
    if (list >= 0) H5Pset_file_locking(list, false, true);
#endif
    return list;
}

bool fm_h5_plain_group(hid_t list) {
    return H5Pset_obj_track_times(list, false) >= 0 &&
           H5Pset_link_phase_change(list, UINT16_MAX, UINT16_MAX) >= 0;
}

fm_status fm_h5_create(fm_error *err, fm_io_env *env, const char *path, fm_h5 **out) {
    FM_TRY(new_handle(err, env, path, out));
    fm_status status = FM_OK;
    fm_h5_enter();
    hid_t list = access_list(), create = H5Pcreate(H5P_FILE_CREATE);
    /* The format of 1.10 has checksums in its metadata too. */
    if (!fm_io_fails(env) && list >= 0 && create >= 0 && fm_h5_plain_group(create) &&
        H5Pset_libver_bounds(list, H5F_LIBVER_V110, H5F_LIBVER_V110) >= 0)
        (*out)->file = H5Fcreate(path, H5F_ACC_EXCL, create, list);
    if ((*out)->file < 0) status = fm_h5_failed(err, FM_ERR_IO, *out, NULL, "cannot be created");
    if (create >= 0) H5Pclose(create);
    if (list >= 0) H5Pclose(list);
    fm_h5_leave();
    if (status != FM_OK) free(*out), *out = NULL;
    return status;
}

fm_status fm_h5_open(fm_error *err, const char *path, fm_h5 **out) {
    FM_TRY(new_handle(err, NULL, path, out));
    fm_status status = FM_OK;
    fm_h5_enter();
    hid_t list = access_list();
    if (list >= 0) (*out)->file = H5Fopen(path, H5F_ACC_RDONLY, list);
    if ((*out)->file < 0)
        status = fm_h5_failed(err, FM_ERR_CHECKPOINT, *out, NULL, "cannot be opened as HDF5");
    if (list >= 0) H5Pclose(list);
    fm_h5_leave();
    if (status != FM_OK) free(*out), *out = NULL;
    return status;
}

fm_status fm_h5_close(fm_error *err, fm_h5 *h) {
    if (!h) return FM_OK;
    fm_status status = FM_OK;
    fm_h5_enter();
    bool fails = fm_io_fails(h->env);
    if (h->file >= 0 && (H5Fclose(h->file) < 0 || fails))
        status = fm_h5_failed(err, FM_ERR_IO, h, NULL, "cannot be closed");
    fm_h5_leave();
    free(h->chunk);
    free(h);
    return status;
}

const char *fm_h5_version(void) {
    static char text[32];
    unsigned major = 0, minor = 0, release = 0;
    H5get_libversion(&major, &minor, &release);
    snprintf(text, sizeof text, "%u.%u.%u", major, minor, release);
    return text;
}
