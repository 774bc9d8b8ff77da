/* What AdamW(...) and SGD(...) take. */
#ifndef FM_PYEMBED_OPTIM_ARGS_H
#define FM_PYEMBED_OPTIM_ARGS_H
#include "model/optim.h"
#include "pyembed/options.h"

typedef struct fm_optim_args {
    PyObject *model, *betas, *schedule;
    fm_optim_config config;
} fm_optim_args;

extern const fm_options fm_adamw_options, fm_sgd_options;

/* Fills `a` from a call's arguments; false with an exception set. */
bool fm_optim_args_read(const fm_options *o, PyObject *args, PyObject *kwargs, fm_optim_args *a);

#endif
