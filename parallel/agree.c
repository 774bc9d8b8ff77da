#include "parallel/agree.h"

#include "tensor/tensor.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Doubles travel as the integers of the same bits: nothing but a gather sees them. */
fm_status fm_agree(fm_comm *c, fm_ctx *ctx, const fm_reduce *ops, double *x, int n) {
    FM_CHECK(n >= 0 && n <= FM_AGREE_MAX, FM_ERR_VALUE, "agree: n is %d; 0 to %d are allowed", n,
             FM_AGREE_MAX);
    if (c->size == 1 || n == 0) return FM_OK;
    fm_tensor *mine = NULL, *all = NULL;
    double *host = NULL;
    fm_status status = FM_OK;
    FM_TRY_GOTO(fm_tensor_from_host(ctx, &mine, FM_I64, 1, (int64_t[]){n}, x));
    FM_TRY_GOTO(FM_NEW(ctx, &all, FM_I64, c->size, n));
    host = malloc(fm_nbytes(all));
    FM_CHECK_GOTO(host, FM_ERR_OOM, "out of memory: %d numbers of %d ranks", n, c->size);
    FM_TRY_GOTO(fm_all_gather_now(c, ctx, FM_I64, all->data, mine->data, n));
    FM_TRY_GOTO(fm_tensor_to_host(ctx, all, host, fm_nbytes(all)));
    memcpy(x, host, (size_t)n * sizeof *x);
    for (int r = 1; r < c->size; r++)
        for (int i = 0; i < n; i++) {
            double y = host[r * n + i];
            x[i] = ops[i] == FM_SUM ? x[i] + y : y > x[i] || isnan(y) ? y : x[i];
        }
out:
    free(host);
    fm_tensor_free(mine);
    fm_tensor_free(all);
    return status;
}
