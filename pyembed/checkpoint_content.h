/* What a checkpoint of a model and its optimiser holds: a list of named arrays. */
#ifndef FM_PYEMBED_CHECKPOINT_CONTENT_H
#define FM_PYEMBED_CHECKPOINT_CONTENT_H
#include "io/checkpoint.h"
#include "pyembed/optim_type.h"

typedef struct fm_py_content {
    fm_ckpt_array *arrays; /* malloc'ed; they point into the parameters' sets */
    int n;
} fm_py_content;

/* Masters under their names, and the moments of those that `optim` (may be NULL) trains:
 * adamw.m/NAME, adamw.v/NAME, sgd.m/NAME. parameters: [(name, Parameter)]. False with an exception
 * set; free(k->arrays) in any case. */
bool fm_py_content_collect(PyObject *parameters, const fm_optim *optim, fm_py_content *k);

/* The optimiser of None or an fmoe.Optimizer; false with an exception that begins with `what`. */
bool fm_py_optim_of(PyObject *o, const char *what, fm_optim **out);

int fm_add_checkpoint_reader(PyObject *module);

#endif
