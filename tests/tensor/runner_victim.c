/* Cases for the test of the runner: one that passes, one that fails, one skips, one hangs, one
 * crashes. */
#include "tests/tensor/runner.h"

#include <stdlib.h>
#include <unistd.h>

static void passes(test *t) { EXPECT(t, 1 + 1 == 2, "arithmetic fails"); }
static void fails(test *t) { EXPECT(t, t->label[0] == '?', "the label is %s", t->label); }
static void skips(test *t) { test_skip(t, "no such thing here"); }
static void lacks(test *t) { test_lack(t, "a slot", "is not there"); }
static void hangs(test *t) {
    while (t->limit) usleep(10000);
}

static void crashes(test *t) {
    if (t->limit) abort();
}

static const test_case cases[] = {{"pass", passes},  {"fail", fails},  {"skip", skips},
                                  {"hang", hangs},   {"lack1", lacks}, {"lack2", lacks},
                                  {"crash", crashes}};

int main(int argc, char **argv) {
    test t;
    test_init(&t, argc, argv);
    test_run(&t, cases, sizeof cases / sizeof *cases);
    return test_finish(&t);
}
