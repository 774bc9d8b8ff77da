#ifndef FM_PYEMBED_CORES_H
#define FM_PYEMBED_CORES_H
#include <sched.h>
#include <stdbool.h>

/* Processors that this process may use; false: the system does not say. */
bool fm_cores_allowed(cpu_set_t *set);

/* Cores that this process may use. */
int fm_host_cores(void);

/* This rank's part of the cores of `own`, at least 1: each core is shared by those of the node's n ranks that
 * may use it (all[n], own among them). Ranks that a launcher bound to cores of their own have those. */
int fm_cores_share(const cpu_set_t *own, const cpu_set_t *all, int n);

#endif
