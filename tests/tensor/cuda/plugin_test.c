/* fm_device_open's rule, against plugins without CUDA, and the real plugin as far as a machine
 * without a GPU goes: it loads with every symbol resolved, is of this build, and says why it does
 * not open.
 *
 * A stand-in for the driver's library is loaded first where there is none, by its name: from then
 * on dlopen("libcuda.so.1") finds it. */
#include "tensor/device.h"
#include "tests/tensor/cpu/cases.h"

#include <dlfcn.h>
#include <stdlib.h>

typedef struct opened {
    fm_status status;
    fm_error error;
    char why[512], name[32];
    bool plugin;
} opened;

static opened open_device(const char *device) {
    opened o = {0};
    fm_device *dev;
    void *plugin;
    void (*close_device)(fm_device *);
    o.status = fm_device_open(device, &o.error, o.why, sizeof o.why, &dev, &plugin, &close_device);
    if (dev) snprintf(o.name, sizeof o.name, "%s", dev->name);
    o.plugin = plugin != NULL;
    if (dev) close_device(dev);
    if (plugin) dlclose(plugin);
    return o;
}

/* Everything that `device` must give: NULL for texts that must be empty. */
static void check(cases *c, const char *device, fm_status status, const char *name, bool plugin,
                  const char *error, const char *why) {
    if (!case_begin(c, "open(%s,%s)", device, error ? error : why ? why : name)) return;
    opened o = open_device(device);
    if (o.status != status)
        case_fail(c, "status %d, not %d: %s", o.status, status, o.error.message);
    if (strcmp(o.name, name) != 0) case_fail(c, "device '%s', not '%s'", o.name, name);
    if (o.plugin != plugin) case_fail(c, "plugin %d, not %d", o.plugin, plugin);
    if (error ? !strstr(o.error.message, error) : o.error.message[0] != 0)
        case_fail(c, "error '%s', not '%s'", o.error.message, error ? error : "");
    if (why ? !strstr(o.why, why) : o.why[0] != 0)
        case_fail(c, "why '%s', not '%s'", o.why, why ? why : "");
    case_end(c);
}

/* The plugin at `path` is refused, and the message has all of `texts`. */
static void check_refused(cases *c, const char *label, const char *path, const char *text1,
                          const char *text2) {
    if (!case_begin(c, "refused(%s)", label)) return;
    fm_error error = {0};
    fm_plugin p;
    fm_status s = fm_plugin_load(path, &error, &p);
    if (s != FM_ERR_DEVICE) case_fail(c, "status %d: %s", s, error.message);
    if (p.handle) case_fail(c, "the plugin is there");
    if (!strstr(error.message, text1) || !strstr(error.message, text2))
        case_fail(c, "'%s' does not say '%s' and '%s'", error.message, text1, text2);
    case_end(c);
}

static void check_real(cases *c, const char *path) {
    if (case_begin(c, "real(load)")) {
        fm_error error = {0};
        fm_plugin p;
        if (fm_plugin_load(path, &error, &p) != FM_OK)
            case_fail(c, "%s", error.message);
        else {
            printf("%s, built for %s\n", p.id->name, p.id->built_for);
            if (strcmp(p.id->name, "cuda") != 0) case_fail(c, "name %s", p.id->name);
            if (strncmp(p.id->built_for, "sm_", 3) != 0 || !p.id->built_for[3])
                case_fail(c, "built for '%s'", p.id->built_for);
            if (dlsym(p.handle, "fm_fail") && dlsym(p.handle, "fm_fail") != dlsym(NULL, "fm_fail"))
                case_fail(c, "fm_fail is exported");
            dlclose(p.handle);
        }
        case_end(c);
    }
    if (case_begin(c, "real(open)")) {
        fm_error error = {0};
        fm_plugin p;
        if (fm_plugin_load(path, &error, &p) != FM_OK) {
            case_fail(c, "%s", error.message);
            case_end(c);
            return;
        }
        fm_device *dev;
        fm_status s = p.open(1000, &error, &dev);
        printf("cuda:1000: %s\n", error.message);
        if (s != FM_ERR_DEVICE && s != FM_ERR_VALUE) case_fail(c, "status %d", s);
        if (dev) case_fail(c, "a device all the same");
        if (!strstr(error.message, "GPU")) case_fail(c, "'%s' names no GPU", error.message);
        if (s == FM_ERR_VALUE && !strstr(error.message, "cuda:1000"))
            case_fail(c, "'%s' does not name the index", error.message);
        case_end(c); /* the handle stays: CUDA's threads may run in it */
    }
}

int main(int argc, char **argv) {
    if (argc < 7) return printf("usage: plugin_test DRIVER GOOD ABI SIZE NO_ID REAL|-\n"), 2;
    const char *driver = argv[1], *good = argv[2], *abi = argv[3], *size = argv[4],
               *no_id = argv[5];
    const char *real = argv[6];
    cases c = cases_new(argc - 6, argv + 6);

    check(&c, "cpu", FM_OK, "cpu", false, NULL, NULL);
    check(&c, "gpu", FM_ERR_VALUE, "", false, "'gpu' is not one of auto, cpu, cuda, cuda:N", NULL);
    check(&c, "cuda:", FM_ERR_VALUE, "", false, "'cuda:' is not", NULL);
    check(&c, "cuda:-1", FM_ERR_VALUE, "", false, "'cuda:-1' is not", NULL);
    check(&c, "cuda:1x", FM_ERR_VALUE, "", false, "'cuda:1x' is not", NULL);
    check(&c, "cuda:99999999999", FM_ERR_VALUE, "", false, "'cuda:99999999999' is not", NULL);
#ifdef FM_WITH_CUDA
    void *has_driver = dlopen("libcuda.so.1", RTLD_LAZY);
    if (!has_driver) {
        check(&c, "auto", FM_OK, "cpu", false, NULL, "no NVIDIA driver");
        check(&c, "cuda", FM_ERR_DEVICE, "", false, "no NVIDIA driver", NULL);
        if (!dlopen(driver, RTLD_NOW)) return printf("%s\n", dlerror()), 1;
    }
    setenv("FMOE_CUDA_PLUGIN", good, 1);
    check(&c, "auto", FM_OK, "cuda:0", true, NULL, NULL);
    check(&c, "cuda:0", FM_OK, "cuda:0", true, NULL, NULL);
    check(&c, "cuda:7", FM_ERR_VALUE, "", false, "no GPU cuda:7", NULL);
    setenv("FMOE_CUDA_PLUGIN", abi, 1);
    check(&c, "auto", FM_OK, "cpu", false, NULL, "has ABI 4711");
    check(&c, "cuda", FM_ERR_DEVICE, "", false, "has ABI 4711", NULL);
    setenv("FMOE_CUDA_PLUGIN", "/nonexistent/plugin.so", 1);
    check(&c, "auto", FM_OK, "cpu", false, NULL, "cannot read /nonexistent/plugin.so");
    unsetenv("FMOE_CUDA_PLUGIN");
    check(&c, "cuda", FM_ERR_DEVICE, "", false, "no libfmoe_cuda.so beside the executable", NULL);
#else
    (void)driver;
    setenv("FMOE_CUDA_PLUGIN", good, 1);
    check(&c, "auto", FM_OK, "cpu", false, NULL, "built without CUDA");
    check(&c, "cuda", FM_ERR_UNSUPPORTED, "", false, "built without CUDA", NULL);
#endif

    char ours[64];
    snprintf(ours, sizeof ours, "this program has ABI %d", FM_BACKEND_ABI);
    check_refused(&c, "abi", abi, "has ABI 4711", ours);
    snprintf(ours, sizeof ours, "and %zu bytes", sizeof(fm_ops));
    check_refused(&c, "size", size, "a table of 8 bytes", ours);
    check_refused(&c, "no id", no_id, "not an fmoe plugin", no_id);
    check_refused(&c, "no file", "/nonexistent/plugin.so", "does not load", "nonexistent");
    if (strcmp(real, "-") != 0)
        check_real(&c, real);
    else if (case_begin(&c, "real"))
        case_skip(&c, "no CUDA toolkit: the plugin was not built");
    return cases_end(&c);
}
