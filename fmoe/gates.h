/* The built-in gates, one file each. To add one: write gate_<name>.c, declare it here, list it in
 * gate.c's registry. */
#ifndef FM_FMOE_GATES_H
#define FM_FMOE_GATES_H
#include "fmoe/gate.h"

extern const fm_gate fm_gate_naive, fm_gate_gshard, fm_gate_switch;

#endif
