/* Where a set's parameters lie in its flat buffers; see shards.h. */
#ifndef FM_PARALLEL_PARAM_LAYOUT_H
#define FM_PARALLEL_PARAM_LAYOUT_H
#include "parallel/param.h"

/* Gives every parameter its offset, cuts the segments into buckets; s->numel, s->state_numel follow, and
 * how many masters there are. */
fm_status fm_param_lay_out(fm_param_set *s, int64_t *masters);

#endif
