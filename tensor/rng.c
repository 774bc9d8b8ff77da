#include "tensor/rng.h"

#include <math.h>

uint64_t fm_rng_stream(const char *name) {
    uint64_t h = 0xcbf29ce484222325ull;
    for (; *name; name++) h = (h ^ (unsigned char)*name) * 0x100000001b3ull;
    return h;
}

double fm_rng_normal(const fm_rng_key *k, uint64_t element) {
    /* One block serves two elements: words 0,1 the even one, 2,3 the odd. The high bit of the
     * micro-batch word keeps these blocks apart from those of uniform draws under the same key. */
    uint32_t in[4] = {(uint32_t)(element >> 1), (uint32_t)(element >> 33), k->step,
                      k->micro | 0x80000000u};
    uint32_t w[4];
    fm_philox(k->key, in, w);
    const uint32_t *pair = w + 2 * (element & 1);
    double u = ((double)pair[0] + 0.5) * 0x1p-32;
    double angle = 6.283185307179586476925 * ((double)pair[1] * 0x1p-32);
    return sqrt(-2.0 * log(u)) * cos(angle);
}
