/* Choosing and opening a device: the CPU, which is linked in, or a GPU, which a plugin serves.
 *
 * The program links no CUDA. `libfmoe_cuda.so` is looked for at run time, and only after the
 * driver's own library was found, so that a machine without a GPU starts at once and says why.
 */
#ifndef FM_TENSOR_DEVICE_H
#define FM_TENSOR_DEVICE_H
#include "tensor/backend.h"

/* Opens `device`:
 *   "cpu"      the CPU.
 *   "cuda:n"   GPU n; "cuda" is "cuda:0". What is missing is an error.
 *   "auto"     "cuda:0" where a driver, the plugin and a GPU are there; else the CPU, and `why`
 *              says what was missing.
 * err        not NULL; becomes (*dev)->error and must live as long as the device
 * why        may be NULL; why_size bytes; empty where nothing had to be given up
 * dev        the open device; ends with (*close_device)(*dev), then dlclose(*plugin)
 * plugin     the plugin's dlopen handle; NULL for the CPU
 * After an error all three are NULL. FM_ERR_VALUE: `device` is none of the above, or no such GPU.
 * FM_ERR_DEVICE: no driver, no plugin, a plugin of another build, or the GPU does not start.
 * FM_ERR_UNSUPPORTED: built without CUDA (no FM_WITH_CUDA); a plugin that happens to lie beside
 * such a program is of another build and is not looked at.
 *
 * The plugin is $FMOE_CUDA_PLUGIN (a file; nothing else is tried then), else libfmoe_cuda.so in
 * the executable's directory, else tensor/cuda/libfmoe_cuda.so below it (Bazel's output tree). */
fm_status fm_device_open(const char *device, fm_error *err, char *why, size_t why_size,
                         fm_device **dev, void **plugin, void (**close_device)(fm_device *));

/* A plugin whose fm_backend_id matches this program's; ends with dlclose(handle). */
typedef struct fm_plugin {
    void *handle;
    const fm_backend_id *id;
    fm_backend_open_fn open;
    fm_backend_close_fn close;
} fm_plugin;

/* Opens a plugin with every symbol resolved and compares its identity before calling anything else
 * of it. FM_ERR_DEVICE: it does not load, is no plugin, or is of another build (the message has
 * both sides' numbers). */
fm_status fm_plugin_load(const char *path, fm_error *err, fm_plugin *out);

#endif
