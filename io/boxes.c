#include "io/boxes.h"

#include <string.h>

int64_t fm_box_numel(int ndim, const fm_box *b) {
    int64_t n = 1;
    for (int d = 0; d < ndim; d++) n *= b->stop[d] > b->start[d] ? b->stop[d] - b->start[d] : 0;
    return n;
}

bool fm_box_intersect(int ndim, const fm_box *a, const fm_box *b, fm_box *out) {
    *out = (fm_box){0};
    for (int d = 0; d < ndim; d++) {
        out->start[d] = a->start[d] > b->start[d] ? a->start[d] : b->start[d];
        out->stop[d] = a->stop[d] < b->stop[d] ? a->stop[d] : b->stop[d];
        if (out->start[d] >= out->stop[d]) return false;
    }
    return true;
}

bool fm_boxes_tile(int ndim, const int64_t *shape, const fm_box *boxes, int64_t n, int64_t *first,
                   int64_t *second) {
    int64_t whole = 1, covered = 0;
    *first = *second = -1;
    for (int d = 0; d < ndim; d++) whole *= shape[d];
    for (int64_t i = 0; i < n; i++) {
        for (int d = 0; d < ndim; d++)
            if (boxes[i].start[d] < 0 || boxes[i].stop[d] > shape[d]) return false;
        covered += fm_box_numel(ndim, &boxes[i]);
    }
    /* Quadratic, in the number of ranks that hold a parameter: thousands at most. */
    for (int64_t i = 0; i < n; i++)
        for (int64_t j = 0; j < i; j++) {
            fm_box common;
            if (!fm_box_intersect(ndim, &boxes[i], &boxes[j], &common)) continue;
            *first = j, *second = i;
            return false;
        }
    return covered == whole;
}

/* Where a point lies in a box's row-major elements. */
static int64_t place(int ndim, const fm_box *b, const int64_t *point) {
    int64_t at = 0;
    for (int d = 0; d < ndim; d++) at = at * (b->stop[d] - b->start[d]) + (point[d] - b->start[d]);
    return at;
}

void fm_box_copy(int ndim, float *dst, const fm_box *to, const float *src, const fm_box *from,
                 const fm_box *part) {
    int64_t point[FM_MAX_DIMS] = {0};
    for (int d = 0; d < ndim; d++) point[d] = part->start[d];
    int last = ndim - 1;
    size_t run = (size_t)(part->stop[last] - part->start[last]) * sizeof(float);
    for (;;) {
        memcpy(dst + place(ndim, to, point), src + place(ndim, from, point), run);
        int d = last - 1;
        while (d >= 0 && ++point[d] == part->stop[d]) point[d] = part->start[d], d--;
        if (d < 0) return;
    }
}

bool fm_boxes_stack(int ndim, const fm_box *boxes, int64_t n) {
    for (int64_t i = 1; i < n; i++)
        for (int d = 1; d < ndim; d++)
            if (boxes[i].start[d] != boxes[0].start[d] || boxes[i].stop[d] != boxes[0].stop[d])
                return false;
    return true;
}
