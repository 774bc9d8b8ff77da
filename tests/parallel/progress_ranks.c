/* What is under way moves on while the ranks compute: by the thread, and by nothing else. */
#include "tensor/seconds.h"
#include "tests/parallel/ranks.h"

#include <signal.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

/* A sum of 4 MiB takes several rounds of messages, each begun by a call of MPI after the one before. */
enum { N = 1 << 20 };

/* The sum is there: seen in memory, without any call of the communicator. */
static bool is_there(const volatile float *y, float sum) {
    for (int i = 0; i < N; i++)
        if (y[i] != sum) return false;
    return true;
}

static void complete_without_calls(test *t) {
    const double generous = 40, idle = 0.3;
    fm_comm *c = ranks_world();
    float *y = malloc(N * sizeof *y);
    EXPECT(t, y, "no memory");
    for (int i = 0; i < N; i++) y[i] = 1;
    fm_collective w = {.kind = FM_ALL_REDUCE, .dt = FM_F32, .y = y, .n = N};
    fm_request r;
    EXPECT_OK(t, fm_comm_start(c, t->ctx, &w, &r));
    double limit = fm_seconds() + (ranks_threaded() ? generous : idle);
    bool complete = false;
    while (!complete && fm_seconds() < limit) {
        nanosleep(&(struct timespec){.tv_nsec = 5000000}, NULL);
        complete = is_there(y, (float)c->size);
    }
    EXPECT_OK(t, fm_comm_wait(&r, t->ctx));
    EXPECT(t, is_there(y, (float)c->size), "the sum");
    free(y);
    if (ranks_threaded())
        EXPECT(t, complete, "not complete after %g s without a call", generous);
    else if (complete)
        test_skip(t, "this MPI moves on by itself: the thread's test does not show the thread");
}

/* Neither the thread nor those of MPI itself take the program's signals, which would not interrupt what
 * the main thread waits for: while that one blocks a signal, it stays pending. */
static void signals_are_the_main_threads(test *t) {
    sigset_t one, was, pending;
    sigemptyset(&one);
    sigaddset(&one, SIGWINCH);
    pthread_sigmask(SIG_BLOCK, &one, &was);
    kill(getpid(), SIGWINCH);
    nanosleep(&(struct timespec){.tv_nsec = 20000000}, NULL);
    sigpending(&pending);
    EXPECT(t, sigismember(&pending, SIGWINCH) == 1, "another thread took it");
    sigtimedwait(&one, NULL, &(struct timespec){0});
    pthread_sigmask(SIG_SETMASK, &was, NULL);
}

static const test_case cases[] = {
    {"complete_without_calls", complete_without_calls},
    {"signals_are_the_main_threads", signals_are_the_main_threads},
};
RANKS_PROGRAM(cases)
