/* What a checkpoint of a model and its optimiser holds: a list of named arrays, and pieces of them. */
#ifndef FM_PYEMBED_CHECKPOINT_CONTENT_H
#define FM_PYEMBED_CHECKPOINT_CONTENT_H
#include "io/checkpoint.h"
#include "pyembed/optim_type.h"

typedef enum fm_py_content_for {
    FM_PY_SAVING, /* what this rank writes: of what is the same on several ranks the first has it */
    FM_PY_LOADING /* what this rank keeps */
} fm_py_content_for;

typedef struct fm_py_content {
    fm_ckpt_array *arrays; /* they point into the parameters' sets */
    struct fm_py_kept {
        fm_box *boxes; /* of a piece */
        fm_param
            *param; /* a bfloat16 weight to be loaded, which has no fp32 data: for set_values */
    } * kept;       /* [n] */
    int n, room;
} fm_py_content;

/* Masters under their names, and the moments of those that `optim` (may be NULL) trains:
 * adamw.m/NAME, adamw.v/NAME, sgd.m/NAME. parameters: [(name, Parameter)]. False with an exception
 * set; fm_py_content_free in any case. */
bool fm_py_content_collect(PyObject *parameters, const fm_optim *optim, fm_py_content_for what,
                           fm_py_content *k);
void fm_py_content_free(fm_py_content *k);

/* The optimiser of None or an fmoe.Optimizer; false with an exception that begins with `what`. */
bool fm_py_optim_of(PyObject *o, const char *what, fm_optim **out);

int fm_add_checkpoint_reader(PyObject *module);

#endif
