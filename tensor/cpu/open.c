/* Opening and closing the CPU device; which kernels it gets. */
#include "tensor/cpu/cpu.h"
#include "tensor/cpu/device.h"
#include "tensor/cpu/matmul.h"

#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct isa_variant {
    const char *name;
    const char *text; /* for the device's description */
    const fm_ops *ops;
    bool (*runs_here)(void);
} isa_variant;

#if defined(__x86_64__)

extern const fm_ops fm_cpu_ops_v2, fm_cpu_ops_v3, fm_cpu_ops_v4;

static bool runs_v2(void) {
    return __builtin_cpu_supports("sse4.2") && __builtin_cpu_supports("ssse3") &&
           __builtin_cpu_supports("popcnt");
}

static bool runs_v3(void) {
    return runs_v2() && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
           __builtin_cpu_supports("bmi") && __builtin_cpu_supports("bmi2");
}

static bool runs_v4(void) {
    return runs_v3() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512vl");
}

/* Worst first: the last one that runs is taken. */
static const isa_variant variants[] = {
    {"v2", "x86-64-v2", &fm_cpu_ops_v2, runs_v2},
    {"v3", "x86-64-v3", &fm_cpu_ops_v3, runs_v3},
    {"v4", "x86-64-v4", &fm_cpu_ops_v4, runs_v4},
};

#else

extern const fm_ops fm_cpu_ops_generic;

static bool runs_generic(void) { return true; }

static const isa_variant variants[] = {
    {"generic", "generic", &fm_cpu_ops_generic, runs_generic},
};

#endif

enum { VARIANTS = sizeof variants / sizeof *variants };
_Static_assert((int)VARIANTS <= (int)FM_CPU_MAX_ISAS, "fm_cpu_isas lists them all");

/* "AMD EPYC 7763 64-Core Processor" as the kernel has it, "CPU" where it does not say. */
static void processor_name(char *name, size_t n) {
    snprintf(name, n, "CPU");
    FILE *f = fopen("/proc/cpuinfo", "re");
    if (!f) return;
    char line[256];
    while (fgets(line, sizeof line, f)) {
        char *value = strchr(line, ':');
        if (strncmp(line, "model name", 10) != 0 || !value) continue;
        value += 1 + strspn(value + 1, " \t");
        value[strcspn(value, "\n")] = 0;
        snprintf(name, n, "%s", value);
        break;
    }
    fclose(f);
}

static fm_status open_variant(const isa_variant *v, fm_error *err, fm_device **out) {
    fm_device *dev = calloc(1, sizeof *dev);
    fm_cpu *cpu = calloc(1, sizeof *cpu);
    if (!dev || !cpu) {
        free(cpu);
        free(dev);
        return fm_fail(err, FM_ERR_OOM, "cpu: no memory for the device (%zu bytes)",
                       sizeof *dev + sizeof *cpu);
    }
    snprintf(cpu->isa, sizeof cpu->isa, "%s", v->name);
    dev->ops = v->ops;
    dev->error = err;
    dev->impl = cpu;
    dev->on_host = true;
    snprintf(dev->name, sizeof dev->name, "cpu");
    char processor[80];
    processor_name(processor, sizeof processor);
    int threads = omp_get_max_threads();
    /* The one place that says when bf16 saves memory but no time. */
    snprintf(dev->model, sizeof dev->model, "%s (%s, %d thread%s, bf16 %s)", processor, v->text,
             threads, threads == 1 ? "" : "s",
             fm_matmul_serves(FM_BF16) ? "native" : "widened to fp32");
    *out = dev;
    return FM_OK;
}

int fm_cpu_isas(const char *names[FM_CPU_MAX_ISAS]) {
    int n = 0;
    for (int i = 0; i < VARIANTS; i++)
        if (variants[i].runs_here()) names[n++] = variants[i].name;
    return n;
}

fm_status fm_cpu_open_isa(const char *isa, fm_error *err, fm_device **out) {
    *out = NULL;
    for (int i = 0; i < VARIANTS; i++) {
        if (strcmp(isa, variants[i].name) != 0) continue;
        if (!variants[i].runs_here())
            return fm_fail(err, FM_ERR_UNSUPPORTED, "cpu: this processor cannot run %s",
                           variants[i].text);
        return open_variant(&variants[i], err, out);
    }
    return fm_fail(err, FM_ERR_VALUE, "cpu: instruction set '%s': this build has %s to %s", isa,
                   variants[0].name, variants[VARIANTS - 1].name);
}

fm_status fm_cpu_open(fm_error *err, fm_device **out) {
    *out = NULL;
    for (int i = VARIANTS - 1; i >= 0; i--)
        if (variants[i].runs_here()) return open_variant(&variants[i], err, out);
    return fm_fail(err, FM_ERR_UNSUPPORTED,
                   "cpu: this processor cannot run %s, the least of this build", variants[0].text);
}

void fm_cpu_close(fm_device *dev) {
    if (!dev) return;
    fm_cpu *cpu = dev->impl;
    if (cpu->free_products) cpu->free_products(cpu->products);
    for (int i = 0; i < FM_CPU_SCRATCH_USERS; i++) free(cpu->scratch[i].data);
    free(cpu);
    free(dev);
}
