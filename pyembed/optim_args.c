#include "pyembed/optim_args.h"
#include "pyembed/optim_type.h"

#include <math.h>

#define ARG(name) #name, offsetof(fm_optim_args, name)
#define FIELD(name) #name, offsetof(fm_optim_args, config.name)
#define MODEL_ROW                                                                                  \
    {                                                                                              \
        ARG(model), FM_OPT_OBJECT, 0, 0, 0, NULL, NULL, "whose parameters are trained",            \
            "GPT | Module | MoELayer"                                                              \
    }
#define LR_ROW                                                                                     \
    { FIELD(lr), FM_OPT_FLOAT, 0, INFINITY, 0, NULL, NULL, "base learning rate", NULL }
#define COMMON_ROWS                                                                                \
    {FIELD(micro_batches),                                                                         \
     FM_OPT_INT,                                                                                   \
     1,                                                                                            \
     1 << 20,                                                                                      \
     0,                                                                                            \
     NULL,                                                                                         \
     "1",                                                                                          \
     "calls of backward() that make one step; gradients are their mean",                           \
     NULL},                                                                                        \
        {ARG(schedule),    FM_OPT_OBJECT, 0, 0, 0, NULL, "None", "None: lr stays as it is",        \
         "Schedule | None"},                                                                       \
    {                                                                                              \
        NULL, 0, 0, 0, 0, 0, NULL, NULL, NULL, NULL                                                \
    }

static const fm_option adamw_rows[] = {
    MODEL_ROW,
    LR_ROW,
    {ARG(betas), FM_OPT_OBJECT, 0, 0, 0, NULL, "(0.9, 0.95)", "of the two moments, each in [0, 1)",
     "tuple[float, float]"},
    {FIELD(eps), FM_OPT_FLOAT, 0, 1, FM_OPEN_LOW, NULL, "1e-08", "added to the root", NULL},
    {FIELD(weight_decay), FM_OPT_FLOAT, 0, INFINITY, 0, NULL, "0.1",
     "of linear, expert and embedding weights; not of biases and gains", NULL},
    {FIELD(clip_grad_norm), FM_OPT_FLOAT_OR_NONE, 0, INFINITY, FM_OPEN_LOW, NULL, "1.0",
     "gradients are scaled down to this norm over all parameters; None: never", NULL},
    COMMON_ROWS};
const fm_options fm_adamw_options = {
    "AdamW", adamw_rows, 1, "Adam with decoupled weight decay; float32 moments and masters."};

static const fm_option sgd_rows[] = {
    MODEL_ROW,
    LR_ROW,
    {FIELD(momentum), FM_OPT_FLOAT, 0, 1, FM_OPEN_HIGH, NULL, "0.0", "of the velocity", NULL},
    {FIELD(nesterov), FM_OPT_BOOL, 0, 0, 0, NULL, "False", "looks ahead; needs a momentum", NULL},
    {FIELD(weight_decay), FM_OPT_FLOAT, 0, INFINITY, 0, NULL, "0.0", "added to the gradient", NULL},
    {FIELD(clip_grad_norm), FM_OPT_FLOAT_OR_NONE, 0, INFINITY, FM_OPEN_LOW, NULL, "None",
     "gradients are scaled down to this norm over all parameters; None: never", NULL},
    COMMON_ROWS};
const fm_options fm_sgd_options = {"SGD", sgd_rows, 1,
                                   "Stochastic gradient descent with momentum."};

static bool read_betas(PyObject *betas, fm_optim_config *c) {
    if (!betas) return true;
    PyObject *pair = PyUnicode_Check(betas) ? NULL : PySequence_Tuple(betas);
    bool ok = pair && PyArg_ParseTuple(pair, "dd", &c->beta1, &c->beta2) && c->beta1 >= 0 &&
              c->beta1 < 1 && c->beta2 >= 0 && c->beta2 < 1;
    Py_XDECREF(pair);
    if (ok) return true;
    PyErr_Clear();
    PyErr_Format(PyExc_ValueError, "AdamW: betas=%R is not allowed: a pair of numbers in [0, 1) is",
                 betas);
    return false;
}

static bool read_schedule(const fm_options *o, PyObject *schedule, fm_optim_config *c) {
    if (!schedule || schedule == Py_None) return true;
    if (!PyObject_TypeCheck(schedule, &fm_schedule_type)) {
        PyErr_Format(PyExc_TypeError,
                     "%s: schedule=%R is of the wrong type: None or an fmoe.Schedule is wanted",
                     o->owner, schedule);
        return false;
    }
    c->schedule = ((fm_py_schedule *)schedule)->schedule;
    return true;
}

bool fm_optim_args_read(const fm_options *o, PyObject *args, PyObject *kwargs, fm_optim_args *a) {
    fm_optim_kind kind = o == &fm_adamw_options ? FM_ADAMW : FM_SGD;
    *a = (fm_optim_args){.config = fm_optim_config_default(kind, 0)};
    return fm_options_parse(o, args, kwargs, a) && read_betas(a->betas, &a->config) &&
           read_schedule(o, a->schedule, &a->config);
}
