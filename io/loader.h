/* The data loader: which samples a rank sees, in which order, and where it stands. */
#ifndef FM_IO_LOADER_H
#define FM_IO_LOADER_H
#include "io/dataset.h"

typedef struct fm_loader_config {
    int64_t batch_size;    /* sequences of one optimiser step, over the whole job */
    int64_t micro_batches; /* into which a step is cut */
    int64_t seq_len;
    double split_start, split_stop; /* fractions of the dataset: [start, stop) */
    uint64_t seed;
    int dp, dp_rank;
    bool shuffle; /* false: samples in order (evaluation) */
} fm_loader_config;

typedef struct fm_loader fm_loader;

/* Samples are the whole non-overlapping windows of the split. FM_ERR_VALUE: batch_size does not
 * divide by dp × micro_batches (names the three numbers), or the split holds no sample. `d` is
 * borrowed. */
fm_status fm_loader_new(fm_ctx *ctx, const fm_dataset *d, const fm_loader_config *c,
                        fm_loader **out);
void fm_loader_free(fm_loader *l);

int64_t fm_loader_rows(const fm_loader *l);    /* of one micro-batch on this rank */
int64_t fm_loader_samples(const fm_loader *l); /* in one epoch, over all ranks */

/* The next micro-batch of this rank: tokens and targets int32 [rows, seq_len]; *valid (may be NULL)
 * is the number of samples in it over all ranks, the same on each. Goes on into the next epoch,
 * which has an order of its own. With shuffle off the epoch's last micro-batch may be short: rows
 * beyond the last sample are filled with token 0 and targets -1; the call after it gives
 * *valid = 0 and only such rows, and the next one starts over: each sample exactly once. */
fm_status fm_loader_next(fm_ctx *ctx, fm_loader *l, int32_t *tokens, int32_t *targets,
                         int64_t *valid);

/* The position is one number: samples taken since the start, over all ranks and epochs. It does not
 * depend on dp, so a run resumes on another mesh. */
int64_t fm_loader_position(const fm_loader *l);
fm_status fm_loader_seek(fm_ctx *ctx, fm_loader *l, int64_t position);
int64_t fm_loader_epoch(const fm_loader *l);
void fm_loader_reset(fm_loader *l);

#endif
