/* How the work of attention's backward is cut, and the memory that takes. The same for every
 * instruction set: whoever plans memory asks as well as the kernel.
 *
 * A task is one (sequence, key head), with the tiles of queries of its group. Where those are few, the
 * tiles are dealt out into parts, each with sums dk and dv of its own, which are added in order. How many
 * parts, and which tiles each gets, is a matter of shapes alone: the bits are the same on any number of
 * threads.
 */
#ifndef FM_TENSOR_CPU_ATTENTION_PARTS_H
#define FM_TENSOR_CPU_ATTENTION_PARTS_H
#include "tensor/backend.h"
#include "tensor/cpu/tile.h"

/* Rows of a tile of queries, and of keys: a tile of scores and the operands of its products are
 * some 16 KiB each at a head width of 64. Keys are a multiple of every vector's lanes. */
enum { FM_TILE_Q = FM_TILE(64, 3), FM_TILE_K = FM_TILE(64, 16) };

/* Tasks that need no parts; and the tiles of queries that are worth a part, whose sums over all keys
 * cost some 2 % of it. */
enum { FM_ATTENTION_ENOUGH = FM_TILE(32, 5), FM_ATTENTION_PART_TILES = FM_TILE(4, 1) };

static inline int64_t fm_attention_tiles_in_head(const fm_attention_args *a) {
    return (a->Sq + FM_TILE_Q - 1) / FM_TILE_Q;
}
/* Tiles of queries of one task. */
static inline int64_t fm_attention_tiles(const fm_attention_args *a) {
    return a->H / a->KV * fm_attention_tiles_in_head(a);
}
/* Parts of one task. */
static inline int64_t fm_attention_parts(const fm_attention_args *a) {
    int64_t tasks = a->B * a->KV, most = fm_attention_tiles(a) / FM_ATTENTION_PART_TILES;
    int64_t parts = tasks > 0 ? (FM_ATTENTION_ENOUGH + tasks - 1) / tasks : 1;
    if (most > FM_ATTENTION_ENOUGH) most = FM_ATTENTION_ENOUGH;
    if (parts > most) parts = most;
    return parts < 1 ? 1 : parts;
}

/* The n-th tile of a part, among all of the task, the heaviest first: dealt out to and fro, so that the
 * parts' shares are alike. Beyond fm_attention_tiles there is none. */
static inline int64_t fm_attention_dealt(int64_t n, int64_t part, int64_t parts) {
    return n * parts + (n % 2 == 0 ? part : parts - 1 - part);
}
/* Which that is: a tile of queries, and a head of the group. Later queries see more keys. */
static inline int64_t fm_attention_tile_of(const fm_attention_args *a, int64_t dealt) {
    return fm_attention_tiles_in_head(a) - 1 - dealt / (a->H / a->KV);
}
static inline int64_t fm_attention_head_of(const fm_attention_args *a, int64_t dealt) {
    return dealt % (a->H / a->KV);
}

/* ---- scratch; `width`: dh in whole vectors */

static inline int64_t fm_attention_keys(const fm_attention_args *a) {
    return (a->Skv + FM_TILE_K - 1) / FM_TILE_K * FM_TILE_K;
}
/* Floats of dk and dv of one part. */
static inline int64_t fm_attention_sums(const fm_attention_args *a, int64_t width) {
    return 2 * fm_attention_keys(a) * width;
}
/* Floats of a thread: k packed, k and v transposed, tiles; and `sums`, its own. */
static inline int64_t fm_attention_per_thread(const fm_attention_args *a, int64_t width,
                                              int64_t sums) {
    int64_t floats = fm_attention_keys(a) * (width + 2 * a->dh) + 3 * FM_TILE_Q * width +
                     2 * FM_TILE_Q * FM_TILE_K + sums;
    return (floats + 15) / 16 * 16;
}
/* True: a thread's task is one part, and the sums of all parts are there at once. Else it is all parts
 * of a key head, one after the other. */
static inline bool fm_attention_by_parts(const fm_attention_args *a, int64_t threads) {
    return fm_attention_parts(a) > 1 && a->B * a->KV < threads;
}
/* Floats in all: at most (32 + tasks) sums beside what each thread has. */
static inline int64_t fm_attention_floats(const fm_attention_args *a, int64_t width,
                                          int64_t threads) {
    int64_t sums = fm_attention_sums(a, width), parts = fm_attention_parts(a);
    if (fm_attention_by_parts(a, threads))
        return threads * fm_attention_per_thread(a, width, 0) + a->B * a->KV * parts * sums;
    return threads * fm_attention_per_thread(a, width, parts > 1 ? 2 * sums : sums);
}

#endif
