/* train [options] script.py args: an embedded CPython with the built-in module _fmoe. */
#include "pyembed/host.h"
#include "pyembed/info.h"
#include "pyembed/module.h"
#include "pyembed/sanitize.h"

#include <host_python.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char usage[] =
    "usage: train [--device auto|cpu|cuda[:N]] SCRIPT.py [ARGS...]\n"
    "       train [--device ...] -c CODE [ARGS...]\n"
    "       train [--device ...] -m MODULE [ARGS...]\n"
    "       train [--device ...] -  (the script is read from standard input)\n"
    "       train --dry-run [--world-size N] [--rank R] SCRIPT.py [ARGS...]\n"
    "       train --version | --info | --help\n"
    "\n"
    "Runs a Python script in which `import fmoe` works.\n"
    "\n"
    "  --device    auto (default): a GPU where there is one, else the CPU\n"
    "  --dry-run   what rank R (0) of N (1) would hold and send in a step; nothing is computed\n"
    "  --info      device, libraries and Python found, and what is missing and why\n"
    "\n"
    "Under Bazel:  bazel run //:train -- SCRIPT.py ARGS\n"
    "Many ranks:   mpirun -n N train SCRIPT.py ARGS   (or srun)\n"
    "Threads are the machine's cores by the ranks on it, or OMP_NUM_THREADS.\n";

/* What to run: exactly one of file, code, module. */
typedef struct command {
    const char *device;
    const char *file, *code, *module;
    int argc; /* sys.argv */
    char **argv;
} command;

static int misuse(const char *what, const char *seen) {
    fprintf(stderr, "train: %s%s%s\n%s", what, seen ? ": " : "", seen ? seen : "", usage);
    return 2;
}

/* The number behind options[*i], which then stands on it; -1: there is none. */
static int take_number(int argc, char **argv, int *i, int low, int high) {
    if (*i + 1 >= argc) return -1;
    char *end;
    long n = strtol(argv[++*i], &end, 10);
    return *end || end == argv[*i] || n < low || n > high ? -1 : (int)n;
}

/* Options of a dry run: 0: that was one; 1: it is none; 2: it is wrong. */
static int read_plan(int argc, char **argv, int *i) {
    fm_host *h = &fm_the_host;
    const char *a = argv[*i];
    if (!strcmp(a, "--dry-run"))
        h->dry_run = true;
    else if (!strcmp(a, "--world-size"))
        h->world_size = take_number(argc, argv, i, 1, 1 << 20);
    else if (!strcmp(a, "--rank"))
        h->rank = take_number(argc, argv, i, 0, 1 << 20);
    else
        return 1;
    return h->world_size < 0 || h->rank < 0 ? misuse("a number is wanted behind", a) : 0;
}

/* -1: they go together. */
static int check_plan(void) {
    const fm_host *h = &fm_the_host;
    if (!h->dry_run && (h->world_size > 1 || h->rank > 0))
        return misuse("--world-size and --rank are for --dry-run; mpirun -n N starts ranks", NULL);
    if (h->rank >= h->world_size) return misuse("--rank must be below --world-size", NULL);
    return -1;
}

/* -1: run `c`. Otherwise an exit status. */
static int read_command(int argc, char **argv, command *c) {
    int i = 1, plan;
    bool info = false;
    for (; i < argc && argv[i][0] == '-' && argv[i][1]; i++) {
        const char *a = argv[i];
        if (!strcmp(a, "--device") || !strncmp(a, "--device=", 9)) {
            if (a[8] == '=')
                c->device = a + 9;
            else if (i + 1 < argc)
                c->device = argv[++i];
            else
                return misuse("--device wants auto, cpu or cuda", NULL);
        } else if ((plan = read_plan(argc, argv, &i)) != 1) {
            if (plan) return plan;
        } else if (!strcmp(a, "--version") || !strcmp(a, "-V")) {
            return fm_print_version();
        } else if (!strcmp(a, "--info")) {
            info = true;
        } else if (!strcmp(a, "--help") || !strcmp(a, "-h")) {
            fputs(usage, stdout);
            return 0;
        } else if (!strcmp(a, "-c") || !strcmp(a, "-m")) {
            if (i + 1 >= argc)
                return misuse(a[1] == 'c' ? "-c wants code" : "-m wants a module", NULL);
            *(a[1] == 'c' ? &c->code : &c->module) = argv[i + 1];
            /* As python does: sys.argv[0] is the option, and runpy puts the module's path there. */
            argv[i + 1] = argv[i];
            c->argc = argc - i - 1;
            c->argv = argv + i + 1;
            return check_plan();
        } else {
            return misuse("unknown option", a);
        }
    }
    if (info) {
        int status = fm_host_start(c->device);
        return fm_host_end(status ? status : fm_print_info());
    }
    if (i >= argc) return misuse("no script given", NULL);
    c->file = strcmp(argv[i], "-") ? argv[i] : NULL; /* "-": Python reads its standard input */
    c->argc = argc - i;
    c->argv = argv + i;
    return check_plan();
}

static int python_failed(const PyStatus *s) {
    if (PyStatus_IsExit(*s)) return s->exitcode;
    fprintf(stderr, "train: Python did not start: %s: %s\n", s->func ? s->func : "?",
            s->err_msg ? s->err_msg : "failed");
    return 1;
}

static int python_out_of_memory(void) {
    fprintf(stderr, "train: no memory for the module _fmoe\n");
    return 1;
}

/* The interpreter that this was built with, or the active virtual environment's, which must be of
 * the same version: its packages are compiled for it. */
static const char *python_executable(char *buf, size_t n) {
    const char *venv = getenv("VIRTUAL_ENV");
    if (!venv || !*venv) return FM_PYTHON_EXECUTABLE;
    char packages[PATH_MAX];
    snprintf(packages, sizeof packages, "%s/lib/python%d.%d/site-packages", venv, PY_MAJOR_VERSION,
             PY_MINOR_VERSION);
    if (access(packages, R_OK) != 0) {
        fprintf(stderr,
                "train: the virtual environment %s is not used: it is not of Python %d.%d\n", venv,
                PY_MAJOR_VERSION, PY_MINOR_VERSION);
        return FM_PYTHON_EXECUTABLE;
    }
    snprintf(buf, n, "%s/bin/python3", venv);
    return access(buf, X_OK) == 0 ? buf : FM_PYTHON_EXECUTABLE;
}

static PyStatus set_text(PyConfig *c, wchar_t **field, const char *text) {
    return text ? PyConfig_SetBytesString(c, field, text) : PyStatus_Ok();
}

static PyStatus configure(PyConfig *c, const command *cmd) {
    char venv[PATH_MAX], dir[3 * PATH_MAX], path[5 * PATH_MAX], *code = NULL;
    const char *exe = python_executable(venv, sizeof venv);
    c->parse_argv = 0; /* the script's arguments are not Python's */
    const char *import_path = getenv("PYTHONPATH");
    if (fm_package_dir(dir, sizeof dir) == 0) {
        bool more = import_path && *import_path;
        snprintf(path, sizeof path, "%s%s%s", dir, more ? ":" : "", more ? import_path : "");
        import_path = path;
    }
    if (cmd->code && asprintf(&code, "%s\n", cmd->code) < 0) return PyStatus_NoMemory();
    PyStatus s = set_text(c, &c->executable, exe);
    if (!PyStatus_Exception(s)) s = set_text(c, &c->program_name, exe);
    if (!PyStatus_Exception(s)) s = set_text(c, &c->pythonpath_env, import_path);
    if (!PyStatus_Exception(s)) s = set_text(c, &c->run_filename, cmd->file);
    if (!PyStatus_Exception(s)) s = set_text(c, &c->run_module, cmd->module);
    if (!PyStatus_Exception(s)) s = set_text(c, &c->run_command, code);
    if (!PyStatus_Exception(s)) s = PyConfig_SetBytesArgv(c, cmd->argc, cmd->argv);
    free(code);
    return s;
}

static int run_python(const command *cmd) {
    PyPreConfig pre;
    PyPreConfig_InitPythonConfig(&pre);
    pre.utf8_mode = 1;
    pre.parse_argv = 0;
    PyStatus s = Py_PreInitialize(&pre);
    if (PyStatus_Exception(s)) return python_failed(&s);
    fm_sanitize_python();
    if (PyImport_AppendInittab("_fmoe", PyInit__fmoe) < 0) {
        return python_out_of_memory();
    }
    PyConfig c;
    PyConfig_InitPythonConfig(&c);
    s = configure(&c, cmd);
    if (!PyStatus_Exception(s)) s = Py_InitializeFromConfig(&c);
    PyConfig_Clear(&c);
    if (PyStatus_Exception(s)) return python_failed(&s);
    if (fm_report_failures() < 0) return python_out_of_memory();
    return Py_RunMain(); /* runs the script, ends the interpreter, gives the exit status */
}

int main(int argc, char **argv) {
    fm_host_limit_spinning(argv);
    fm_host_signal_stack();
    /* bazel run starts us in the runfiles; go where the user stood. */
    const char *cwd = getenv("BUILD_WORKING_DIRECTORY");
    if (cwd && chdir(cwd) == 0) unsetenv("BUILD_WORKING_DIRECTORY");
    command cmd = {.device = "auto"};
    int status = read_command(argc, argv, &cmd);
    if (status >= 0) return status;
    status = fm_host_start(cmd.device);
    if (status != 0) return status;
    /* A device that was named is tried now: a script that runs for a while first would fail late. */
    if (strcmp(cmd.device, "auto") != 0) {
        fm_error err = {0};
        if (fm_host_open(&err) != FM_OK) {
            fprintf(stderr, "train: --device %s: %s\n", cmd.device, err.message);
            return fm_host_end(1);
        }
    }
    return fm_host_end(run_python(&cmd));
}
