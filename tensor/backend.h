/* The operation table: the one interface between the core and a device.
 *
 * A backend is a struct of function pointers over raw device memory. Shapes, dtypes
 * and arguments were checked by the caller (tensor/ops), sizes may be zero, and
 * pointers are valid and 64-byte aligned at row 0. All arrays are row-major and
 * contiguous unless a stride is named. Dimension letters:
 *
 *   T tokens (rows)   d, n, m columns     B sequences, S positions, T = B*S
 *   H heads, KV key/value heads, dh head width   V vocabulary
 *   E experts, k choices per token, N rows after permutation
 *
 * Rules for every slot
 *  - `dt` is the dtype of the arrays declared void *; arithmetic and sums are fp32 inside.
 *  - A bool `accumulate` adds to the destination instead of overwriting it.
 *  - Deterministic: the same bits for the same arguments, whatever the number of threads;
 *    no float atomics. Ties go to the lower index. NaN in, NaN out.
 *  - Asynchronous on the device's stream; `sync` waits. Errors go to dev->error.
 *  - Slots are append-only. NULL means "not there yet": FM_KERNEL then fails with
 *    FM_ERR_UNSUPPORTED and the slot's name, and tests skip with that reason.
 */
#ifndef FM_TENSOR_BACKEND_H
#define FM_TENSOR_BACKEND_H
#include "tensor/dtype.h"
#include "tensor/rng.h"
#include "tensor/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct fm_device fm_device;
typedef struct fm_ops fm_ops;

/* One opened device. A backend allocates it, with its own state in `impl`. */
struct fm_device {
    const fm_ops *ops;
    fm_error *error; /* the owning context's */
    void *impl;
    int index;       /* 0 for the CPU; the GPU's ordinal */
    bool on_host;    /* its memory can be read by the CPU */
    char name[32];   /* "cpu", "cuda:0" */
    char model[128]; /* "AMD EPYC ... (x86-64-v4, 2 threads, bf16 native)", "NVIDIA H200" */
};

/* name, text. `NONE` first: zero-initialised arguments mean it. gelu is the tanh form. */
#define FM_ACT_MAP(X)                                                                              \
    X(FM_ACT_NONE, "none")                                                                         \
    X(FM_ACT_GELU, "gelu")                                                                         \
    X(FM_ACT_GELU_ERF, "gelu_erf")                                                                 \
    X(FM_ACT_RELU, "relu")                                                                         \
    X(FM_ACT_RELU2, "relu2")                                                                       \
    X(FM_ACT_SILU, "silu")                                                                         \
    X(FM_ACT_SWIGLU, "swiglu")                                                                     \
    X(FM_ACT_GEGLU, "geglu")
typedef enum fm_act {
#define FM_ACT_ENUM(name, text) name,
    FM_ACT_MAP(FM_ACT_ENUM)
#undef FM_ACT_ENUM
        FM_ACT_COUNT
} fm_act;
const char *fm_act_name(fm_act a);
/* swiglu and geglu: [T, 2h] -> [T, h], act(first half) * second half. */
static inline bool fm_act_is_glu(fm_act a) { return a == FM_ACT_SWIGLU || a == FM_ACT_GEGLU; }

/* C[m,n] (+)= op(A) op(B), `batch` of them, strides in elements. c_dt is fp32 or dt. */
typedef struct fm_gemm_args {
    fm_dtype dt, c_dt;
    bool trans_a, trans_b, accumulate;
    int64_t m, n, k, batch;
    const void *a, *b;
    void *c;
    int64_t lda, ldb, ldc;
    int64_t batch_a, batch_b, batch_c;
} fm_gemm_args;

/* One dense layer, or the experts' layers over consecutive segments of rows.
 *   y[t, o] = act( Σ_i x[t, i] w[e, o, i] + b[e, o] )   for offsets[e] <= t < offsets[e+1]
 * w [E, out, in], b [E, out] or NULL. offsets is int32 [E+1] in device memory; NULL with
 * E = 1 means all T rows. pre, where not NULL, receives the value before `act` (not a glu). */
typedef struct fm_linear_args {
    fm_dtype dt;
    int64_t T, in, out, E;
    const int32_t *offsets;
    const void *x, *w, *b;
    fm_act act;
    void *y, *pre;
} fm_linear_args;

/* Causal self-attention over packed or separate projections; online softmax, tiles, never [S, S].
 *   o[b,i,h,:] = Σ_j softmax_j(scale q[b,i,h,:]·k[b,j,g,:]) v[b,j,g,:],  g = h / (H/KV),
 *   over j <= i + (Skv - Sq) where causal (queries are the last Sq positions), else all j.
 * Element (b, i, h, c) of q is at q[b*q_batch + i*q_row + h*dh + c]; likewise k, v (row strides
 * k_row, v_row) and o, contiguous rows of H*dh. lse [B, H, Sq] fp32 is saved for the backward. */
typedef struct fm_attention_args {
    fm_dtype dt;
    int64_t B, Sq, Skv, H, KV, dh;
    const void *q, *k, *v;
    int64_t q_batch, k_batch, v_batch, q_row, k_row, v_row;
    float scale;
    bool causal;
    void *o;    /* [B, Sq, H*dh] */
    float *lse; /* NULL: not wanted */
} fm_attention_args;

/* dq, dk, dv have the layout (strides) of q, k, v and are overwritten. */
typedef struct fm_attention_grad_args {
    fm_attention_args fwd; /* o and lse as the forward left them */
    const void *d_o;       /* [B, Sq, H*dh] */
    void *dq, *dk, *dv;
} fm_attention_grad_args;

/* AdamW with decoupled decay, PyTorch's formula; g is divided into nothing before: g' = g_scale*g
 *   m = b1 m + (1-b1) g';  v = b2 v + (1-b2) g'^2
 *   p = p (1 - lr wd) - lr (m / bias1) / (sqrt(v / bias2) + eps)
 * p is the fp32 master; model, where not NULL, receives p rounded to model_dt. */
typedef struct fm_adamw_args {
    int64_t n;
    float *p, *m, *v;
    const float *g;
    void *model;
    fm_dtype model_dt;
    float lr, beta1, beta2, eps, weight_decay, bias1, bias2, g_scale;
} fm_adamw_args;

/* SGD, PyTorch's formula: g' = g_scale*g + wd*p; mom = mu mom + g' (mu != 0); p -= lr (mom or g',
 * or g' + mu mom with nesterov). mom may be NULL when mu == 0. */
typedef struct fm_sgd_args {
    int64_t n;
    float *p, *mom;
    const float *g;
    void *model;
    fm_dtype model_dt;
    float lr, momentum, weight_decay, g_scale;
    bool nesterov, first; /* first: mom starts as g' */
} fm_sgd_args;

struct fm_ops {
    /* ---- memory. Copies between host and device block; device to device does not. */
    fm_status (*mem_alloc)(fm_device *dev, size_t bytes, void **out); /* 64-byte aligned */
    void (*mem_free)(fm_device *dev, void *p);
    fm_status (*copy_in)(fm_device *dev, void *dst, const void *host, size_t bytes);
    fm_status (*copy_out)(fm_device *dev, void *host, const void *src, size_t bytes);
    fm_status (*copy)(fm_device *dev, void *dst, const void *src, size_t bytes);
    /* rows of `width` bytes, strides in bytes: cat, split, packing */
    fm_status (*copy_2d)(fm_device *dev, void *dst, size_t dst_stride, const void *src,
                         size_t src_stride, size_t width, int64_t rows);
    fm_status (*zero)(fm_device *dev, void *p, size_t bytes);
    fm_status (*sync)(fm_device *dev);

    /* ---- elementwise, n elements; y may be a or b (x), where dtypes are equal */
    fm_status (*cast)(fm_device *dev, fm_dtype to, void *y, fm_dtype from, const void *x,
                      int64_t n);
    fm_status (*fill)(fm_device *dev, fm_dtype dt, void *y, float value, int64_t n);
    fm_status (*add)(fm_device *dev, fm_dtype dt, void *y, const void *a, const void *b, int64_t n);
    fm_status (*mul)(fm_device *dev, fm_dtype dt, void *y, const void *a, const void *b, int64_t n,
                     bool accumulate);
    /* y = alpha*x, or y += alpha*x; dtypes may differ (y_dt, x_dt float) */
    fm_status (*scale)(fm_device *dev, fm_dtype y_dt, void *y, fm_dtype x_dt, const void *x,
                       float alpha, int64_t n, bool accumulate);
    /* y[r, c] = a[r, c] + b[r % period, c]: positions, biases */
    fm_status (*add_rows)(fm_device *dev, fm_dtype dt, void *y, const void *a, const void *b,
                          int64_t rows, int64_t cols, int64_t period);
    /* db[p, c] (+)= Σ_{r % period == p} dy[r, c]; db is fp32. Its adjoint. */
    fm_status (*sum_rows)(fm_device *dev, fm_dtype dt, float *db, const void *dy, int64_t rows,
                          int64_t cols, int64_t period, bool accumulate);
    /* y = act(x); glu forms: x [T, 2h], y [T, h], cols = h. Others: any rows*cols. */
    fm_status (*act_forward)(fm_device *dev, fm_dtype dt, fm_act act, void *y, const void *x,
                             int64_t rows, int64_t cols);
    fm_status (*act_backward)(fm_device *dev, fm_dtype dt, fm_act act, void *dx, const void *x,
                              const void *dy, int64_t rows, int64_t cols, bool accumulate);
    /* y = x * (kept ? 1/(1-p) : 0); an element is kept where fm_rng_uniform of its bits
     * (fm_rng_bits at its global index) is >= p. Backward: the same on dy. */
    fm_status (*dropout)(fm_device *dev, fm_dtype dt, void *y, const void *x, int64_t rows,
                         int64_t cols, float p, const fm_rng_key *key, bool accumulate);

    /* ---- products */
    fm_status (*gemm)(fm_device *dev, const fm_gemm_args *a);
    fm_status (*linear_forward)(fm_device *dev, const fm_linear_args *a);
    /* dx [T, in] (+)= dy w. Reads T, in, out, E, offsets, w of `a`. */
    fm_status (*linear_backward_input)(fm_device *dev, const fm_linear_args *a, void *dx,
                                       const void *dy, bool accumulate);
    /* dw [E, out, in] (+)= dyᵀ x, db [E, out] (+)= Σ dy; both fp32, either may be NULL. Experts
     * without rows get zeros when overwriting. Reads T, in, out, E, offsets, x of `a`. */
    fm_status (*linear_backward_weight)(fm_device *dev, const fm_linear_args *a, float *dw,
                                        bool accumulate_w, float *db, bool accumulate_b,
                                        const void *dy);

    /* ---- normalisation over the last dimension; w, b [d] of dtype dt; mean, rstd [T] fp32 */
    fm_status (*layer_norm_forward)(fm_device *dev, fm_dtype dt, void *y, float *mean, float *rstd,
                                    const void *x, const void *w, const void *b, int64_t T,
                                    int64_t d, float eps);
    /* dw, db fp32, NULL where not wanted (db also when the norm has no bias) */
    fm_status (*layer_norm_backward)(fm_device *dev, fm_dtype dt, void *dx, bool accumulate_x,
                                     float *dw, bool accumulate_w, float *db, bool accumulate_b,
                                     const void *dy, const void *x, const void *w,
                                     const float *mean, const float *rstd, int64_t T, int64_t d);
    /* y = x * rstd * w, rstd = 1/sqrt(mean(x²) + eps); backward: dw NULL where not wanted */
    fm_status (*rms_norm_forward)(fm_device *dev, fm_dtype dt, void *y, float *rstd, const void *x,
                                  const void *w, int64_t T, int64_t d, float eps);
    fm_status (*rms_norm_backward)(fm_device *dev, fm_dtype dt, void *dx, bool accumulate_x,
                                   float *dw, bool accumulate_w, const void *dy, const void *x,
                                   const void *w, const float *rstd, int64_t T, int64_t d);

    /* ---- attention */
    fm_status (*attention_forward)(fm_device *dev, const fm_attention_args *a);
    fm_status (*attention_backward)(fm_device *dev, const fm_attention_grad_args *a);
    /* Rotates the first `heads` heads of width dh of each row [cols], copies the rest; row t has
     * position pos0 + t % S. Pairs (i, i + dh/2), angle pos * theta^(-2i/dh). inverse: backward. */
    fm_status (*rope)(fm_device *dev, fm_dtype dt, void *y, const void *x, int64_t T, int64_t S,
                      int64_t heads, int64_t dh, int64_t cols, float theta, int64_t pos0,
                      bool inverse);

    /* ---- lookup, softmax, loss. ids, targets int32. A negative id: a row of zeros, no gradient */
    fm_status (*embedding_forward)(fm_device *dev, fm_dtype dt, void *y, const void *table,
                                   const int32_t *ids, int64_t T, int64_t d);
    /* dtable [V, d] fp32 (+)=; rows that no id names are zeroed when overwriting */
    fm_status (*embedding_backward)(fm_device *dev, fm_dtype dt, float *dtable, const void *dy,
                                    const int32_t *ids, int64_t T, int64_t d, int64_t V,
                                    bool accumulate);
    fm_status (*softmax_forward)(fm_device *dev, fm_dtype dt, void *y, const void *x, int64_t rows,
                                 int64_t n);
    fm_status (*softmax_backward)(fm_device *dev, fm_dtype dt, void *dx, const void *y,
                                  const void *dy, int64_t rows, int64_t n, bool accumulate);
    /* loss[t] = logsumexp(logits[t]) - logits[t, target[t]], 0 where target is negative; lse [T] */
    fm_status (*cross_entropy_forward)(fm_device *dev, fm_dtype dt, float *loss, float *lse,
                                       const void *logits, const int32_t *target, int64_t T,
                                       int64_t V);
    /* dlogits = (exp(logits - lse) - 1[v == target]) * scale; 0 rows where target is -1 (below -1: the
     * target is a class that is not here). May be in place (dlogits == logits). scale: one fp32
     * number in device memory times `factor`. */
    fm_status (*cross_entropy_backward)(fm_device *dev, fm_dtype dt, void *dlogits,
                                        const void *logits, const float *lse, const int32_t *target,
                                        const float *scale, float factor, int64_t T, int64_t V);
    /* y[0] (+)= factor * Σ x, fp32, summed in a fixed order (double inside) */
    fm_status (*sum)(fm_device *dev, float *y, const float *x, float factor, int64_t n,
                     bool accumulate);

    /* ---- routing; fp32 rows [T, E], int32 indices [T, k], -1 = dropped */
    /* values descending; equal values: lower index first. FM_ERR_NAN if any x is NaN. */
    fm_status (*top_k)(fm_device *dev, float *values, int32_t *indices, const float *x, int64_t T,
                       int64_t n, int64_t k);
    fm_status (*gather_cols)(fm_device *dev, float *y, const float *x, const int32_t *idx,
                             int64_t T, int64_t n,
                             int64_t k); /* y[t,j] = x[t, idx[t,j]], 0 at -1 */
    fm_status (*scatter_cols)(fm_device *dev, float *dx, const float *dy, const int32_t *idx,
                              int64_t T, int64_t n, int64_t k, bool accumulate); /* its adjoint */
    /* Stable counting sort of the T*k choices by expert, in order (t, j).
     *   counts [E]; offsets [E+1]; slot [T, k] = row of the choice, -1 if dropped;
     *   source [T*k]: source[row] = t*k + j for row < offsets[E], -1 behind. */
    fm_status (*moe_sort)(fm_device *dev, int32_t *counts, int32_t *offsets, int32_t *slot,
                          int32_t *source, const int32_t *indices, int64_t T, int64_t k, int64_t E);
    /* y[r] = x[source[r] / k] * (w ? w[source[r]] : 1), rows with source -1 are zero; w [T, k].
     * Permutation (w NULL), and the backward of combine. */
    fm_status (*moe_gather)(fm_device *dev, fm_dtype dt, void *y, const void *x, const float *w,
                            const int32_t *source, int64_t N, int64_t k, int64_t d);
    /* y[t] (+)= Σ_j (w ? w[t,j] : 1) z[slot[t,j]], j ascending, -1 skipped. Combine, and the
     * backward of the permutation. */
    fm_status (*moe_combine)(fm_device *dev, fm_dtype dt, void *y, const void *z, const float *w,
                             const int32_t *slot, int64_t T, int64_t k, int64_t d, bool accumulate);
    /* dw[t,j] (+)= dy[t] · z[slot[t,j]], 0 at -1 */
    fm_status (*moe_combine_weight)(fm_device *dev, fm_dtype dt, float *dw, const void *dy,
                                    const void *z, const int32_t *slot, int64_t T, int64_t k,
                                    int64_t d, bool accumulate);

    /* ---- optimiser; everything fp32 but the model copy */
    fm_status (*adamw)(fm_device *dev, const fm_adamw_args *a);
    fm_status (*sgd)(fm_device *dev, const fm_sgd_args *a);
    /* out[0] (+)= Σ g², host memory, double, fixed order whatever the thread count. Waits. */
    fm_status (*sum_squares)(fm_device *dev, double *out, const float *g, int64_t n,
                             bool accumulate);

    /* ---- a vocabulary in P parts of `width` (the last may be shorter) */
    /* y = id - first where first <= id < first + n, -1 where id is -1, else -2; int32 */
    fm_status (*local_ids)(fm_device *dev, int32_t *y, const int32_t *ids, int64_t first, int64_t n,
                           int64_t T);
    /* parts [P, 2, T]: lse and loss of each part, as cross_entropy_forward gives them for its local_ids.
     *   lse = log Σ_p exp(lse_p);  loss = loss_o + lse - lse_o, o = target / width; 0 where target is -1 */
    fm_status (*cross_entropy_merge)(fm_device *dev, float *loss, float *lse, const float *parts,
                                     const int32_t *target, int64_t width, int64_t P, int64_t T);
};

/* ---- opening */

/* Compared before anything else of a plugin is called. */
enum { FM_BACKEND_ABI = 1 };
typedef struct fm_backend_id {
    uint32_t abi;       /* FM_BACKEND_ABI */
    uint32_t ops_size;  /* sizeof(fm_ops) */
    char name[16];      /* "cuda" */
    char built_for[64]; /* "sm_80 sm_90a sm_100a" */
} fm_backend_id;

/* The symbols that a plugin exports. */
typedef const fm_backend_id *(*fm_backend_id_fn)(void); /* fm_backend_id */
typedef fm_status (*fm_backend_open_fn)(int index, fm_error *err,
                                        fm_device **out); /* fm_backend_open */
typedef void (*fm_backend_close_fn)(fm_device *dev);      /* fm_backend_close */

/* The CPU backend, always there. */
fm_status fm_cpu_open(fm_error *err, fm_device **out);
void fm_cpu_close(fm_device *dev);

#endif
