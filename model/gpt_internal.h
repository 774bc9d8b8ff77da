/* What GPT's files share: the forward pass with or without a KV cache.
 *
 * Without one, x is [B, S/tp, d]: own positions. With a cache it is [B, S, d] on every tp rank, the same:
 * a step of one token cannot be split, and so sums over ranks take the place of gathers and scatters. */
#ifndef FM_MODEL_GPT_INTERNAL_H
#define FM_MODEL_GPT_INTERNAL_H
#include "model/gpt.h"

/* tokens [B, S], which follow those in the cache -> x */
fm_status fm_gpt_embed(fm_gpt *m, fm_tensor *tokens, const fm_kv_cache *cache, fm_tensor **x);

/* One block: x -> out[0] = x', out[1] = balance loss or NULL, out[2] = z loss or NULL. tokens: of x's
 * positions. With a cache, the positions follow those in it and enter it (its length is not changed). */
fm_status fm_gpt_block(fm_gpt *m, int64_t layer, fm_tensor *x, fm_tensor *tokens,
                       fm_kv_cache *cache, fm_tensor **out);

fm_status fm_gpt_norm(fm_gpt *m, const fm_norm_params *p, fm_tensor *x, fm_tensor **y);

/* x, the same on all tp ranks [.., d] -> logits [.., V] on all */
fm_status fm_gpt_head(fm_gpt *m, fm_tensor *x, fm_tensor **logits);

/* qkv [B, S, (H + 2 KV) dh] of own heads against everything in the cache and itself -> [B, S, H dh] */
fm_status fm_gpt_attend_cached(fm_gpt *m, int64_t layer, fm_tensor *qkv, fm_kv_cache *cache,
                               fm_tensor **y);

#endif
