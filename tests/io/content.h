/* A small checkpoint's content for tests: a dense matrix, a vector, experts, moments. */
#ifndef FM_TESTS_IO_CONTENT_H
#define FM_TESTS_IO_CONTENT_H
#include "io/checkpoint.h"

enum { CONTENT_ARRAYS = 5 };

typedef struct content {
    fm_placement placements[CONTENT_ARRAYS];
    fm_ckpt_array arrays[CONTENT_ARRAYS];
    fm_ckpt_content checkpoint;
} content;

/* Element i of array a is a function of (a, i, seed), so that a wrong place shows. */
float content_value(int array, int64_t global_index, int seed);
/* Allocates and fills; `scale` multiplies the matrices' rows (1: a few KiB). */
void content_make(content *c, int64_t step, int seed, int64_t scale, const char *state_json);
void content_free(content *c);
/* Overwrites with zeros, so that a read has to bring everything back. */
void content_clear(content *c);
/* Elements that are not content_value(…, seed). */
int64_t content_wrong(const content *c, int seed);
/* Reads all arrays of the checkpoint in root/step_N. */
fm_status content_read(fm_ctx *ctx, content *c, const char *root, int64_t step);

/* Writes and commits what n ranks would hand over, without their checks; tp splits the n. */
fm_status content_write_ranks(fm_ctx *ctx, const char *root, int n,
                              const fm_ckpt_content *of_ranks);

/* A placement of boxes over a global shape; boxes as {start.., stop..} rows of 2*ndim numbers. */
fm_placement placement_of(int ndim, const int64_t *shape, int n_boxes, const int64_t *numbers);

#endif
