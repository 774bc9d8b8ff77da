#include "tests/tensor/products/each_isa.h"

#include <math.h>
#include <omp.h>
#include <stdlib.h>

static void prepare(const product_case *p) {
    for (int o = 0; o < MAX_OUTPUTS && p->outputs[o]; o++) {
        array *a = p->outputs[o];
        for (int64_t i = 0; i < a->n; i++) {
            float x = p->before[o] ? (float)p->before[o][i] : NAN;
            if (a->dt == FM_BF16)
                ((fm_bf16 *)a->data)[i] = fm_f32_to_bf16(x);
            else
                ((float *)a->data)[i] = x;
        }
    }
}

static void run_once(cases *c, const product_case *p, fm_device *dev, const char *who,
                     double *first[MAX_OUTPUTS]) {
    prepare(p);
    fm_status s = p->run(dev, p->arguments);
    if (s != FM_OK) {
        case_fail(c, "%s: status %d: %s", who, (int)s, dev->error->message);
        return;
    }
    for (int o = 0; o < MAX_OUTPUTS && p->outputs[o]; o++) {
        const array *a = p->outputs[o];
        array_check(c, who, p->names[o], a);
        bool is_first = !first[o];
        if (is_first) first[o] = calloc((size_t)a->n + 1, sizeof(double));
        if (!first[o]) abort();
        for (int64_t i = 0; i < a->n; i++) {
            double x = array_get(a, i);
            if (is_first)
                first[o][i] = x;
            else if (memcmp(&first[o][i], &x, sizeof x) != 0) {
                case_fail(c, "%s: %s[%lld] is %.9g, was %.9g on 1 thread", who, p->names[o],
                          (long long)i, x, first[o][i]);
                break;
            }
        }
    }
}

void run_on_each_isa(cases *c, const product_case *p) {
    const char *isas[FM_CPU_MAX_ISAS];
    int n = fm_cpu_isas(isas);
    for (int v = 0; v < n; v++) {
        fm_error error = {0};
        fm_device *dev;
        if (fm_cpu_open_isa(isas[v], &error, &dev) != FM_OK) {
            case_fail(c, "%s does not open: %s", isas[v], error.message);
            continue;
        }
        double *first[MAX_OUTPUTS] = {0};
        for (int threads = 1; threads <= 3; threads++) {
            char who[32];
            snprintf(who, sizeof who, "%s, %d threads", isas[v], threads);
            omp_set_num_threads(threads);
            run_once(c, p, dev, who, first);
        }
        for (int o = 0; o < MAX_OUTPUTS; o++) free(first[o]);
        fm_cpu_close(dev);
    }
}
