#include "tests/tensor/runner.h"

#include "tensor/cpu/cpu.h"

#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* What is written when a case ends the process: made before each case, for a signal handler may not
 * print. */
static char last_words[512];

static void on_signal(int sig) {
    static const char hung[] = "FAILED: ran into the time limit: ", crashed[] = "FAILED: crashed: ";
    const char *what = sig == SIGALRM ? hung : crashed;
    bool written = write(STDOUT_FILENO, what, strlen(what)) > 0;
    written = write(STDOUT_FILENO, last_words, strlen(last_words)) > 0 && written;
    _exit(written ? 1 : 3);
}

static void usage(const char *program, const char *what) {
    fprintf(stderr, "%s: %s\n", program, what);
    exit(2);
}

void test_init(test *t, int argc, char **argv) {
    *t = (test){.program = argv[0], .device = "cpu", .limit = 50};
    for (int i = 1; i < argc; i++) {
        const char *name = argv[i];
        if (strcmp(name, "--list") == 0) {
            t->list = true;
            continue;
        }
        if (i + 1 == argc) usage(argv[0], "an argument has no value, or is not known");
        const char *value = argv[++i];
        if (strcmp(name, "--only") == 0) {
            t->only = value;
        } else if (strcmp(name, "--device") == 0) {
            t->device = value;
        } else if (strcmp(name, "--isa") == 0) {
            t->isa = value;
        } else if (strcmp(name, "--seed") == 0) {
            t->seed = strtoull(value, NULL, 10), t->has_seed = true;
        } else if (strcmp(name, "--limit") == 0) {
            t->limit = (unsigned)strtoul(value, NULL, 10);
        } else {
            usage(argv[0], "unknown argument");
        }
    }
    const char *seed = t->only ? strstr(t->only, "seed=") : NULL;
    if (seed) t->seed = strtoull(seed + 5, NULL, 10), t->has_seed = true;
    struct sigaction action = {.sa_handler = on_signal};
    sigaction(SIGALRM, &action, NULL);
    sigaction(SIGABRT, &action, NULL);
#if !defined(__SANITIZE_ADDRESS__) && !defined(__clang__) /* whose own report says more */
    sigaction(SIGSEGV, &action, NULL);
    sigaction(SIGFPE, &action, NULL); /* an integer divided by 0 */
#endif
}

bool test_begin(test *t, const char *label) {
    if (t->only && strncmp(label, t->only, strlen(t->only)) != 0) return false;
    t->listed++;
    if (t->list) {
        puts(label);
        return false;
    }
    snprintf(t->label, sizeof t->label, "%s", label);
    t->case_failed = t->case_skipped = t->case_lacks = false;
    snprintf(last_words, sizeof last_words,
             "%s --only '%s' (limit %u s)\n%d passed, %d failed, %d skipped\n", t->program, label,
             t->limit, t->passed, t->failed + 1, t->skipped);
    fflush(stdout);
    alarm(t->limit);
    return true;
}

void test_end(test *t) {
    alarm(0);
    if (t->case_failed) {
        t->failed++;
        printf("FAILED: %s%s%s --only '%s'\n", t->program, t->isa ? " --isa " : "",
               t->isa ? t->isa : "", t->label);
    } else if (t->case_skipped) {
        t->skipped++;
    } else if (!t->case_lacks) {
        t->passed++;
    }
}

void test_run(test *t, const test_case *cases, int n) {
    for (int i = 0; i < n; i++) {
        if (!test_begin(t, cases[i].label)) continue;
        cases[i].run(t);
        if (t->ctx) fm_error_clear(&t->ctx->error);
        test_end(t);
    }
}

void test_fail(test *t, const char *fmt, ...) {
    t->case_failed = true;
    va_list args;
    va_start(args, fmt);
    printf("%s: ", t->label);
    vprintf(fmt, args);
    putchar('\n');
    va_end(args);
}

void test_skip(test *t, const char *fmt, ...) {
    t->case_skipped = true;
    va_list args;
    va_start(args, fmt);
    fputs("SKIP: ", stdout);
    vprintf(fmt, args);
    printf(" (%s)\n", t->label);
    va_end(args);
}

void test_lack(test *t, const char *what, const char *why) {
    int i = 0;
    while (i < t->n_lacking && strcmp(t->lacking[i].what, what) != 0) i++;
    if (i == TEST_MAX_LACKING) {
        test_skip(t, "%s", why);
        return;
    }
    t->case_lacks = true;
    test_lacking *l = &t->lacking[i];
    if (i == t->n_lacking) {
        t->n_lacking++;
        l->what = what;
        snprintf(l->why, sizeof l->why, "%s", why);
    }
    l->cases++;
}

int test_finish(test *t) {
    for (int i = 0; i < t->n_lacking; i++) {
        const test_lacking *l = &t->lacking[i];
        printf("SKIP: %s (%s: %d case%s)\n", l->why, l->what, l->cases, l->cases == 1 ? "" : "s");
        t->skipped++;
    }
    if (t->only && t->listed == 0) {
        printf("no case has the label '%s'\n", t->only);
        t->failed++;
    }
    if (!t->list) printf("%d passed, %d failed, %d skipped\n", t->passed, t->failed, t->skipped);
    return t->failed ? 1 : 0;
}

fm_status test_open(const test *t, const char *isa, fm_error *err, fm_ctx **out) {
    FM_TRY(fm_ctx_new(t->device, err, NULL, 0, out));
    if (!isa) return FM_OK;
    /* The same context over another device. */
    fm_ctx *ctx = *out;
    fm_allocator_free(ctx->alloc);
    ctx->close_device(ctx->dev);
    ctx->alloc = NULL, ctx->dev = NULL;
    fm_status status = fm_cpu_open_isa(isa, &ctx->error, &ctx->dev);
    if (status == FM_OK) status = fm_allocator_new(ctx->dev, &ctx->error, &ctx->alloc);
    if (status != FM_OK) {
        fm_fail(err, status, "%s", ctx->error.message);
        fm_ctx_free(ctx);
        *out = NULL;
    }
    return status;
}

static void on_device(test *t, const char *isa, void (*body)(test *t)) {
    const char *wanted = t->isa;
    fm_error err = {0};
    t->isa = isa;
    if (test_open(t, isa, &err, &t->ctx) != FM_OK) {
        snprintf(t->label, sizeof t->label, "device %s", t->device);
        test_skip(t, "%s", err.message);
        t->skipped++;
    } else {
        printf("device: %s\n", t->ctx->dev->model);
        body(t);
        if (t->ctx->live_tensors || t->ctx->live_nodes ||
            fm_alloc_get_stats(t->ctx->alloc).in_use) {
            snprintf(t->label, sizeof t->label, "the end of %s", t->ctx->dev->model);
            test_fail(t, "%lld tensors, %lld nodes and %zu bytes are left",
                      (long long)t->ctx->live_tensors, (long long)t->ctx->live_nodes,
                      fm_alloc_get_stats(t->ctx->alloc).in_use);
            t->failed++;
        }
        fm_ctx_free(t->ctx);
    }
    t->ctx = NULL;
    t->isa = wanted;
}

void test_each_device(test *t, void (*body)(test *t)) {
    if (strcmp(t->device, "cpu") != 0 || t->isa) {
        on_device(t, t->isa, body);
        return;
    }
    const char *isas[FM_CPU_MAX_ISAS];
    int n = fm_cpu_isas(isas);
    for (int i = 0; i < (t->list ? 1 : n); i++) on_device(t, isas[i], body);
}

bool test_error(test *t, fm_status got, fm_status want, const char *call, const char **texts) {
    const char *message = t->ctx->error.message;
    bool ok = got == want;
    for (int i = 0; texts[i]; i++) ok = ok && strstr(message, texts[i]);
    if (!ok) {
        test_fail(t, "%s: got %s: '%s'", call, fm_status_name(got), message);
        test_fail(t, "  wanted %s with", fm_status_name(want));
        for (int i = 0; texts[i]; i++) test_fail(t, "    '%s'", texts[i]);
    }
    fm_error_clear(&t->ctx->error);
    return ok;
}

static void run_cases(test *t) { test_run(t, t->cases, t->n_cases); }

int test_program(int argc, char **argv, const test_case *cases, int n) {
    test t;
    test_init(&t, argc, argv);
    t.cases = cases;
    t.n_cases = n;
    test_each_device(&t, run_cases);
    return test_finish(&t);
}
