#include "pyembed/interrupt.h"

#include <Python.h>
#include <signal.h>

/* A handler can reach nothing but globals. */
static volatile bool signalled;
static struct sigaction before;

static void handle(int signal) {
    signalled = true;
    before.sa_handler(signal);
}

static void install(void) {
    struct sigaction now, ours = {.sa_handler = handle, .sa_flags = SA_ONSTACK};
    sigemptyset(&ours.sa_mask);
    if (sigaction(SIGINT, NULL, &now) != 0 || now.sa_handler == handle ||
        (now.sa_flags & SA_SIGINFO))
        return;
    if (now.sa_handler == SIG_DFL || now.sa_handler == SIG_IGN) return; /* the system's own way */
    before = now;
    sigaction(SIGINT, &ours, NULL);
}

void fm_interrupt_begin(void) {
    signalled = false;
    install();
}

void fm_interrupt_end(void) {
    struct sigaction now;
    if (sigaction(SIGINT, NULL, &now) == 0 && now.sa_handler == handle)
        sigaction(SIGINT, &before, NULL);
}

bool fm_interrupted(void) {
    if (!signalled) return false;
    signalled = false;
    PyGILState_STATE gil = PyGILState_Ensure();
    bool raised = PyErr_CheckSignals() < 0;
    PyGILState_Release(gil);
    install(); /* the script's handler may have set another: a second Ctrl-C is to be seen as well */
    return raised;
}
