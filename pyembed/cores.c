/* How many threads a rank gets: the cores that it may use, shared with the node's other ranks. */
#include "pyembed/cores.h"

#include <omp.h>
#include <stdio.h>
#include <stdlib.h>

bool fm_cores_allowed(cpu_set_t *set) { return sched_getaffinity(0, sizeof *set, set) == 0; }

/* Hyper-threads of one core share its multipliers: only the first of each core counts. */
static bool counts(int cpu, const cpu_set_t *set) {
    if (!CPU_ISSET(cpu, set)) return false;
    char path[96];
    snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu%d/topology/thread_siblings_list", cpu);
    FILE *f = fopen(path, "re");
    int first = cpu;
    if (f) {
        char text[64], *end;
        long number = fgets(text, sizeof text, f) ? strtol(text, &end, 10) : -1;
        if (number >= 0 && number < CPU_SETSIZE && end != text) first = (int)number;
        fclose(f);
    }
    /* Where the first sibling is not ours, this one stands for the core. */
    return !(first < cpu && CPU_ISSET(first, set));
}

int fm_host_cores(void) {
    cpu_set_t set;
    if (!fm_cores_allowed(&set)) return omp_get_num_procs();
    return fm_cores_share(&set, &set, 1);
}

int fm_cores_share(const cpu_set_t *own, const cpu_set_t *all, int n) {
    double share = 0;
    for (int cpu = 0; cpu < CPU_SETSIZE; cpu++) {
        if (!counts(cpu, own)) continue;
        int ranks = 0;
        for (int r = 0; r < n; r++) ranks += CPU_ISSET(cpu, &all[r]) != 0;
        share += 1.0 / (ranks > 0 ? ranks : 1);
    }
    const double rounding = 1e-6;
    return share >= 1 ? (int)(share + rounding) : 1;
}
