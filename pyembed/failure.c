/* An exception that ends a rank: "[rank 1 host]" and its traceback, identical ones of other ranks once.
 * The job is ended when the interpreter is (fm_host_end). */
#include "pyembed/module.h"

#include <unistd.h>

/* The text that Python would print; NULL with an exception set. */
static PyObject *format(PyObject *type, PyObject *value, PyObject *trace) {
    PyObject *module = PyImport_ImportModule("traceback");
    PyObject *lines = module ? PyObject_CallMethod(module, "format_exception", "OOO", type, value,
                                                   trace ? trace : Py_None)
                             : NULL;
    PyObject *empty = PyUnicode_FromString("");
    PyObject *text = lines && empty ? PyUnicode_Join(empty, lines) : NULL;
    Py_XDECREF(empty);
    Py_XDECREF(lines);
    Py_XDECREF(module);
    return text;
}

/* What the script printed comes before. */
static void flush_output(void) {
    PyObject *out = PySys_GetObject("stdout"); /* borrowed */
    PyObject *done = out && out != Py_None ? PyObject_CallMethod(out, "flush", NULL) : NULL;
    if (!done) PyErr_Clear();
    Py_XDECREF(done);
}

static PyObject *hook(PyObject *self, PyObject *args) {
    (void)self;
    PyObject *type, *value, *trace;
    if (!PyArg_ParseTuple(args, "OOO", &type, &value, &trace)) return NULL;
    fm_host *h = &fm_the_host;
    flush_output();
    PyObject *text = getpid() == h->process ? format(type, value, trace) : NULL;
    const char *bytes = text ? PyUnicode_AsUTF8(text) : NULL;
    if (bytes) {
        Py_BEGIN_ALLOW_THREADS;
        fm_mpi_report(h->mpi, bytes);
        Py_END_ALLOW_THREADS;
    } else { /* a forked child; no memory; half a surrogate pair */
        PyErr_Clear();
        PyErr_Display(type, value, trace);
    }
    Py_XDECREF(text);
    Py_RETURN_NONE;
}

static PyMethodDef definition = {
    "excepthook", hook, METH_VARARGS,
    "excepthook(type, value, traceback, /)\n--\n\nPrints an exception that ends this rank."};

int fm_report_failures(void) {
    if (!fm_the_host.mpi) return 0;
    PyObject *function = PyCFunction_New(&definition, NULL);
    int set = function ? PySys_SetObject("excepthook", function) : -1;
    Py_XDECREF(function);
    return set;
}
