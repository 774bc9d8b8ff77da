/* What the files of the built-in module `_fmoe` share. The interpreter's lock is held in every
 * function here unless it says otherwise.
 */
#ifndef FM_PYEMBED_MODULE_H
#define FM_PYEMBED_MODULE_H
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "pyembed/host.h"

PyMODINIT_FUNC PyInit__fmoe(void);

/* ---- calls into the framework (call.c)
 *
 *     fm_call c;
 *     if (!fm_call_begin(&c)) return NULL;         the device is open, the interpreter's lock is
 *     fm_status s = fm_linear(c.ctx, &y, ...);     released, the context is ours
 *     if (!fm_call_end(&c, s)) return NULL;        a Python exception is set for s != FM_OK
 */
typedef struct fm_call {
    fm_ctx *ctx;
    PyThreadState *thread;
} fm_call;
bool fm_call_begin(fm_call *c);
bool fm_call_end(fm_call *c, fm_status s);

/* The context, opened when nothing needed it before; NULL with an exception set. */
fm_ctx *fm_py_ctx(void);

/* Frees now, or, where another thread computes, when that one is done. NULL is legal. */
void fm_py_free(void (*free)(void *), void *what);
void fm_py_tensor_free(fm_tensor *t);

/* ---- exceptions (error.c) */
int fm_add_exceptions(PyObject *module);
/* Sets the exception of `s` with err's words, unless one is set already (a Python callback's). */
void fm_raise(const fm_error *err, fm_status s);

/* Where there are several ranks, exceptions that nobody catches are printed with the rank (failure.c).
 * Call it once, before the script runs. -1: no memory. */
int fm_report_failures(void);

/* ---- the module's parts: each adds its types or functions; -1 with an exception set */
int fm_add_tensor(PyObject *module);
int fm_add_parameter(PyObject *module);
int fm_add_ops(PyObject *module);
int fm_add_moe_ops(PyObject *module);
int fm_add_mesh(PyObject *module);
int fm_add_moe(PyObject *module);
int fm_add_moe_layer(PyObject *module);
int fm_add_routing_log(PyObject *module);
int fm_add_gpt(PyObject *module);
int fm_add_optim(PyObject *module);
int fm_add_data(PyObject *module);
int fm_add_checkpoint(PyObject *module);
int fm_add_peak(PyObject *module);
int fm_add_op_times(PyObject *module);
int fm_add_agree(PyObject *module);

/* PyType_Ready and PyModule_AddObjectRef in one. */
int fm_add_type(PyObject *module, PyTypeObject *type);

/* "an int", "a str" of an object, for messages. */
const char *fm_type_name(PyObject *o);

#endif
