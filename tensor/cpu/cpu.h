/* The CPU backend for those who want a certain instruction set; fm_cpu_open (tensor/backend.h)
 * takes the best that the processor has. */
#ifndef FM_TENSOR_CPU_CPU_H
#define FM_TENSOR_CPU_CPU_H
#include "tensor/backend.h"

enum { FM_CPU_MAX_ISAS = 3 };

/* The instruction sets that this build has and this processor runs, worst first: "v2", "v3", "v4"
 * (x86-64-v2 ...), or "generic" where the processor is no x86-64. Returns how many. */
int fm_cpu_isas(const char *names[FM_CPU_MAX_ISAS]);

/* Like fm_cpu_open with the kernels of `isa`. FM_ERR_VALUE: no such name; FM_ERR_UNSUPPORTED: the
 * processor cannot run it. Close with fm_cpu_close. */
fm_status fm_cpu_open_isa(const char *isa, fm_error *err, fm_device **out);

#endif
