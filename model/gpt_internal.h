/* What GPT's files share: the forward pass with or without a KV cache. */
#ifndef FM_MODEL_GPT_INTERNAL_H
#define FM_MODEL_GPT_INTERNAL_H
#include "model/gpt.h"

/* tokens [B, S] at positions pos0.. -> x [B, S, d] */
fm_status fm_gpt_embed(fm_gpt *m, fm_tensor *tokens, int64_t pos0, fm_tensor **x);

/* One block: x [B, S, d] -> out[0] = x', out[1] = balance loss or NULL, out[2] = z loss or NULL.
 * With a cache, the S positions follow those in it and enter it (its length is not changed). */
fm_status fm_gpt_block(fm_gpt *m, int64_t layer, fm_tensor *x, fm_tensor *tokens,
                       fm_kv_cache *cache, fm_tensor **out);

fm_status fm_gpt_norm(fm_gpt *m, const fm_norm_params *p, fm_tensor *x, fm_tensor **y);

/* qkv [B, S, (H + 2 KV) dh] against everything in the cache and itself -> [B, S, H dh] */
fm_status fm_gpt_attend_cached(fm_gpt *m, int64_t layer, fm_tensor *qkv, fm_kv_cache *cache,
                               fm_tensor **y);

#endif
