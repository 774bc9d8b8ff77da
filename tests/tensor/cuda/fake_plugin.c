/* A plugin without CUDA for plugin_test, compiled several times:
 *   -DFAKE_ABI=n    another ABI number
 *   -DFAKE_SIZE=n   another table
 *   -DFAKE_NO_ID    no plugin at all
 * Opening "GPU" 0 works, another does not. */
#include "tensor/backend.h"

#include <stdio.h>
#include <stdlib.h>

#ifndef FAKE_ABI
#define FAKE_ABI FM_BACKEND_ABI
#endif
#ifndef FAKE_SIZE
#define FAKE_SIZE sizeof(fm_ops)
#endif

#ifdef FAKE_NO_ID
int fake_plugin_is_empty = 1;
#else
const fm_backend_id *fake_id(void) __asm__("fm_backend_id");
fm_status fm_backend_open(int index, fm_error *err, fm_device **out);
void fm_backend_close(fm_device *dev);

const fm_backend_id *fake_id(void) {
    static const fm_backend_id id = {FAKE_ABI, FAKE_SIZE, "cuda", "sm_0"};
    return &id;
}

fm_status fm_backend_open(int index, fm_error *err, fm_device **out) {
    static const fm_ops none = {0};
    if (FAKE_ABI != FM_BACKEND_ABI || FAKE_SIZE != sizeof(fm_ops)) abort(); /* must not be called */
    if (index != 0) return fm_fail(err, FM_ERR_VALUE, "no GPU cuda:%d: the fake has 1", index);
    *out = calloc(1, sizeof **out);
    if (!*out) return fm_fail(err, FM_ERR_OOM, "fake: no memory");
    (*out)->ops = &none;
    (*out)->error = err;
    snprintf((*out)->name, sizeof(*out)->name, "cuda:%d", index);
    return FM_OK;
}

void fm_backend_close(fm_device *dev) { free(dev); }
#endif
