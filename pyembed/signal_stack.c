/* Where signal handlers run.
 *
 * oneDNN's sgemm kernels for AVX-512 use the stack pointer as a register: while they compute it
 * points into a buffer on the heap, and a handler would write its frame (some KiB) over what lies
 * below that buffer. Ctrl-C then breaks the heap or, worse, the weights that are saved a moment
 * later. With a stack of their own the handlers touch nothing; Python's ask for it (SA_ONSTACK), and
 * ours do. */
#include "pyembed/host.h"

#include <omp.h>
#include <pthread.h>
#include <signal.h>

/* A frame with all of AVX-512 and AMX is 11 KiB. */
static char stack[128 << 10];

void fm_host_signal_stack(void) {
    stack_t before, ours = {.ss_sp = stack, .ss_size = sizeof stack};
    /* A sanitizer has one of its own. */
    if (sigaltstack(NULL, &before) == 0 && (before.ss_flags & SS_DISABLE)) sigaltstack(&ours, NULL);
}

/* OpenMP's threads have no such stack: signals are the main thread's. */
void fm_host_shield_workers(void) {
    sigset_t outside;
    sigfillset(&outside);
    static const int own[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT, SIGTRAP, SIGSYS};
    for (size_t i = 0; i < sizeof own / sizeof *own; i++) sigdelset(&outside, own[i]);
#pragma omp parallel
    if (omp_get_thread_num() > 0) pthread_sigmask(SIG_BLOCK, &outside, NULL);
}
