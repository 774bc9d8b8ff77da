#include "pyembed/interrupt.h"

#include <Python.h>
#include <signal.h>

/* A handler can reach nothing but globals. */
static volatile bool interrupted;
static struct sigaction before;

static void handle(int signal) {
    interrupted = true;
    if (before.sa_handler != SIG_DFL && before.sa_handler != SIG_IGN) before.sa_handler(signal);
}

const volatile bool *fm_interrupt_begin(void) {
    interrupted = false;
    struct sigaction ours = {.sa_handler = handle};
    sigemptyset(&ours.sa_mask);
    if (sigaction(SIGINT, NULL, &before) == 0 && before.sa_handler != handle &&
        !(before.sa_flags & SA_SIGINFO))
        sigaction(SIGINT, &ours, NULL);
    return &interrupted;
}

void fm_interrupt_end(void) {
    struct sigaction now;
    if (sigaction(SIGINT, NULL, &now) == 0 && now.sa_handler == handle)
        sigaction(SIGINT, &before, NULL);
}

void fm_interrupt_raise(void) {
    PyErr_Clear();
    if (PyErr_CheckSignals() == 0) PyErr_SetNone(PyExc_KeyboardInterrupt);
}
