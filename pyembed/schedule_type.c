#include "pyembed/optim_type.h"
#include "pyembed/options.h"

#include <math.h>

#define ROW(name) #name, offsetof(fm_schedule, name)
static const fm_option rows[] = {
    {ROW(kind), FM_OPT_CHOICE, 0, 0, 0, "constant|linear|cosine|wsd|inverse_sqrt", NULL,
     "what follows the warmup", NULL},
    {ROW(warmup), FM_OPT_INT, 0, 1e15, 0, NULL, "0", "steps in which the factor rises to 1", NULL},
    {ROW(total), FM_OPT_INT, 0, 1e15, 0, NULL, "0", "step at which `final` is reached", NULL},
    {ROW(decay), FM_OPT_INT, 0, 1e15, 0, NULL, "0", "wsd: the last steps, in which it falls", NULL},
    {ROW(final), FM_OPT_FLOAT, 0, 1, 0, NULL, "0.0", "factor at the end", NULL},
    {ROW(offset), FM_OPT_BOOL, 0, 0, 0, NULL, "True",
     "the decay starts after the warmup; False: at step 0", NULL},
    {NULL, 0, 0, 0, 0, 0, NULL, NULL, NULL, NULL},
};
#undef ROW
static const fm_options options = {
    "Schedule", rows, 1,
    "A factor on the learning rate for each step, counted from 1; made by fmoe.cosine and its "
    "like.\n\n"
    "  step <= warmup  step / warmup\n"
    "  then, with t = (step - w) / (total - w), w = warmup (offset) or 0, and `final` beyond "
    "total:\n"
    "  constant        1\n"
    "  linear          1 + (final - 1) t\n"
    "  cosine          final + (1 - final) (1 + cos(pi t)) / 2\n"
    "  wsd             1 until the last `decay` steps, then linear to final\n"
    "  inverse_sqrt    sqrt(max(warmup, 1) / step)"};

static PyObject *new (PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    fm_schedule schedule = {0};
    fm_call c;
    if (!fm_options_parse(&options, args, kwargs, &schedule) || !fm_call_begin(&c)) return NULL;
    fm_status s = fm_schedule_check(c.ctx, &schedule);
    if (!fm_call_end(&c, s)) return NULL;
    fm_py_schedule *self = (fm_py_schedule *)type->tp_alloc(type, 0);
    if (self) self->schedule = schedule;
    return (PyObject *)self;
}

static PyObject *call(PyObject *o, PyObject *args, PyObject *kwargs) {
    static char *names[] = {"step", NULL};
    long long step;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "L", names, &step)) return NULL;
    if (step < 1)
        return PyErr_Format(PyExc_ValueError, "Schedule: step=%lld is not allowed: 1 or more is",
                            step);
    return PyFloat_FromDouble(fm_schedule_factor(&((fm_py_schedule *)o)->schedule, step));
}

PyTypeObject fm_schedule_type = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "fmoe.Schedule",
    .tp_basicsize = sizeof(fm_py_schedule),
    .tp_flags = Py_TPFLAGS_DEFAULT,
    .tp_new = new,
    .tp_call = call,
};

int fm_add_schedule(PyObject *module) {
    fm_schedule_type.tp_doc = fm_options_doc(&options);
    fm_schedule_type.tp_getset = fm_options_getset(&options, offsetof(fm_py_schedule, schedule),
                                                   NULL);
    if (!fm_schedule_type.tp_doc || !fm_schedule_type.tp_getset) return -1;
    return fm_add_type(module, &fm_schedule_type);
}
