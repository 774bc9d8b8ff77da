/* What all ranks have to agree on, for the package's own loops: a few numbers, a text. */
#include "pyembed/module.h"
#include "pyembed/options.h"

#include "parallel/agree.h"

#include <stdlib.h>
#include <string.h>

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

typedef struct text_args {
    const char *text;
    int root;
} text_args;
static const fm_option text_rows[] = {
    {"text", offsetof(text_args, text), FM_OPT_TEXT_OR_NONE, 0, 0, 0, NULL, NULL,
     "of rank `root`; the others' counts for nothing", NULL},
    {"root", offsetof(text_args, root), FM_OPT_INT32, 0, 1 << 24, 0, NULL, "0", "whose it is",
     NULL},
    {NULL, 0, 0, 0, 0, 0, NULL, NULL, NULL, NULL},
};
static const fm_options text_options = {"broadcast_text", text_rows, 2,
                                        "Rank root's text, on all ranks, which call it together."};

/* *out: malloc'ed, but after FM_ERR_COMM, when messages may still be written there. */
static fm_status broadcast(fm_ctx *ctx, const text_args *a, char **out) {
    fm_comm *world = fm_the_host.world;
    FM_CHECK(a->root < world->size, FM_ERR_VALUE,
             "broadcast_text: root is %d; the ranks are 0 to %d", a->root, world->size - 1);
    const char *mine = world->rank == a->root ? a->text : "";
    FM_CHECK(mine, FM_ERR_VALUE, "broadcast_text: text is None on rank %d, whose it is", a->root);
    static int64_t n; /* not on the stack: after a failure it may still be written */
    n = (int64_t)strlen(mine);
    FM_TRY(fm_broadcast_now(world, ctx, FM_I64, &n, 1, a->root));
    int64_t words = n / 4 + 1; /* with a 0 behind it */
    *out = calloc((size_t)words, 4);
    FM_CHECK(*out, FM_ERR_OOM, "out of memory: a text of %lld bytes", (long long)n);
    memcpy(*out, mine, strlen(mine));
    fm_status s = fm_broadcast_now(world, ctx, FM_I32, *out, words, a->root);
    if (s != FM_OK) *out = NULL;
    return s;
}

static PyObject *broadcast_text(PyObject *module, PyObject *const *args, Py_ssize_t n,
                                PyObject *names) {
    (void)module;
    text_args a;
    if (!fm_options_parse_fast(&text_options, args, n, names, &a)) return NULL;
    if (fm_the_host.world_size == 1 && a.text && a.root == 0) return PyUnicode_FromString(a.text);
    char *text = NULL;
    fm_call c;
    if (!fm_call_begin(&c)) return NULL;
    bool good = fm_call_end(&c, broadcast(c.ctx, &a, &text));
    PyObject *result = good ? PyUnicode_FromString(text) : NULL;
    free(text);
    return result;
}

static const fm_function functions[] = {
    {&options, agree}, {&text_options, broadcast_text}, {NULL, NULL}};

int fm_add_agree(PyObject *module) { return fm_add_functions(module, functions); }
