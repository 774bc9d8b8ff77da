/* The end of a dry run (train --dry-run): after the first optimiser step the package reports. */
#include "pyembed/optim_type.h"

PyObject *fm_py_optim_memory(PyObject *o, PyObject *unused) {
    (void)unused;
    fm_optim_memory m = fm_optim_memory_of(((fm_py_optim *)o)->optim);
    return Py_BuildValue("{s:n,s:n,s:n}", "parameters", (Py_ssize_t)m.parameters, "gradients",
                         (Py_ssize_t)m.gradients, "moments", (Py_ssize_t)m.moments);
}

PyObject *fm_py_dry_run_end(PyObject *optimizer) {
    PyObject *package = PyImport_ImportModule("fmoe.dry_run");
    PyObject *result = package ? PyObject_CallMethod(package, "after_step", "O", optimizer) : NULL;
    Py_XDECREF(package);
    return result;
}
