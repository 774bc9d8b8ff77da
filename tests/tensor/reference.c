#include "tests/tensor/reference.h"

#include <math.h>
#include <stdlib.h>

double ref_act(fm_act act, double x) {
    switch (act) {
    case FM_ACT_GELU:
        return 0.5 * x * (1 + tanh(sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
    case FM_ACT_GELU_ERF:
        return 0.5 * x * (1 + erf(x / sqrt(2)));
    case FM_ACT_RELU: /* so written that a NaN passes */
        return x <= 0 ? 0 : x;
    case FM_ACT_RELU2:
        return x <= 0 ? 0 : x * x;
    case FM_ACT_SILU:
        return x / (1 + exp(-x));
    default:
        return x;
    }
}

void ref_matmul(double *y, const double *a, const double *b, int64_t m, int64_t n, int64_t k,
                bool trans_b) {
    for (int64_t i = 0; i < m; i++)
        for (int64_t j = 0; j < n; j++) {
            double sum = 0;
            for (int64_t l = 0; l < k; l++)
                sum += a[i * k + l] * (trans_b ? b[j * k + l] : b[l * n + j]);
            y[i * n + j] = sum;
        }
}

void ref_linear(double *y, const double *x, const double *w, const double *b, int64_t T, int64_t in,
                int64_t out, fm_act act) {
    ref_matmul(y, x, w, T, out, in, true);
    for (int64_t t = 0; t < T; t++)
        for (int64_t o = 0; o < out; o++)
            y[t * out + o] = ref_act(act, y[t * out + o] + (b ? b[o] : 0));
}

void ref_layer_norm(double *y, const double *x, const double *w, const double *b, int64_t T,
                    int64_t d, double eps) {
    for (int64_t t = 0; t < T; t++, x += d, y += d) {
        double mean = 0, var = 0;
        for (int64_t i = 0; i < d; i++) mean += x[i] / (double)d;
        for (int64_t i = 0; i < d; i++) var += (x[i] - mean) * (x[i] - mean) / (double)d;
        for (int64_t i = 0; i < d; i++)
            y[i] = (x[i] - mean) / sqrt(var + eps) * w[i] + (b ? b[i] : 0);
    }
}

void ref_rms_norm(double *y, const double *x, const double *w, int64_t T, int64_t d, double eps) {
    for (int64_t t = 0; t < T; t++, x += d, y += d) {
        double square = 0;
        for (int64_t i = 0; i < d; i++) square += x[i] * x[i] / (double)d;
        for (int64_t i = 0; i < d; i++) y[i] = x[i] / sqrt(square + eps) * w[i];
    }
}

void ref_softmax(double *y, const double *x, int64_t rows, int64_t n) {
    for (int64_t r = 0; r < rows; r++, x += n, y += n) {
        double lse = ref_logsumexp(x, n);
        for (int64_t i = 0; i < n; i++) y[i] = exp(x[i] - lse);
    }
}

double ref_logsumexp(const double *x, int64_t n) {
    double max = -HUGE_VAL, sum = 0;
    for (int64_t i = 0; i < n; i++) max = fmax(max, x[i]);
    for (int64_t i = 0; i < n; i++) sum += exp(x[i] - max);
    return max + log(sum);
}

void ref_attention(double *o, const double *q, const double *k, const double *v, int64_t B,
                   int64_t Sq, int64_t Skv, int64_t H, int64_t KV, int64_t dh, int64_t q_row,
                   int64_t kv_row, bool causal, double scale) {
    double *p = malloc((size_t)Skv * sizeof *p);
    if (!p) abort();
    for (int64_t b = 0; b < B; b++)
        for (int64_t i = 0; i < Sq; i++)
            for (int64_t h = 0; h < H; h++) {
                const double *qi = q + (b * Sq + i) * q_row + h * dh;
                double *oi = o + ((b * Sq + i) * H + h) * dh;
                int64_t at = h / (H / KV) * dh, n = causal ? i + Skv - Sq + 1 : Skv;
                for (int64_t j = 0; j < n; j++) {
                    p[j] = 0;
                    for (int64_t c = 0; c < dh; c++)
                        p[j] += scale * qi[c] * k[(b * Skv + j) * kv_row + at + c];
                }
                ref_softmax(p, p, 1, n);
                for (int64_t c = 0; c < dh; c++) {
                    oi[c] = 0;
                    for (int64_t j = 0; j < n; j++)
                        oi[c] += p[j] * v[(b * Skv + j) * kv_row + at + c];
                }
            }
    free(p);
}

void ref_rope(double *y, const double *x, int64_t T, int64_t S, int64_t heads, int64_t dh,
              int64_t cols, double theta, int64_t pos0) {
    for (int64_t t = 0; t < T; t++, x += cols, y += cols) {
        for (int64_t c = 0; c < cols; c++) y[c] = x[c];
        for (int64_t h = 0; h < heads; h++)
            for (int64_t i = 0; i < dh / 2; i++) {
                double angle = (double)(pos0 + t % S) * pow(theta, -2.0 * (double)i / (double)dh);
                double a = x[h * dh + i], b = x[h * dh + dh / 2 + i];
                y[h * dh + i] = a * cos(angle) - b * sin(angle);
                y[h * dh + dh / 2 + i] = b * cos(angle) + a * sin(angle);
            }
    }
}

double ref_cross_entropy(double *losses, const double *logits, const double *target, int64_t T,
                         int64_t V, double denominator) {
    double sum = 0, valid = 0;
    for (int64_t t = 0; t < T; t++) {
        bool counts = target[t] >= 0;
        losses[t] = counts ? ref_logsumexp(logits + t * V, V) - logits[t * V + (int64_t)target[t]]
                           : 0;
        sum += losses[t];
        valid += counts;
    }
    return sum / (denominator > 0 ? denominator : fmax(1, valid));
}

void ref_top_k(double *values, double *indices, const double *x, int64_t n, int64_t k) {
    for (int64_t j = 0; j < k; j++) {
        int64_t best = -1;
        for (int64_t i = 0; i < n; i++) {
            bool taken = false;
            for (int64_t l = 0; l < j; l++) taken |= (int64_t)indices[l] == i;
            if (!taken && (best < 0 || x[i] > x[best])) best = i;
        }
        indices[j] = (double)best;
        values[j] = x[best];
    }
}
