/* Plain loops in double, written from the formulas of tensor/ops.h and nothing else. */
#ifndef FM_TESTS_TENSOR_REFERENCE_H
#define FM_TESTS_TENSOR_REFERENCE_H
#include "tensor/backend.h"

#include <stdint.h>

double ref_act(fm_act act, double x); /* not the glu forms */
/* y [m, n] = a [m, k] b, b [k, n] or (trans_b) [n, k] */
void ref_matmul(double *y, const double *a, const double *b, int64_t m, int64_t n, int64_t k,
                bool trans_b);
/* y [T, out] = act(x [T, in] w [out, in]ᵀ + b [out] or NULL) */
void ref_linear(double *y, const double *x, const double *w, const double *b, int64_t T, int64_t in,
                int64_t out, fm_act act);
void ref_layer_norm(double *y, const double *x, const double *w, const double *b, int64_t T,
                    int64_t d, double eps);
void ref_rms_norm(double *y, const double *x, const double *w, int64_t T, int64_t d, double eps);
/* q [B, Sq, H, dh] rows of q_row, k, v [B, Skv, KV, dh] rows of kv_row; o [B, Sq, H, dh] */
void ref_attention(double *o, const double *q, const double *k, const double *v, int64_t B,
                   int64_t Sq, int64_t Skv, int64_t H, int64_t KV, int64_t dh, int64_t q_row,
                   int64_t kv_row, bool causal, double scale);
void ref_rope(double *y, const double *x, int64_t T, int64_t S, int64_t heads, int64_t dh,
              int64_t cols, double theta, int64_t pos0);
void ref_softmax(double *y, const double *x, int64_t rows, int64_t n);
double ref_logsumexp(const double *x, int64_t n);
/* losses [T]; target -1 gives 0. Returns the sum of them divided by `denominator` (0: valid ones). */
double ref_cross_entropy(double *losses, const double *logits, const double *target, int64_t T,
                         int64_t V, double denominator);
/* The k largest of x [n], descending, the lower index first. */
void ref_top_k(double *values, double *indices, const double *x, int64_t n, int64_t k);

#endif
