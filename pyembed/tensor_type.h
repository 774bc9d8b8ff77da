/* fmoe.Tensor: a Python object that holds one reference to a fm_tensor. */
#ifndef FM_PYEMBED_TENSOR_TYPE_H
#define FM_PYEMBED_TENSOR_TYPE_H
#include "pyembed/module.h"
#include "tensor/tensor.h"

typedef struct fm_py_tensor {
    PyObject_HEAD fm_tensor *t;
    fm_tensor *lm_loss; /* of a model's loss: enters the mean that step() reports */
    Py_ssize_t shape[FM_MAX_DIMS], strides[FM_MAX_DIMS]; /* of exported buffers */
} fm_py_tensor;

extern PyTypeObject fm_tensor_type;
extern PyBufferProcs fm_tensor_as_buffer;
extern PyMethodDef fm_tensor_exchange_methods[]; /* tensor_buffer.c; ends with an empty row */

bool fm_is_tensor(PyObject *o);
static inline fm_tensor *fm_tensor_of(PyObject *o) { return ((fm_py_tensor *)o)->t; }

/* Takes the reference `t`, also on an error (NULL). */
PyObject *fm_py_tensor_new(fm_tensor *t);
void fm_py_tensor_dealloc(PyObject *o);

/* fm_backward of the loss, or, where it reaches an optimiser's parameters, that optimiser's.
 * Called between fm_call_begin and fm_call_end. dloss and lm_loss may be NULL. */
fm_status fm_py_backward(fm_ctx *ctx, fm_tensor *loss, fm_tensor *dloss, fm_tensor *lm_loss);

/* ---- values from Python: tensors, buffers, (nested) sequences of numbers, numbers */
typedef struct fm_values {
    fm_dtype dtype; /* FM_F32, FM_I32 or FM_I64 */
    int ndim;
    int64_t shape[FM_MAX_DIMS], n;
    void *data; /* malloc'ed */
} fm_values;
/* `what` names the argument in errors: "copy_: array". */
bool fm_values_read(PyObject *o, const char *what, fm_values *v);
/* In place; FM_I64 -> FM_I32 with a ValueError for what does not fit. */
bool fm_values_convert(fm_values *v, fm_dtype dtype, const char *what);
void fm_values_free(fm_values *v);
/* Token ids [B, S] int32 for a model: checks [low, vocab) and names the first that is not. One
 * dimension is taken as B = 1 where `one_dim`. bytes are tokens 0..255. */
bool fm_tokens_read(PyObject *o, const char *what, int64_t low, int64_t vocab, bool one_dim,
                    fm_values *v);

#endif
