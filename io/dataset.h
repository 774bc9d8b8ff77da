/* Datasets: long sequences of tokens on disk, and their order in training.
 *
 * A dataset is cut into samples of seq_len + 1 tokens (input and shifted target
 * overlap by one). Order is a keyed permutation of the sample index: no table, no
 * dependence on the number of steps planned, on dp or on the batch size.
 */
#ifndef FM_IO_DATASET_H
#define FM_IO_DATASET_H
#include "tensor/ctx.h"

typedef struct fm_dataset fm_dataset;

/* Bytes of a file, or of all files below a folder whose name matches `pattern` (fnmatch; NULL:
 * all), in byte order of their relative paths. Files and folders whose name matches `exclude` (NULL:
 * none) and hidden ones are skipped, links to files are followed. Read as it is asked for, never loaded. FM_ERR_IO names the path and the reason; a
 * dataset without a byte is FM_ERR_VALUE. Vocabulary 256. */
fm_status fm_dataset_bytes(fm_ctx *ctx, const char *path, const char *pattern, const char *exclude,
                           fm_dataset **out);
void fm_dataset_free(fm_dataset *d);

int64_t fm_dataset_tokens(const fm_dataset *d);
int64_t fm_dataset_files(const fm_dataset *d);
int64_t fm_dataset_vocab(const fm_dataset *d);
/* Identity: kind, number of files and tokens, and a hash over names, sizes and the first and last
 * KiB of each file; a checkpoint keeps it. Points into d. */
const char *fm_dataset_identity(const fm_dataset *d);
/* Tokens [start, start + n) into `out`. FM_ERR_RANGE outside; FM_ERR_IO names a file
 * that has become shorter or cannot be read. Not for two threads at once: it keeps files open. */
fm_status fm_dataset_read(fm_ctx *ctx, const fm_dataset *d, int64_t start, int64_t n, int32_t *out);

/* A bijection of [0, n) chosen by key: Feistel network of 6 rounds over the next even power of two,
 * walked until it falls inside (cycle walking, Black and Rogaway 2002). */
int64_t fm_permute_index(uint64_t key, int64_t n, int64_t i);

#endif
