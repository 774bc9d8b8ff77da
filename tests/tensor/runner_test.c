/* The runner tells a pass, a failure, a skip and a hang apart. Runs runner_victim; its path is the
 * first argument. */
#include "tests/tensor/runner.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>

static const char *victim;

/* Output and exit status of the victim. */
static int run(const char *arguments, char *output, size_t n) {
    char command[512];
    snprintf(command, sizeof command, "'%s' %s 2>&1", victim, arguments);
    FILE *pipe = popen(command, "r");
    if (!pipe) return -1;
    size_t got = fread(output, 1, n - 1, pipe);
    output[got] = 0;
    int status = pclose(pipe);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static const char *last_line(char *output) {
    size_t n = strlen(output);
    if (n && output[n - 1] == '\n') output[n - 1] = 0;
    char *line = strrchr(output, '\n');
    return line ? line + 1 : output;
}

static void check(test *t, const char *arguments, int status, const char *contains,
                  const char *summary) {
    char output[4096];
    int got = run(arguments, output, sizeof output);
    EXPECT(t, got == status, "%s: exit status %d; wanted %d: %s", arguments, got, status, output);
    EXPECT(t, strstr(output, contains), "%s: '%s' is not in: %s", arguments, contains, output);
    const char *last = last_line(output);
    EXPECT(t, strcmp(last, summary) == 0, "%s: the last line is '%s'", arguments, last);
}

static void pass(test *t) { check(t, "--only pass", 0, "", "1 passed, 0 failed, 0 skipped"); }
static void fail(test *t) {
    check(t, "--only fail", 1, "runner_victim --only 'fail'", "0 passed, 1 failed, 0 skipped");
    check(t, "--only fail", 1, "the label is fail", "0 passed, 1 failed, 0 skipped");
}
static void skip(test *t) {
    check(t, "--only skip", 0, "SKIP: no such thing here", "0 passed, 0 failed, 1 skipped");
}
static void lack(test *t) {
    check(t, "--only lack", 0, "SKIP: is not there (a slot: 2 cases)",
          "0 passed, 0 failed, 1 skipped");
    check(t, "--only lack2", 0, "(a slot: 1 case)", "0 passed, 0 failed, 1 skipped");
}
static void hang(test *t) {
    check(t, "--only hang --limit 1", 1, "the time limit", "0 passed, 1 failed, 0 skipped");
    check(t, "--limit 1", 1, "FAILED", "1 passed, 2 failed, 1 skipped");
}
static void crash(test *t) {
    char output[4096];
    run("--only crash", output, sizeof output);
    EXPECT(t, strstr(output, "crash"), "nothing about the crash: %s", output);
    EXPECT(t, run("--only crash", output, sizeof output) != 0, "a crash passes");
}
static void no_such_label(test *t) {
    check(t, "--only nothing", 1, "no case has the label", "0 passed, 1 failed, 0 skipped");
}
static void list(test *t) { check(t, "--list", 0, "pass\nfail\nskip\nhang\n", "crash"); }
static void arguments(test *t) {
    char output[4096];
    EXPECT(t, run("--color blue", output, sizeof output) == 2, "an unknown argument is taken");
    EXPECT(t, run("--only", output, sizeof output) == 2, "a missing value is taken");
}

static const test_case cases[] = {{"pass", pass},
                                  {"fail", fail},
                                  {"skip", skip},
                                  {"lack", lack},
                                  {"hang", hang},
                                  {"crash", crash},
                                  {"no_such_label", no_such_label},
                                  {"list", list},
                                  {"arguments", arguments}};

int main(int argc, char **argv) {
    if (argc < 2) {
        fprintf(stderr, "%s: the first argument must be the path of runner_victim\n", argv[0]);
        return 2;
    }
    victim = argv[1];
    argv[1] = argv[0];
    test t;
    test_init(&t, argc - 1, argv + 1);
    test_run(&t, cases, sizeof cases / sizeof *cases);
    return test_finish(&t);
}
