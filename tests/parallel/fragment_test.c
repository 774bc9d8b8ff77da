/* Fragments of placements: element by element against fm_placement_global_index. */
#include "parallel/fragment.h"
#include "tests/tensor/runner.h"

#include <stdio.h>

/* The global (flat) indices of a region, in its order: box by box, counted out; -1: too many. */
static int64_t indices(const fm_region *r, int64_t *out, int64_t room) {
    int64_t n = 0;
    for (int64_t b = 0; b < r->n_boxes; b++) {
        int64_t at[FM_MAX_DIMS], left = fm_box_numel(r->ndim, &r->boxes[b]);
        for (int d = 0; d < r->ndim; d++) at[d] = r->boxes[b].start[d];
        while (left-- > 0) {
            int64_t flat = 0;
            for (int d = 0; d < r->ndim; d++) flat = flat * r->global_shape[d] + at[d];
            if (n == room) return -1;
            out[n++] = flat;
            int d = r->ndim - 1;
            while (d >= 0 && ++at[d] == r->boxes[b].stop[d]) at[d] = r->boxes[b].start[d], d--;
        }
    }
    return n;
}

static uint64_t state;
static int64_t below(int64_t n) {
    state = fm_mix64(state + 1);
    return (int64_t)(state % (uint64_t)n);
}

/* Boxes beside each other in dimension 0; any part of the others. */
static fm_placement any_placement(void) {
    fm_placement p = {.ndim = 1 + (int)below(FM_MAX_DIMS)};
    int64_t row = 0;
    p.n_boxes = 1 + (int)below(FM_MAX_BOXES);
    for (int i = 0; i < p.n_boxes; i++) {
        fm_box *b = &p.boxes[i];
        b->start[0] = row + below(3);
        row = b->stop[0] = b->start[0] + below(4); /* an empty one now and then */
        for (int d = 1; d < p.ndim; d++) {
            b->start[d] = below(3);
            b->stop[d] = b->start[d] + 1 + below(3);
        }
    }
    p.global_shape[0] = row + 1;
    for (int d = 1; d < p.ndim; d++) p.global_shape[d] = 5;
    return p;
}

enum { MOST = 3 * FM_MAX_BOXES * 3 * 3 * 3 * 3 };

static void check(test *t, const fm_placement *p, int64_t start, int64_t stop) {
    static int64_t got[MOST];
    fm_box boxes[FM_FRAGMENT_BOXES + 1], guard;
    memset(&guard, 0x5a, sizeof guard);
    boxes[FM_FRAGMENT_BOXES] = guard;
    fm_region r = fm_fragment(p, start, stop, boxes);
    EXPECT(t, memcmp(&guard, &boxes[FM_FRAGMENT_BOXES], sizeof guard) == 0, "too many boxes");
    EXPECT(t, r.n_boxes <= p->n_boxes + 2 * p->ndim - 2, "%d boxes", (int)r.n_boxes);
    EXPECT(t, fm_region_numel(&r) == stop - start, "%d elements", (int)fm_region_numel(&r));
    EXPECT(t, indices(&r, got, MOST) == stop - start, "elements");
    for (int64_t i = start; i < stop; i++)
        EXPECT(t, got[i - start] == fm_placement_global_index(p, i), "[%d, %d) element %d is %d",
               (int)start, (int)stop, (int)i, (int)got[i - start]);
}

/* Every fragment of small placements; some of others. */
static void against_the_index(test *t) {
    for (int i = 0; i < 3000; i++) {
        state = (uint64_t)i;
        fm_placement p = any_placement();
        int64_t n = fm_placement_numel(&p);
        for (int64_t start = 0; n <= 24 && start <= n; start++)
            for (int64_t stop = start; stop <= n; stop++) check(t, &p, start, stop);
        for (int k = 0; n > 24 && k < 20; k++) {
            int64_t start = below(n + 1), stop = start + below(n + 1 - start);
            check(t, &p, start, stop);
        }
        EXPECT(t, !t->case_failed, "placement number %d", i);
    }
}

/* The down weight of an expert's slice, [E_local, d, h/etp]: from inside a row to inside another. */
static void of_an_expert(test *t) {
    fm_placement p = {.ndim = 3, .global_shape = {4, 3, 8}, .n_boxes = 1};
    p.boxes[0] = (fm_box){{2, 0, 4}, {4, 3, 8}};
    fm_box boxes[FM_FRAGMENT_BOXES];
    fm_region r = fm_fragment(&p, 5, 22, boxes);
    static const fm_box want[] = {{{2, 1, 5}, {3, 2, 8}},
                                  {{2, 2, 4}, {3, 3, 8}},
                                  {{3, 0, 4}, {4, 2, 8}},
                                  {{3, 2, 4}, {4, 3, 6}}};
    EXPECT(t, r.n_boxes == 4, "%d boxes", (int)r.n_boxes);
    for (int i = 0; i < 4; i++)
        for (int d = 0; d < 3; d++)
            EXPECT(t, boxes[i].start[d] == want[i].start[d] && boxes[i].stop[d] == want[i].stop[d],
                   "box %d, dimension %d: %d to %d", i, d, (int)boxes[i].start[d],
                   (int)boxes[i].stop[d]);
}

static const test_case cases[] = {{"against_the_index", against_the_index},
                                  {"of_an_expert", of_an_expert}};
TEST_PROGRAM(cases)
