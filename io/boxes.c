#include "io/boxes.h"

#include <stdlib.h>
#include <string.h>

bool fm_box_intersect(int ndim, const fm_box *a, const fm_box *b, fm_box *out) {
    *out = (fm_box){0};
    for (int d = 0; d < ndim; d++) {
        out->start[d] = a->start[d] > b->start[d] ? a->start[d] : b->start[d];
        out->stop[d] = a->stop[d] < b->stop[d] ? a->stop[d] : b->stop[d];
        if (out->start[d] >= out->stop[d]) return false;
    }
    return true;
}

static int by_first_row(const void *a, const void *b) {
    int64_t x = ((const fm_box *)a)->start[0], y = ((const fm_box *)b)->start[0];
    return x < y ? -1 : x > y;
}

static bool holds(int ndim, const fm_box *b, const int64_t *point) {
    for (int d = 0; d < ndim; d++)
        if (point[d] < b->start[d] || point[d] >= b->stop[d]) return false;
    return true;
}

/* The first element, row-major, that no box holds; there is one. Between two neighbouring edges of
 * the boxes in a dimension nothing changes, so the walk goes from edge to edge. */
static void first_gap(int ndim, const int64_t *shape, const fm_box *boxes, int64_t n, int64_t *at) {
    for (int d = 0; d < ndim; d++) at[d] = 0;
    for (;;) {
        int64_t i = 0;
        while (i < n && !holds(ndim, &boxes[i], at)) i++;
        if (i == n) return;
        int d = ndim - 1;
        at[d] = boxes[i].stop[d];
        while (d > 0 && at[d] == shape[d]) {
            at[d--] = 0;
            int64_t edge = shape[d];
            for (i = 0; i < n; i++) {
                const int64_t ends[] = {boxes[i].start[d], boxes[i].stop[d]};
                for (int k = 0; k < 2; k++)
                    if (ends[k] > at[d] && ends[k] < edge) edge = ends[k];
            }
            at[d] = edge;
        }
    }
}

fm_tiling fm_boxes_tile(int ndim, const int64_t *shape, fm_box *boxes, int64_t n, int64_t *at) {
    int64_t whole = 1, covered = 0;
    for (int d = 0; d < ndim; d++) whole *= shape[d];
    if (n > 0) qsort(boxes, (size_t)n, sizeof *boxes, by_first_row);
    for (int64_t i = 0; i < n; i++) {
        for (int64_t j = i + 1; j < n && boxes[j].start[0] < boxes[i].stop[0]; j++) {
            fm_box common;
            if (!fm_box_intersect(ndim, &boxes[i], &boxes[j], &common)) continue;
            for (int d = 0; d < ndim; d++) at[d] = common.start[d];
            return FM_TILES_OVERLAP;
        }
        covered += fm_box_numel(ndim, &boxes[i]); /* disjoint so far: no more than whole */
    }
    if (covered == whole) return FM_TILED;
    first_gap(ndim, shape, boxes, n, at);
    return FM_TILES_GAP;
}

/* Where a point lies in a box's row-major elements. */
static int64_t place(int ndim, const fm_box *b, const int64_t *point) {
    int64_t at = 0;
    for (int d = 0; d < ndim; d++) at = at * (b->stop[d] - b->start[d]) + (point[d] - b->start[d]);
    return at;
}

int64_t fm_box_run(int ndim, const fm_box *whole, const fm_box *part) {
    int d = 0;
    while (d < ndim && part->stop[d] - part->start[d] == 1) d++;
    for (d++; d < ndim; d++) /* behind the first side that is not 1 all are whole */
        if (part->start[d] != whole->start[d] || part->stop[d] != whole->stop[d]) return -1;
    return place(ndim, whole, part->start);
}

static int64_t side(const fm_box *b, int d) { return b->stop[d] - b->start[d]; }

void fm_box_copy(int ndim, float *dst, const fm_box *to, const float *src, const fm_box *from,
                 const fm_box *part) {
    int64_t point[FM_MAX_DIMS] = {0};
    for (int d = 0; d < ndim; d++) point[d] = part->start[d];
    /* Dimensions behind `last` are whole in all three: they are one run of memory. */
    int last = ndim - 1;
    size_t run = (size_t)(part->stop[last] - part->start[last]) * sizeof(float);
    for (; last > 0 && side(part, last) == side(to, last) && side(part, last) == side(from, last);
         last--)
        run *= (size_t)side(part, last - 1);
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
