/* A few numbers that all ranks have to agree on, for the package's own loops. */
#include "pyembed/module.h"
#include "pyembed/options.h"

#include "parallel/agree.h"

typedef struct agree_args {
    PyObject *values;
    int op;
} agree_args;
static const fm_option rows[] = {
    {"values", offsetof(agree_args, values), FM_OPT_OBJECT, 0, 0, 0, NULL, NULL,
     "at most 8 numbers; the same count on every rank", "Sequence[float]"},
    {"op", offsetof(agree_args, op), FM_OPT_CHOICE, 0, 0, 0, "sum|max", "'sum'",
     "over the ranks, in their order", NULL},
    {NULL, 0, 0, 0, 0, 0, NULL, NULL, NULL, NULL},
};
static const fm_options options = {
    "agree", rows, 2, "Sums or maxima over all ranks, the same bits on each; all ranks together."};

static bool read_values(PyObject *o, double *x, int *n) {
    PyObject *seq = PySequence_Fast(o, "agree: values is a sequence of numbers");
    if (!seq) return false;
    *n = (int)PySequence_Fast_GET_SIZE(seq);
    bool ok = *n <= FM_AGREE_MAX;
    for (int i = 0; ok && i < *n; i++) {
        x[i] = PyFloat_AsDouble(PySequence_Fast_GET_ITEM(seq, i));
        ok = !PyErr_Occurred();
    }
    Py_DECREF(seq);
    if (!ok && !PyErr_Occurred())
        PyErr_Format(PyExc_ValueError, "agree: values has %d numbers: at most %d are allowed", *n,
                     FM_AGREE_MAX);
    return ok;
}

static PyObject *agree(PyObject *module, PyObject *const *args, Py_ssize_t nargs, PyObject *names) {
    (void)module;
    agree_args a;
    double x[FM_AGREE_MAX];
    fm_reduce ops[FM_AGREE_MAX];
    int n;
    fm_call c;
    if (!fm_options_parse_fast(&options, args, nargs, names, &a) || !read_values(a.values, x, &n) ||
        !fm_call_begin(&c))
        return NULL;
    for (int i = 0; i < n; i++) ops[i] = a.op == 0 ? FM_SUM : FM_MAX;
    if (!fm_call_end(&c, fm_agree(fm_the_host.world, c.ctx, ops, x, n))) return NULL;
    PyObject *list = PyList_New(n);
    for (int i = 0; list && i < n; i++) {
        PyObject *number = PyFloat_FromDouble(x[i]);
        if (!number)
            Py_CLEAR(list);
        else
            PyList_SET_ITEM(list, i, number);
    }
    return list;
}

static const fm_function functions[] = {{&options, agree}, {NULL, NULL}};

int fm_add_agree(PyObject *module) { return fm_add_functions(module, functions); }
