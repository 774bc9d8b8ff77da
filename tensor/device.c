/* fm_device_open: driver, plugin, identity, GPU, in this order; see device.h. */
#include "tensor/device.h"

#include <dlfcn.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* POSIX gives functions as data pointers; ISO C has no such cast. */
#define SYMBOL(handle, name, fn) (*(void **)&(fn) = dlsym(handle, name))

fm_status fm_plugin_load(const char *path, fm_error *err, fm_plugin *out) {
    *out = (fm_plugin){0};
    fm_plugin p = {0};
    fm_status status;
    p.handle = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (!p.handle) {
        return fm_fail(err, FM_ERR_DEVICE, "plugin %s does not load: %s", path, dlerror());
    }
    fm_backend_id_fn id = NULL;
    SYMBOL(p.handle, "fm_backend_id", id);
    p.id = id ? id() : NULL;
    if (!p.id) {
        status = fm_fail(err, FM_ERR_DEVICE, "plugin %s has no fm_backend_id: not an fmoe plugin",
                         path);
        goto out;
    }
    if (p.id->abi != FM_BACKEND_ABI || p.id->ops_size != sizeof(fm_ops)) {
        status = fm_fail(err, FM_ERR_DEVICE,
                         "plugin %s is of another build: it has ABI %u and a table of %u bytes, "
                         "this program has ABI %u and %u bytes; build both from one tree",
                         path, (unsigned)p.id->abi, (unsigned)p.id->ops_size,
                         (unsigned)FM_BACKEND_ABI, (unsigned)sizeof(fm_ops));
        goto out;
    }
    SYMBOL(p.handle, "fm_backend_open", p.open);
    SYMBOL(p.handle, "fm_backend_close", p.close);
    if (!p.open || !p.close) {
        status = fm_fail(err, FM_ERR_DEVICE, "plugin %s has no %s", path,
                         p.open ? "fm_backend_close" : "fm_backend_open");
        goto out;
    }
    *out = p;
    return FM_OK;
out:
    dlclose(p.handle);
    return status;
}

enum device_kind { DEVICE_AUTO, DEVICE_CPU, DEVICE_CUDA };

static fm_status parse_device(const char *device, fm_error *err, enum device_kind *kind,
                              int *index) {
    *index = 0;
    const char *text = device ? device : "NULL";
    if (strcmp(text, "auto") == 0) {
        *kind = DEVICE_AUTO;
        return FM_OK;
    }
    if (strcmp(text, "cpu") == 0) {
        *kind = DEVICE_CPU;
        return FM_OK;
    }
    *kind = DEVICE_CUDA;
    if (strcmp(text, "cuda") == 0) return FM_OK;
    if (strncmp(text, "cuda:", 5) == 0 && text[5] >= '0' && text[5] <= '9') {
        char *end;
        errno = 0;
        long n = strtol(text + 5, &end, 10);
        if (*end == '\0' && errno == 0 && n <= INT_MAX) {
            *index = (int)n;
            return FM_OK;
        }
    }
    return fm_fail(err, FM_ERR_VALUE,
                   "device: '%s' is not one of auto, cpu, cuda, cuda:N with N a GPU's number",
                   text);
}

#ifdef FM_WITH_CUDA

/* Directory of the running executable with `tail` behind it, if there is such a file. */
static bool beside_executable(const char *tail, char *path, size_t n) {
    char exe[PATH_MAX];
    ssize_t len = readlink("/proc/self/exe", exe, sizeof exe - 1);
    if (len <= 0) return false;
    exe[len] = '\0';
    char *slash = strrchr(exe, '/');
    if (!slash) return false;
    *slash = '\0';
    int need = snprintf(path, n, "%s/%s", exe, tail);
    return need > 0 && (size_t)need < n && access(path, R_OK) == 0;
}

static fm_status find_plugin(fm_error *err, char *path, size_t n) {
    const char *given = getenv("FMOE_CUDA_PLUGIN");
    if (given && *given) {
        int need = snprintf(path, n, "%s", given);
        if ((size_t)need < n && access(path, R_OK) == 0) return FM_OK;
        return fm_fail(err, FM_ERR_DEVICE, "FMOE_CUDA_PLUGIN: cannot read %s", given);
    }
    if (beside_executable("libfmoe_cuda.so", path, n) ||
        beside_executable("tensor/cuda/libfmoe_cuda.so", path, n)) {
        return FM_OK;
    }
    return fm_fail(err, FM_ERR_DEVICE,
                   "no libfmoe_cuda.so beside the executable (FMOE_CUDA_PLUGIN may name one)");
}

static fm_status open_cuda(int index, fm_error *err, fm_device **dev, fm_plugin *plugin) {
    fm_status status;
    char path[PATH_MAX];
    /* The handle is kept until the plugin has taken its own, so that it is mapped once. */
    void *driver = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
    if (!driver) return fm_fail(err, FM_ERR_DEVICE, "no NVIDIA driver: %s", dlerror());
    FM_TRY_GOTO(find_plugin(err, path, sizeof path));
    FM_TRY_GOTO(fm_plugin_load(path, err, plugin));
    status = plugin->open(index, err, dev);
    if (status != FM_OK) {
        dlclose(plugin->handle);
        *plugin = (fm_plugin){0};
    }
out:
    dlclose(driver);
    return status;
}

#else

static fm_status open_cuda(int index, fm_error *err, fm_device **dev, fm_plugin *plugin) {
    (void)index, (void)dev, (void)plugin;
    return fm_fail(err, FM_ERR_UNSUPPORTED, "this program was built without CUDA");
}

#endif

fm_status fm_device_open(const char *device, fm_error *err, char *why, size_t why_size,
                         fm_device **dev, void **plugin, void (**close_device)(fm_device *)) {
    *dev = NULL;
    *plugin = NULL;
    *close_device = NULL;
    if (why && why_size > 0) why[0] = '\0';

    enum device_kind kind;
    int index;
    FM_TRY(parse_device(device, err, &kind, &index));
    if (kind != DEVICE_CPU) {
        /* Its own error: in the case of "auto" a failure here is none for the caller. */
        fm_error attempt = {0};
        fm_plugin p = {0};
        fm_status status = open_cuda(index, &attempt, dev, &p);
        if (status == FM_OK) {
            (*dev)->error = err;
            *plugin = p.handle;
            *close_device = p.close;
            return FM_OK;
        }
        *dev = NULL;
        if (kind == DEVICE_CUDA) {
            return fm_fail(err, status, "device %s: %s", device, attempt.message);
        }
        if (why) snprintf(why, why_size, "%s", attempt.message);
    }
    fm_status status = fm_cpu_open(err, dev);
    if (status != FM_OK) {
        *dev = NULL;
        return status;
    }
    *close_device = fm_cpu_close;
    return FM_OK;
}
