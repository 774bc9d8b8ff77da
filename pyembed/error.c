/* fm_status -> Python exception, by the table that defines both (tensor/status.h). */
#include "pyembed/module.h"

#include <string.h>

static PyObject *checkpoint_error, *comm_error;

int fm_add_exceptions(PyObject *module) {
    checkpoint_error = PyErr_NewExceptionWithDoc(
        "fmoe.CheckpointError",
        "A checkpoint is missing, damaged, or of another model; names file and dataset.",
        PyExc_RuntimeError, NULL);
    comm_error = PyErr_NewExceptionWithDoc("fmoe.CommError", "Communication between ranks failed.",
                                           PyExc_RuntimeError, NULL);
    if (!checkpoint_error || !comm_error) return -1;
    if (PyModule_AddObjectRef(module, "CheckpointError", checkpoint_error) < 0) return -1;
    return PyModule_AddObjectRef(module, "CommError", comm_error);
}

static PyObject *exception_of(fm_status s) {
    const char *name = fm_status_exception(s);
    if (!strcmp(name, "fmoe.CheckpointError")) return checkpoint_error;
    if (!strcmp(name, "fmoe.CommError")) return comm_error;
    PyObject *builtin = PyDict_GetItemString(PyEval_GetBuiltins(), name);
    return builtin && PyExceptionClass_Check(builtin) ? builtin : PyExc_SystemError;
}

void fm_raise(const fm_error *err, fm_status s) {
    if (PyErr_Occurred()) return;
    PyErr_SetString(exception_of(s), err->message[0] ? err->message : fm_status_text(s));
}

const char *fm_type_name(PyObject *o) { return Py_TYPE(o)->tp_name; }
