/* The CUDA backend's slots, emulated, beside the CPU's: the calls of cpu_kernels_test, products in
 * all their forms, and arrays that are not aligned to 16 bytes. Memory is the host's in both. */
#include "tensor/cpu/cpu.h"
#include "tests/tensor/cpu/cases.h"
#include "tests/tensor/cpu/kernel_calls.h"
#include "tests/tensor/cuda/emulated.h"

#include <math.h>
#include <stdlib.h>

static const struct size {
    int64_t T, d;
} sizes[] = {{0, 7},     {1, 1},     {5, 7},    {16, 64},  {67, 129},
             {300, 257}, {1001, 33}, {2, 1032}, {2, 40000}};
enum { N_SIZES = sizeof sizes / sizeof *sizes };

static const char *dt_name(fm_dtype dt) { return dt == FM_BF16 ? "bf16" : "fp32"; }

/* Sums differ by their order; a bf16 result may fall on the neighbour. */
static bool close_by(double tolerance, double a, double b) {
    if (isnan(a) || isnan(b)) return isnan(a) && isnan(b);
    return fabs(a - b) <= tolerance * fmax(1.0, fabs(b));
}
static double tolerance_of(fm_dtype dt) { return dt == FM_BF16 ? 1.0 / 64 : 1e-4; }
static bool close_to(double a, double b, fm_dtype dt) { return close_by(tolerance_of(dt), a, b); }

/* One rounding and no sum: both must give the same bits. */
static bool is_exact(const kernel_call *k, bool accumulate) {
    static const char *const names[] = {"cast",      "fill",      "add",    "add_rows",
                                        "act(none)", "act(relu)", "dropout"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (strcmp(k->name, names[i]) == 0) return !accumulate;
    return false;
}

static double *outputs(cases *c, fm_device *dev, const kernel_call *k, call shape, int64_t *n,
                       bool *missing) {
    shape.dev = dev;
    fm_error_clear(dev->error);
    fm_status s = k->run(&shape);
    double *y = NULL;
    *missing = s == FM_ERR_UNSUPPORTED;
    if (s == FM_OK)
        y = call_outputs(&shape, n);
    else if (!*missing)
        case_fail(c, "%s: status %d: %s", dev->name, (int)s, dev->error->message);
    call_free(&shape);
    return y;
}

/* How many cases the CUDA backend lacks the slot for: 1, or 0. They are reported by the slot. */
static int compare_call(cases *c, fm_device *cpu, fm_device *gpu, const kernel_call *k,
                        call shape) {
    if (!case_begin(c, "%s(%s,T=%lld,d=%lld,accumulate=%d,poison=%d)", k->name, dt_name(shape.dt),
                    (long long)shape.T, (long long)shape.d, shape.accumulate, shape.poison))
        return 0;
    int64_t n = 0, m = 0;
    bool missing;
    double *got = outputs(c, gpu, k, shape, &n, &missing);
    if (missing) return 1;
    double *want = outputs(c, cpu, k, shape, &m, &missing);
    bool exact = is_exact(k, shape.accumulate);
    if (!got || !want || n != m)
        case_fail(c, "no outputs");
    else
        for (int64_t i = 0; i < n; i++)
            if (exact && !isnan(want[i]) ? got[i] != want[i]
                                         : !close_to(got[i], want[i], shape.dt)) {
                case_fail(c, "output %lld is %.9g, the CPU's %.9g", (long long)i, got[i], want[i]);
                break;
            }
    free(got);
    free(want);
    case_end(c);
    return 0;
}

static void compare_calls(cases *c, fm_device *cpu, fm_device *gpu) {
    for (int i = 0; i < kernel_calls_count; i++) {
        int missing = 0;
        for (int s = 0; s < N_SIZES; s++)
            for (int dt = 0; dt <= kernel_calls[i].has_dt; dt++)
                for (int accumulate = 0; accumulate < 2; accumulate++) {
                    call shape = {.dt = dt ? FM_BF16 : FM_F32, .T = sizes[s].T, .d = sizes[s].d};
                    shape.accumulate = accumulate;
                    shape.poison = -1;
                    missing += compare_call(c, cpu, gpu, &kernel_calls[i], shape);
                    /* A NaN in each input must come out where the CPU's does. */
                    for (int in = 0; s == 2 && kernel_calls[i].nan_reach[in]; in++) {
                        shape.poison = in;
                        missing += compare_call(c, cpu, gpu, &kernel_calls[i], shape);
                    }
                }
        if (missing == 0) continue;
        char reason[64];
        snprintf(reason, sizeof reason, "the CUDA backend lacks it for %d cases", missing);
        snprintf(c->label, sizeof c->label, "%s", kernel_calls[i].name);
        case_skip(c, reason);
    }
}

/* ---- products: the same arrays on both, outputs filled alike before */

static float number(uint64_t seed, int64_t i) {
    return 2.0f * fm_rng_uniform((uint32_t)(fm_mix64(seed + (uint64_t)i) >> 32)) - 1.0f;
}

/* n numbers after `shift` elements that are left alone; exactly as long, for the sanitizer. */
static void *filled(fm_dtype dt, int64_t n, int64_t shift, uint64_t seed) {
    size_t size = dt == FM_BF16 ? 2 : 4;
    void *p = NULL;
    if (posix_memalign(&p, 64, (size_t)(n + shift) * size + 1) != 0) abort();
    for (int64_t i = 0; i < n + shift; i++)
        if (dt == FM_BF16)
            ((fm_bf16 *)p)[i] = fm_f32_to_bf16(number(seed, i));
        else
            ((float *)p)[i] = number(seed, i);
    return p;
}

static void compare_within(cases *c, double tolerance, const char *name, fm_dtype dt,
                           const void *got, const void *want, int64_t n) {
    for (int64_t i = 0; i < n; i++) {
        double g, w;
        if (dt == FM_BF16) {
            g = (double)fm_bf16_to_f32(((const fm_bf16 *)got)[i]);
            w = (double)fm_bf16_to_f32(((const fm_bf16 *)want)[i]);
        } else {
            g = (double)((const float *)got)[i];
            w = (double)((const float *)want)[i];
        }
        if (!close_by(tolerance, g, w)) {
            case_fail(c, "%s[%lld] is %.9g, the CPU's %.9g", name, (long long)i, g, w);
            return;
        }
    }
}

static void compare_arrays(cases *c, const char *name, fm_dtype dt, const void *got,
                           const void *want, int64_t n) {
    compare_within(c, tolerance_of(dt), name, dt, got, want, n);
}

static void must(cases *c, fm_device *dev, fm_status s) {
    if (s != FM_OK) case_fail(c, "%s: status %d: %s", dev->name, (int)s, dev->error->message);
}

static void compare_gemm(cases *c, fm_device *cpu, fm_device *gpu, fm_gemm_args g, int64_t pad) {
    if (!case_begin(c, "gemm(%s->%s,%c%c,m=%lld,n=%lld,k=%lld,batch=%lld,pad=%lld,accumulate=%d)",
                    dt_name(g.dt), dt_name(g.c_dt), g.trans_a ? 'T' : 'N', g.trans_b ? 'T' : 'N',
                    (long long)g.m, (long long)g.n, (long long)g.k, (long long)g.batch,
                    (long long)pad, g.accumulate))
        return;
    int64_t rows_a = g.trans_a ? g.k : g.m, rows_b = g.trans_b ? g.n : g.k;
    g.lda = (g.trans_a ? g.m : g.k) + pad, g.ldb = (g.trans_b ? g.k : g.n) + pad, g.ldc = g.n + pad;
    g.batch_a = rows_a * g.lda, g.batch_b = rows_b * g.ldb, g.batch_c = g.m * g.ldc;
    void *a = filled(g.dt, g.batch * g.batch_a, 0, 1), *b = filled(g.dt, g.batch * g.batch_b, 0, 2);
    void *got = filled(g.c_dt, g.batch * g.batch_c, 0, 3);
    void *want = filled(g.c_dt, g.batch * g.batch_c, 0, 3);
    g.a = a, g.b = b;
    g.c = want;
    must(c, cpu, cpu->ops->gemm(cpu, &g));
    g.c = got;
    must(c, gpu, gpu->ops->gemm(gpu, &g));
    compare_arrays(c, "c", g.c_dt, got, want, g.batch * g.batch_c);
    free(a), free(b), free(got), free(want);
    case_end(c);
}

static void compare_gemms(cases *c, fm_device *cpu, fm_device *gpu) {
    static const int64_t shapes[][4] = {
        {1, 1, 1, 1}, {5, 7, 3, 1}, {16, 32, 8, 1}, {33, 17, 65, 1}, {4, 6, 9, 3},
        {0, 5, 4, 1}, {5, 0, 4, 1}, {5, 4, 0, 2},   {8, 8, 8, 0},    {64, 48, 40, 2}};
    for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++)
        for (int flags = 0; flags < 32; flags++) {
            fm_gemm_args g = {.m = shapes[s][0], .n = shapes[s][1], .k = shapes[s][2]};
            g.batch = shapes[s][3];
            g.trans_a = flags & 1, g.trans_b = flags & 2, g.accumulate = flags & 4;
            g.dt = flags & 8 ? FM_BF16 : FM_F32;
            g.c_dt = flags & 16 ? FM_F32 : g.dt;
            if (flags & 16 && g.dt == FM_F32) continue;
            compare_gemm(c, cpu, gpu, g, flags & 1 ? 3 : 0);
        }
}

static void compare_linear(cases *c, fm_device *cpu, fm_device *gpu, fm_linear_args l, bool bias,
                           bool pre, bool accumulate) {
    if (!case_begin(c, "linear(%s,T=%lld,in=%lld,out=%lld,%s,bias=%d,pre=%d,accumulate=%d)",
                    dt_name(l.dt), (long long)l.T, (long long)l.in, (long long)l.out,
                    fm_act_name(l.act), bias, pre, accumulate))
        return;
    l.E = 1;
    void *x = filled(l.dt, l.T * l.in, 0, 1), *w = filled(l.dt, l.out * l.in, 0, 2);
    void *b = filled(l.dt, l.out, 0, 3), *dy = filled(l.dt, l.T * l.out, 0, 4);
    void *y[2], *z[2], *dx[2], *dw[2], *db[2];
    fm_device *const dev[2] = {cpu, gpu};
    l.x = x, l.w = w, l.b = bias ? b : NULL;
    for (int i = 0; i < 2; i++) {
        y[i] = filled(l.dt, l.T * l.out, 0, 5), z[i] = filled(l.dt, l.T * l.out, 0, 6);
        dx[i] = filled(l.dt, l.T * l.in, 0, 7), dw[i] = filled(FM_F32, l.out * l.in, 0, 8);
        db[i] = filled(FM_F32, l.out, 0, 9);
        l.y = y[i], l.pre = pre ? z[i] : NULL;
        must(c, dev[i], dev[i]->ops->linear_forward(dev[i], &l));
        must(c, dev[i], dev[i]->ops->linear_backward_input(dev[i], &l, dx[i], dy, accumulate));
        must(c, dev[i],
             dev[i]->ops->linear_backward_weight(dev[i], &l, dw[i], accumulate, bias ? db[i] : NULL,
                                                 accumulate, dy));
    }
    /* Without an epilogue, bf16 is rounded before the bias and before the activation, where values
     * can be larger than the result, and relu2 doubles what is off: twice as much is allowed. */
    compare_within(c, 2 * tolerance_of(l.dt), "y", l.dt, y[1], y[0], l.T * l.out);
    compare_arrays(c, "pre", l.dt, z[1], z[0], l.T * l.out);
    compare_arrays(c, "dx", l.dt, dx[1], dx[0], l.T * l.in);
    compare_arrays(c, "dw", FM_F32, dw[1], dw[0], l.out * l.in);
    compare_arrays(c, "db", FM_F32, db[1], db[0], l.out);
    /* Recomputation drops or keeps `pre`: y's bits must not depend on it. */
    void *again = filled(l.dt, l.T * l.out, 0, 10), *other = filled(l.dt, l.T * l.out, 0, 11);
    l.y = again, l.pre = pre ? NULL : other;
    must(c, gpu, gpu->ops->linear_forward(gpu, &l));
    if (memcmp(again, y[1], (size_t)(l.T * l.out) * (l.dt == FM_BF16 ? 2 : 4)) != 0)
        case_fail(c, "y has other bits with pre=%d", !pre);
    for (int i = 0; i < 2; i++) free(y[i]), free(z[i]), free(dx[i]), free(dw[i]), free(db[i]);
    free(x), free(w), free(b), free(dy), free(again), free(other);
    case_end(c);
}

static void compare_linears(cases *c, fm_device *cpu, fm_device *gpu) {
    static const int64_t shapes[][3] = {{1, 1, 1},    {5, 7, 3},   {16, 32, 8}, {33, 17, 65},
                                        {64, 48, 40}, {0, 16, 24}, {300, 9, 12}};
    for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++)
        for (int act = FM_ACT_NONE; act <= FM_ACT_SILU; act++)
            for (int flags = 0; flags < 16; flags++) {
                fm_linear_args l = {.dt = flags & 8 ? FM_BF16 : FM_F32, .act = (fm_act)act};
                l.T = shapes[s][0], l.in = shapes[s][1], l.out = shapes[s][2];
                compare_linear(c, cpu, gpu, l, flags & 1, flags & 2, flags & 4);
            }
}

/* ---- arrays of which some start behind `shift` elements, so that 16-byte accesses are not allowed;
 * what lies before must stay */

static fm_status shifted_calls(fm_device *dev, fm_dtype dt, char *const p[4], int64_t rows,
                               int64_t cols, float *const f[4]) {
    const fm_ops *o = dev->ops;
    int64_t n = rows * cols;
    fm_rng_key key = {.key = 9, .step = 1, .row_offset = 1, .row_block = 3, .row_stride = 5};
    fm_adamw_args adamw = {.n = n, .p = f[0], .m = f[1], .v = f[2], .g = f[3]};
    adamw.model = p[0], adamw.model_dt = dt, adamw.lr = 0.01f, adamw.beta1 = 0.9f;
    adamw.beta2 = 0.99f, adamw.eps = 1e-8f, adamw.bias1 = 0.1f, adamw.bias2 = 0.01f;
    adamw.g_scale = 1;
    for (int64_t i = 0; i < n; i++) f[2][i] = fabsf(f[2][i]);
    FM_TRY(o->add(dev, dt, p[0], p[1], p[2], n));
    FM_TRY(o->mul(dev, dt, p[0], p[1], p[2], n, true));
    FM_TRY(o->scale(dev, dt, p[1], FM_F32, f[0], 0.5f, n, true));
    FM_TRY(o->cast(dev, dt, p[2], FM_F32, f[1], n));
    FM_TRY(o->add_rows(dev, dt, p[3], p[0], p[1], rows, cols, rows > 2 ? 2 : 1));
    FM_TRY(o->act_forward(dev, dt, FM_ACT_SILU, p[2], p[3], rows, cols));
    FM_TRY(o->act_backward(dev, dt, FM_ACT_GELU, p[1], p[2], p[3], rows, cols, true));
    if (cols % 2 == 0) FM_TRY(o->act_forward(dev, dt, FM_ACT_SWIGLU, p[2], p[3], rows, cols / 2));
    FM_TRY(o->dropout(dev, dt, p[3], p[1], rows, cols, 0.4f, &key, true));
    FM_TRY(o->adamw(dev, &adamw));
    FM_TRY(o->copy_2d(dev, p[1], (size_t)cols * (dt == FM_BF16 ? 2 : 4), p[0],
                      (size_t)cols * (dt == FM_BF16 ? 2 : 4), (size_t)(cols / 2 + 1), rows));
    return o->fill(dev, dt, p[2], 0.25f, n / 2);
}

static void compare_shifted(cases *c, fm_device *cpu, fm_device *gpu, fm_dtype dt, int64_t rows,
                            int64_t cols, int64_t shift) {
    if (!case_begin(c, "shifted(%s,rows=%lld,cols=%lld,shift=%lld)", dt_name(dt), (long long)rows,
                    (long long)cols, (long long)shift))
        return;
    void *p[2][4], *f[2][4];
    fm_device *const dev[2] = {cpu, gpu};
    for (int i = 0; i < 2; i++) {
        char *at[4];
        float *at_f[4];
        for (int j = 0; j < 4; j++) {
            p[i][j] = filled(dt, rows * cols, shift, 20 + (uint64_t)j);
            f[i][j] = filled(FM_F32, rows * cols, shift, 30 + (uint64_t)j);
            at[j] = (char *)p[i][j] + shift * (dt == FM_BF16 ? 2 : 4);
            at_f[j] = (float *)f[i][j] + shift;
        }
        must(c, dev[i], shifted_calls(dev[i], dt, at, rows, cols, at_f));
    }
    for (int j = 0; j < 4; j++) {
        compare_arrays(c, "array", dt, p[1][j], p[0][j], rows * cols + shift);
        compare_arrays(c, "fp32 array", FM_F32, f[1][j], f[0][j], rows * cols + shift);
        free(p[0][j]), free(p[1][j]), free(f[0][j]), free(f[1][j]);
    }
    case_end(c);
}

static void compare_all_shifted(cases *c, fm_device *cpu, fm_device *gpu) {
    static const int64_t cols[] = {1, 2, 3, 5, 8, 16, 31, 32, 40};
    for (int dt = 0; dt < 2; dt++)
        for (int64_t shift = 0; shift < 5; shift++)
            for (size_t i = 0; i < sizeof cols / sizeof *cols; i++)
                compare_shifted(c, cpu, gpu, dt ? FM_BF16 : FM_F32, 37, cols[i], shift);
}

int main(int argc, char **argv) {
    cases c = cases_new(argc, argv);
    fm_error cpu_error = {0}, gpu_error = {0};
    fm_device *cpu, *gpu;
    if (fm_cpu_open(&cpu_error, &cpu) != FM_OK) return printf("%s\n", cpu_error.message), 1;
    if (emulated_open(&gpu_error, &gpu) != FM_OK) return printf("%s\n", gpu_error.message), 1;
    compare_calls(&c, cpu, gpu);
    compare_gemms(&c, cpu, gpu);
    compare_linears(&c, cpu, gpu);
    compare_all_shifted(&c, cpu, gpu);
    emulated_close(gpu);
    fm_cpu_close(cpu);
    return cases_end(&c);
}
