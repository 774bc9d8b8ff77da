/* Arithmetic of boxes: which part of one box lies in another, and copying it. */
#ifndef FM_IO_BOXES_H
#define FM_IO_BOXES_H
#include "parallel/param.h"

/* Elements of a box; 0 where a side is empty. */
int64_t fm_box_numel(int ndim, const fm_box *b);
/* False where they share no element. */
bool fm_box_intersect(int ndim, const fm_box *a, const fm_box *b, fm_box *out);
/* All boxes inside the shape, no two of which share an element, as many elements as the shape: they
 * tile it exactly once. On false *first and *second name two that overlap, or are both -1. */
bool fm_boxes_tile(int ndim, const int64_t *shape, const fm_box *boxes, int64_t n, int64_t *first,
                   int64_t *second);
/* dst, the elements of box `to` in row-major order, gets those of `part` from src, which are those
 * of box `from`. part lies in both. */
void fm_box_copy(int ndim, float *dst, const fm_box *to, const float *src, const fm_box *from,
                 const fm_box *part);
/* Boxes that agree in all dimensions but the first form an array of that many rows. */
bool fm_boxes_stack(int ndim, const fm_box *boxes, int64_t n);

#endif
