#include "model/optim.h"

#include <math.h>

fm_status fm_schedule_check(fm_ctx *ctx, const fm_schedule *s) {
    FM_CHECK(s->warmup >= 0, FM_ERR_VALUE, "warmup is %lld; it must not be negative",
             (long long)s->warmup);
    if (s->kind == FM_CONSTANT || s->kind == FM_INVERSE_SQRT) return FM_OK;
    FM_CHECK(s->total >= 1 && s->total >= s->warmup, FM_ERR_VALUE,
             "total is %lld and warmup %lld; total must be at least 1 and not below warmup",
             (long long)s->total, (long long)s->warmup);
    FM_CHECK(s->final >= 0 && s->final <= 1, FM_ERR_VALUE, "final is %g; it must be in [0, 1]",
             s->final);
    if (s->kind != FM_WSD) return FM_OK;
    FM_CHECK(s->decay >= 0 && s->decay <= s->total - s->warmup, FM_ERR_VALUE,
             "decay is %lld; it must be from 0 to total - warmup, %lld", (long long)s->decay,
             (long long)(s->total - s->warmup));
    return FM_OK;
}

double fm_schedule_factor(const fm_schedule *s, int64_t step) {
    if (step <= s->warmup) return (double)step / (double)s->warmup;
    double start = (double)(s->offset ? s->warmup : 0), total = (double)s->total;
    double span = total - start;
    double t = span > 0 ? fmin(((double)step - start) / span, 1) : 1;
    switch (s->kind) {
    case FM_CONSTANT:
        return 1;
    case FM_LINEAR:
        return 1 + (s->final - 1) * t;
    case FM_COSINE:
        return s->final + (1 - s->final) * 0.5 * (1 + cos(M_PI * t));
    case FM_WSD: {
        double decay = (double)s->decay, into = (double)step - (total - decay);
        if (into <= 0) return 1;
        return 1 + (s->final - 1) * (decay > 0 ? fmin(into / decay, 1) : 1);
    }
    case FM_INVERSE_SQRT:
        return sqrt(fmax((double)s->warmup, 1) / (double)step);
    }
    return 1;
}
