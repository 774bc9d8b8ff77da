#include "parallel/param.h"

int64_t fm_box_numel(int ndim, const fm_box *b) {
    int64_t n = 1;
    for (int d = 0; d < ndim; d++) n *= b->stop[d] > b->start[d] ? b->stop[d] - b->start[d] : 0;
    return n;
}

int64_t fm_placement_numel(const fm_placement *p) {
    int64_t n = 0;
    for (int i = 0; i < p->n_boxes; i++) n += fm_box_numel(p->ndim, &p->boxes[i]);
    return n;
}

int64_t fm_placement_global_numel(const fm_placement *p) {
    int64_t n = 1;
    for (int i = 0; i < p->ndim; i++) n *= p->global_shape[i];
    return n;
}

int64_t fm_placement_global_index(const fm_placement *p, int64_t i) {
    const fm_box *b = p->boxes;
    for (int64_t n; i >= (n = fm_box_numel(p->ndim, b)); b++) i -= n;
    /* i is row-major inside b: peel off its coordinates from the last dimension on. */
    int64_t index = 0, stride = 1;
    for (int dim = p->ndim - 1; dim >= 0; dim--) {
        int64_t width = b->stop[dim] - b->start[dim];
        index += (b->start[dim] + i % width) * stride;
        i /= width;
        stride *= p->global_shape[dim];
    }
    return index;
}
