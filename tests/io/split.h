/* A small checkpoint's content, split over any number of ranks in several ways: by boxes, by fragments,
 * as one rank's. Values as content_value has them. */
#ifndef FM_TESTS_IO_SPLIT_H
#define FM_TESTS_IO_SPLIT_H
#include "io/checkpoint.h"

typedef enum split_kind {
    SPLIT_FIRST,     /* rank 0 has all */
    SPLIT_LAST,      /* the last rank has */
    SPLIT_THIRDS,    /* a rank's part of each of three blocks of rows, as of qkv: three boxes */
    SPLIT_COLUMNS,   /* of the last dimension, as a row-parallel weight */
    SPLIT_FRAGMENTS, /* flat, cut anywhere, in two pieces a rank; some are empty */
    SPLIT_COLUMN_FRAGMENTS, /* fragments of columns: two ranks share each */
    SPLIT_KINDS
} split_kind;

enum { SPLIT_ARRAYS = 5, SPLIT_PIECES = 2 * SPLIT_ARRAYS };

typedef struct split {
    fm_box boxes[SPLIT_PIECES][FM_FRAGMENT_BOXES];
    fm_placement placements[SPLIT_ARRAYS];
    fm_ckpt_array arrays[SPLIT_PIECES];
    fm_ckpt_content checkpoint;
} split;

/* What rank `rank` of `size` has, filled with the values of `seed`; `scale` multiplies the first
 * dimension. Aborts without memory. */
void split_make(split *s, split_kind kind, int rank, int size, int64_t step, int seed,
                int64_t scale);
void split_free(split *s);
/* Reads the same from a step's folder; the number of wrong elements. */
fm_status split_read(fm_ctx *ctx, const char *path, split *s, int seed, int64_t *wrong);

#endif
