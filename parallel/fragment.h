/* Where elements of a global array lie when they are more, or others, than a placement says: regions of
 * any number of boxes, and the boxes of a fragment of a placement.
 *
 * A placement's elements have a local order: its boxes one after another, each row-major. ZeRO cuts that
 * order into pieces wherever it likes; what is cut out is a few boxes again: the end of a row, whole
 * rows, the beginning of a row, and so in every dimension.
 */
#ifndef FM_PARALLEL_FRAGMENT_H
#define FM_PARALLEL_FRAGMENT_H
#include "parallel/param.h"

/* Elements of a global array: those of the boxes, one box after another, each row-major. */
typedef struct fm_region {
    int ndim;
    int64_t global_shape[FM_MAX_DIMS];
    int64_t n_boxes;
    const fm_box *boxes; /* borrowed */
} fm_region;

/* All of a placement; borrows its boxes. */
fm_region fm_region_of(const fm_placement *p);
int64_t fm_region_numel(const fm_region *r);

/* The most that fm_fragment makes: a box of n dimensions is cut into at most n at each end. */
enum { FM_FRAGMENT_BOXES = FM_MAX_BOXES + 2 * FM_MAX_DIMS - 2 };

/* Elements [start, stop) of a placement's local order, in this order; 0 <= start <= stop <= its number of
 * elements. None: n_boxes is 0. Fills `boxes`, which the region borrows. */
fm_region fm_fragment(const fm_placement *p, int64_t start, int64_t stop,
                      fm_box boxes[FM_FRAGMENT_BOXES]);

#endif
