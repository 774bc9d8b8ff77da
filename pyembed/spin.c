/* How long OpenMP's threads spin before they sleep. docs/adr/0002-spinning.md
 *
 * libgomp spins long (300,000 rounds) at the end of each parallel loop. Beside any other busy
 * process that is a disaster: the thread that is done spins on one core, while the one that still
 * has work shares the other core with the stranger. It reads its settings before main() begins, so the
 * program starts itself again with a shorter time; what it sets is gone from the environment by
 * the time a script runs. Whoever sets OMP_WAIT_POLICY or GOMP_SPINCOUNT is left alone. */
#include "pyembed/host.h"

#include <stdlib.h>
#include <unistd.h>

/* Measured in the ADR: as good as none beside other processes, 2.5 % slower than the default alone. */
#define SPIN_COUNT "1000"
#define MARK "FMOE_SPIN_COUNT_SET"

void fm_host_limit_spinning(char **argv) {
    if (getenv(MARK)) {
        unsetenv(MARK);
        unsetenv("GOMP_SPINCOUNT");
        return;
    }
    if (getenv("OMP_WAIT_POLICY") || getenv("GOMP_SPINCOUNT")) return;
    if (setenv("GOMP_SPINCOUNT", SPIN_COUNT, 1) != 0 || setenv(MARK, "1", 1) != 0) return;
    execv("/proc/self/exe", argv);
    /* No /proc: goes on as it is. */
    unsetenv(MARK);
    unsetenv("GOMP_SPINCOUNT");
}
