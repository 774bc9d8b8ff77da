/* linear_backward_input: dx (+)= dy w.
 *
 * Cost: 2·T·in·out FLOPs; bytes are dy, w, dx once each.
 */
#include "tensor/cpu/kernels.h"
#include "tensor/cpu/row_product.h"

typedef struct rounded_sum {
    void *dx;
    int64_t in;
    bool accumulate;
} rounded_sum;

static void round_tile(const void *user, const fm_task *t, const float *z, int64_t ldz) {
    const rounded_sum *s = user;
    for (int64_t r = 0; r < t->rows; r++) {
        void *dx = fm_at_mut(FM_BF16, s->dx, (t->row + r) * s->in + t->col);
#pragma omp simd
        for (int64_t i = 0; i < t->cols; i++)
            fm_put_or_add(FM_BF16, dx, i, z[r * ldz + i], s->accumulate);
    }
}

fm_status FM_ISA_NAME(cpu_linear_backward_input)(fm_device *dev, const fm_linear_args *a, void *dx,
                                                 const void *dy, bool accumulate) {
    rounded_sum sum = {dx, a->in, accumulate};
    fm_row_product p = {.slot = "linear_backward_input",
                        .a = a,
                        .x = dy,
                        .k = a->out,
                        .n = a->in,
                        .z = dx,
                        .accumulate = accumulate,
                        .finish = a->dt == FM_BF16 ? round_tile : NULL,
                        .user = &sum};
    return fm_row_product_run(dev, &p);
}
