#include "pyembed/sanitize.h"

#ifndef __has_feature
#define __has_feature(x) 0
#endif

#if defined(__SANITIZE_ADDRESS__) || __has_feature(address_sanitizer)
#include <Python.h>
#include <sanitizer/lsan_interface.h>
#include <stdlib.h>

/* Objects that CPython keeps at its end are not leaks, and what they point to is reachable: blocks
 * allocated while LeakSanitizer is off are scanned as roots. libpython itself is not suppressed:
 * every call from a script passes through it. */
static void *python_malloc(void *ctx, size_t n) {
    (void)ctx;
    __lsan_disable();
    void *p = malloc(n ? n : 1);
    __lsan_enable();
    return p;
}

static void *python_calloc(void *ctx, size_t n, size_t size) {
    (void)ctx;
    __lsan_disable();
    void *p = calloc(n && size ? n : 1, n && size ? size : 1);
    __lsan_enable();
    return p;
}

static void *python_realloc(void *ctx, void *old, size_t n) {
    (void)ctx;
    __lsan_disable();
    void *p = realloc(old, n ? n : 1);
    __lsan_enable();
    return p;
}

static void python_free(void *ctx, void *p) {
    (void)ctx;
    free(p);
}

void fm_sanitize_python(void) {
    PyMemAllocatorEx a = {NULL, python_malloc, python_calloc, python_realloc, python_free};
    PyMem_SetAllocator(PYMEM_DOMAIN_RAW, &a);
    PyMem_SetAllocator(PYMEM_DOMAIN_MEM, &a);
    PyMem_SetAllocator(PYMEM_DOMAIN_OBJ, &a);
}

#else

void fm_sanitize_python(void) {}

#endif
