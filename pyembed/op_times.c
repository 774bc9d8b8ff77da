/* Time in each kernel of the operation table, for benchmarks. */
#include "pyembed/module.h"

#include "tensor/ctx.h"

static PyObject *op_times_start(PyObject *module, PyObject *unused) {
    (void)module, (void)unused;
    fm_call c;
    if (!fm_call_begin(&c) || !fm_call_end(&c, fm_profile_start(c.ctx))) return NULL;
    Py_RETURN_NONE;
}

static PyObject *op_times_stop(PyObject *module, PyObject *unused) {
    (void)module, (void)unused;
    enum { MOST = 96 };
    fm_profile_entry entries[MOST];
    fm_call c;
    if (!fm_call_begin(&c)) return NULL;
    int count = fm_profile_get(c.ctx, entries, MOST);
    fm_profile_stop(c.ctx);
    if (!fm_call_end(&c, FM_OK)) return NULL;
    PyObject *list = PyList_New(count);
    for (int i = 0; list && i < count; i++) {
        const fm_profile_entry *e = &entries[i];
        PyObject *row = Py_BuildValue("(sLd)", e->slot, (long long)e->calls, e->seconds);
        if (!row) {
            Py_CLEAR(list);
            break;
        }
        PyList_SET_ITEM(list, i, row);
    }
    return list;
}

static PyMethodDef methods[] = {
    {"op_times_start", op_times_start, METH_NOARGS,
     "op_times_start()\n--\n\nBegins to time each kernel; forgets earlier times."},
    {"op_times_stop", op_times_stop, METH_NOARGS,
     "op_times_stop()\n--\n\n[(kernel, calls, seconds)] since op_times_start, the longest first;\n"
     "ends the timing."},
    {NULL, NULL, 0, NULL},
};

int fm_add_op_times(PyObject *module) { return PyModule_AddFunctions(module, methods); }
