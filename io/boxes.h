/* Arithmetic of boxes: which part of one box lies in another, and copying it. */
#ifndef FM_IO_BOXES_H
#define FM_IO_BOXES_H
#include "parallel/fragment.h"

/* False where they share no element. */
bool fm_box_intersect(int ndim, const fm_box *a, const fm_box *b, fm_box *out);
typedef enum fm_tiling { FM_TILED, FM_TILES_OVERLAP, FM_TILES_GAP } fm_tiling;
/* Whether the boxes, all inside the shape, hold each of its elements exactly once. `at` [ndim]: the
 * first element that two of them share, or the first that none holds. Sorts the boxes. */
fm_tiling fm_boxes_tile(int ndim, const int64_t *shape, fm_box *boxes, int64_t n, int64_t *at);
/* dst, the elements of box `to` in row-major order, gets those of `part` from src, which are those
 * of box `from`. part lies in both. */
void fm_box_copy(int ndim, float *dst, const fm_box *to, const float *src, const fm_box *from,
                 const fm_box *part);
/* Where the elements of `part` begin among those of `whole` if they lie there one after another; else
 * -1. part lies in whole. */
int64_t fm_box_run(int ndim, const fm_box *whole, const fm_box *part);
/* Boxes that agree in all dimensions but the first form an array of that many rows. */
bool fm_boxes_stack(int ndim, const fm_box *boxes, int64_t n);

#endif
