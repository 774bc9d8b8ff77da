/* Opening the CPU device, its memory, copies and scratch. */
#include "tensor/cpu/cpu.h"
#include "tensor/cpu/device.h"
#include "tests/tensor/cpu/cases.h"

#include <stdint.h>
#include <stdlib.h>

/* Below, at and above a huge page and the size from which copies are shared out. */
static const size_t sizes[] = {0, 1, 63, 4097, (1 << 20) - 1, 1 << 20, (2 << 20) + 5, 5000011};
enum { N_SIZES = sizeof sizes / sizeof *sizes };

static void fill(unsigned char *p, size_t n, unsigned seed) {
    for (size_t i = 0; i < n; i++) p[i] = (unsigned char)(fm_mix64(seed + i) >> 56);
}

static void check_copies(cases *c, fm_device *dev, size_t n) {
    const fm_ops *ops = dev->ops;
    void *a = NULL, *b = NULL;
    unsigned char *host = malloc(n + 1), *back = malloc(n + 1);
    if (!host || !back || ops->mem_alloc(dev, n, &a) != FM_OK ||
        ops->mem_alloc(dev, n, &b) != FM_OK)
        abort();
    if ((uintptr_t)a % 64 != 0 || (uintptr_t)b % 64 != 0 || a == b)
        case_fail(c, "blocks at %p and %p", a, b);
    fill(host, n, 1);
    host[n] = back[n] = 77; /* nobody may write here */
    ops->copy_in(dev, a, host, n);
    ops->copy(dev, b, a, n);
    ops->copy_out(dev, back, b, n);
    if (memcmp(host, back, n + 1) != 0) case_fail(c, "in, over and out: not the same bytes");
    ops->zero(dev, b, n);
    ops->copy_out(dev, back, b, n);
    for (size_t i = 0; i < n; i++)
        if (back[i] != 0) {
            case_fail(c, "byte %zu is %d after zero", i, back[i]);
            break;
        }
    ops->mem_free(dev, a);
    ops->mem_free(dev, b);
    free(host);
    free(back);
}

static void check_copy_2d(cases *c, fm_device *dev, size_t width, size_t to, size_t from,
                          int64_t rows) {
    size_t to_n = to * (size_t)rows, from_n = from * (size_t)rows;
    unsigned char *dst = malloc(to_n + 1), *src = malloc(from_n + 1);
    if (!dst || !src) abort();
    fill(dst, to_n, 3);
    fill(src, from_n, 5);
    dev->ops->copy_2d(dev, dst, to, src, from, width, rows);
    for (size_t i = 0; i < to_n; i++) {
        size_t r = i / to, col = i % to;
        unsigned char before = (unsigned char)(fm_mix64(3 + i) >> 56);
        unsigned char want = col < width ? src[r * from + col] : before;
        if (dst[i] != want) case_fail(c, "row %zu, byte %zu: %d, not %d", r, col, dst[i], want);
    }
    free(dst);
    free(src);
}

static void check_scratch(cases *c, fm_device *dev) {
    void *p, *q, *other;
    if (fm_cpu_scratch(dev, FM_CPU_SCRATCH_KERNEL, 100, &p) != FM_OK ||
        fm_cpu_scratch(dev, FM_CPU_SCRATCH_PRODUCT, 100, &other) != FM_OK ||
        fm_cpu_scratch(dev, FM_CPU_SCRATCH_KERNEL, 50, &q) != FM_OK)
        abort();
    if (p != q) case_fail(c, "a smaller request moved the block");
    if (p == other) case_fail(c, "two users share a block");
    if (fm_cpu_scratch(dev, FM_CPU_SCRATCH_KERNEL, 3 << 20, &p) != FM_OK) abort();
    memset(p, 1, 3 << 20);
    if ((uintptr_t)p % 64 != 0) case_fail(c, "block at %p", p);
}

int main(int argc, char **argv) {
    cases c = cases_new(argc, argv);
    fm_error error = {0};
    fm_device *dev;
    if (fm_cpu_open(&error, &dev) != FM_OK) {
        printf("fm_cpu_open: %s\n", error.message);
        return 1;
    }
    if (case_begin(&c, "open")) {
        const char *isas[FM_CPU_MAX_ISAS];
        int n = fm_cpu_isas(isas);
        if (n < 1 || !strstr(dev->model, isas[n - 1]))
            case_fail(&c, "'%s' is not the best of %d instruction sets", dev->model, n);
        if (strcmp(dev->name, "cpu") != 0 || !dev->on_host || dev->index != 0)
            case_fail(&c, "name '%s', on_host %d, index %d", dev->name, dev->on_host, dev->index);
        case_end(&c);
    }
    if (case_begin(&c, "open an unknown instruction set")) {
        fm_error e = {0};
        fm_device *none = dev;
        if (fm_cpu_open_isa("v9", &e, &none) != FM_ERR_VALUE || none || !strstr(e.message, "v9"))
            case_fail(&c, "device %p, message '%s'", (void *)none, e.message);
        fm_cpu_close(NULL);
        case_end(&c);
    }
    for (int i = 0; i < N_SIZES; i++) {
        if (!case_begin(&c, "copies of %zu bytes", sizes[i])) continue;
        check_copies(&c, dev, sizes[i]);
        case_end(&c);
    }
    static const struct {
        size_t width, to, from;
        int64_t rows;
    } shapes[] = {
        {0, 4, 4, 3}, {5, 8, 7, 0}, {5, 8, 7, 9}, {8, 8, 24, 1}, {4000, 4096, 12000, 300}};
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        if (!case_begin(&c, "copy_2d of %d rows of %zu bytes", (int)shapes[i].rows,
                        shapes[i].width))
            continue;
        check_copy_2d(&c, dev, shapes[i].width, shapes[i].to, shapes[i].from, shapes[i].rows);
        case_end(&c);
    }
    if (case_begin(&c, "scratch")) {
        check_scratch(&c, dev);
        case_end(&c);
    }
    if (case_begin(&c, "no memory")) {
        void *p = &c;
        fm_status s = dev->ops->mem_alloc(dev, SIZE_MAX / 4, &p);
        if (s != FM_ERR_OOM || p || !strstr(error.message, "4611686018427387903"))
            case_fail(&c, "status %d, block %p, message '%s'", (int)s, p, error.message);
        case_end(&c);
    }
    fm_cpu_close(dev);
    return cases_end(&c);
}
