/* fmoe.Parameter: a Tensor with a placement, owned by a model or by itself. */
#ifndef FM_PYEMBED_PARAMETER_TYPE_H
#define FM_PYEMBED_PARAMETER_TYPE_H
#include "parallel/param.h"
#include "pyembed/tensor_type.h"

typedef struct fm_py_parameter {
    fm_py_tensor base;
    PyObject *owner; /* of the set; NULL: this object */
    fm_param_set *set;
    fm_param *param;
} fm_py_parameter;

extern PyTypeObject fm_parameter_type;
static inline bool fm_is_parameter(PyObject *o) {
    return PyObject_TypeCheck(o, &fm_parameter_type);
}

/* One parameter of `set`, which `owner` keeps alive. */
PyObject *fm_py_parameter_new(fm_param_set *set, fm_param *param, PyObject *owner);

/* [(name, Parameter), ...] of a whole set; `skip` leading bytes of each name are left out. */
PyObject *fm_py_named_parameters(fm_param_set *set, PyObject *owner, size_t skip);

/* Calls model.named_parameters() and checks what comes: a list of (str, Parameter). `what` begins
 * errors ("AdamW: model"). */
PyObject *fm_py_parameters_of(PyObject *model, const char *what);

/* (1, 2, 3) */
PyObject *fm_py_int_tuple(int n, const int64_t *x);

/* Names for what is made in Python and has none yet: "parameter.0", "parameter.1", ... in the order
 * of creation since manual_seed; initial values are drawn by them. */
void fm_py_next_name(char *buf, size_t n, const char *kind);
void fm_py_reset_names(void);

#endif
