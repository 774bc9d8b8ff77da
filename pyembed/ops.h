/* What the files of operations share: one structure that every operation's table fills a part of.
 */
#ifndef FM_PYEMBED_OPS_H
#define FM_PYEMBED_OPS_H
#include "pyembed/options.h"
#include "pyembed/tensor_type.h"
#include "tensor/ops.h"

#include <math.h>

typedef struct fm_op_args {
    fm_tensor *x, *y, *w, *b, *c, *ids;
    PyObject *object, *shape;
    const char *text;
    int64_t i, j, k;
    double p;
    int choice;
    bool flag;
} fm_op_args;

/* Rows of an operation's table. */
#define FM_ARG(name, field, kind, initial, doc)                                                    \
    { name, offsetof(fm_op_args, field), kind, 0, 0, 0, NULL, initial, doc, NULL }
#define FM_ARG_RANGE(name, field, kind, low, high, open, initial, doc)                             \
    { name, offsetof(fm_op_args, field), kind, low, high, open, NULL, initial, doc, NULL }
#define FM_ARG_CHOICE(name, choices, initial, doc)                                                 \
    { name, offsetof(fm_op_args, choice), FM_OPT_CHOICE, 0, 0, 0, choices, initial, doc, NULL }
#define FM_ARG_OBJECT(name, field, type, initial, doc)                                             \
    { name, offsetof(fm_op_args, field), FM_OPT_OBJECT, 0, 0, 0, NULL, initial, doc, type }
#define FM_ARGS_END                                                                                \
    { NULL, 0, FM_OPT_INT, 0, 0, 0, NULL, NULL, NULL, NULL }

#define FM_ACT_CHOICE(name, text) text "|"
#define FM_ACT_CHOICES FM_ACT_MAP(FM_ACT_CHOICE)

/* A function of one result: `expression` is an fm_status that sets y from a and c.ctx. */
#define FM_OP(name, options, expression)                                                           \
    static PyObject *name(PyObject *module, PyObject *const *args, Py_ssize_t n,                   \
                          PyObject *names) {                                                       \
        (void)module;                                                                              \
        fm_op_args a;                                                                              \
        fm_call c;                                                                                 \
        fm_tensor *y = NULL;                                                                       \
        if (!fm_options_parse_fast(&options, args, n, names, &a) || !fm_call_begin(&c))            \
            return NULL;                                                                           \
        fm_status s = expression;                                                                  \
        return fm_call_end(&c, s) ? fm_py_tensor_new(y) : NULL;                                    \
    }

/* int32 of int32 or int64; a new reference. FM_ERR_RANGE names `what` and the first element that
 * does not fit, so that no id is another one's by chance. */
fm_status fm_as_int32(fm_ctx *ctx, fm_tensor *t, const char *what, fm_tensor **out);

/* Sizes out of a sequence of ints; at least `low` each. `what` begins errors. */
bool fm_py_sizes(PyObject *o, const char *what, int64_t low, int max, int *n, int64_t *sizes);

#endif
