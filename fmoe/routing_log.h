/* Routing that is written down, and followed: for comparing layouts, and for debugging.
 *
 * A recording layer notes what its gate chose in each training forward (not while text is generated, not
 * when a block is computed again). A replaying one takes its gate's choices from a log instead: scores are those of
 * this forward's logits at the choices that were recorded. Capacity drops again, by the same rules.
 */
#ifndef FM_FMOE_ROUTING_LOG_H
#define FM_FMOE_ROUTING_LOG_H
#include "fmoe/moe.h"

/* Which forward of which layer. */
typedef struct fm_routing_key {
    int layer;            /* the layer's log_layer */
    uint32_t step, micro; /* of the clock that it drew by */
    int pass;             /* its forwards under that clock before this one */
} fm_routing_key;

typedef struct fm_routing_entry {
    fm_routing_key key;
    fm_rows rows; /* which rows of the global micro-batch */
    int64_t T, k;
    int32_t *choices; /* [T, k]: e: expert e; -2 - e: e was chosen and not taken; -1: none */
} fm_routing_entry;

typedef struct fm_routing_log {
    bool replay;
    int n, room;
    fm_routing_entry *entries; /* replay: each of all rows, rows = {0} */
} fm_routing_log;

/* Copies the entry. */
fm_status fm_routing_log_add(fm_ctx *ctx, fm_routing_log *log, const fm_routing_entry *entry);
void fm_routing_log_clear(fm_routing_log *log);

/* The layer notes in, or follows, `log` (borrowed; NULL: neither) as number `layer`. */
void fm_routing_log_attach(fm_moe *m, fm_routing_log *log, int layer);

/* ---- called by fm_moe_forward */

/* Before the gate: *choices int32 [T, k] as in an entry where the layer replays, else NULL. FM_ERR_VALUE: there is
 * nothing recorded of this forward; FM_ERR_UNSUPPORTED: a gate with a router of its own. */
fm_status fm_routing_recall(fm_ctx *ctx, fm_moe *m, int64_t T, fm_tensor **choices);
/* After the gate. */
fm_status fm_routing_note(fm_ctx *ctx, fm_moe *m, const fm_gate_out *gate);

#endif
