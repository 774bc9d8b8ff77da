#include "parallel/fragment.h"

fm_region fm_region_of(const fm_placement *p) {
    fm_region r = {.ndim = p->ndim, .n_boxes = p->n_boxes, .boxes = p->boxes};
    for (int d = 0; d < p->ndim; d++) r.global_shape[d] = p->global_shape[d];
    return r;
}

int64_t fm_region_numel(const fm_region *r) {
    int64_t n = 0;
    for (int64_t i = 0; i < r->n_boxes; i++) n += fm_box_numel(r->ndim, &r->boxes[i]);
    return n;
}

/* Elements [start, stop) of `whole`, row-major, behind the n boxes that there are. Where dimension `dim`
 * is reached the ones before it have a single index each. Returns the number of boxes then. */
static int cut(int ndim, int dim, fm_box whole, int64_t start, int64_t stop, fm_box *boxes, int n) {
    if (start == stop) return n;
    int64_t row = 1, first = whole.start[dim];
    for (int d = dim + 1; d < ndim; d++) row *= whole.stop[d] - whole.start[d];
    int64_t from = start / row, to = stop / row, head = start % row, tail = stop % row;
    fm_box one = whole;
    if (head > 0) {
        one.start[dim] = first + from;
        one.stop[dim] = first + from + 1;
        n = cut(ndim, dim + 1, one, head, from == to ? tail : row, boxes, n);
        if (from++ == to) return n;
    }
    if (from < to) {
        boxes[n] = whole;
        boxes[n].start[dim] = first + from;
        boxes[n++].stop[dim] = first + to;
    }
    one.start[dim] = first + to;
    one.stop[dim] = first + to + 1;
    return cut(ndim, dim + 1, one, 0, tail, boxes, n);
}

fm_region fm_fragment(const fm_placement *p, int64_t start, int64_t stop,
                      fm_box boxes[FM_FRAGMENT_BOXES]) {
    fm_region r = fm_region_of(p);
    int n = 0;
    int64_t before = 0; /* elements of the boxes so far */
    for (int i = 0; i < p->n_boxes; i++) {
        int64_t here = fm_box_numel(p->ndim, &p->boxes[i]);
        int64_t from = start > before ? start - before : 0;
        int64_t to = stop < before + here ? stop - before : here;
        if (from < to) n = cut(p->ndim, 0, p->boxes[i], from, to, boxes, n);
        before += here;
    }
    r.n_boxes = n;
    r.boxes = boxes;
    return r;
}
