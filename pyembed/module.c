/* The built-in module `_fmoe`: what the Python package `fmoe` is made of. */
#include "pyembed/module.h"
#include "pyembed/info.h"
#include "pyembed/options.h"
#include "pyembed/parameter_type.h"
#include "tensor/tape.h"

#include <stdio.h>
#include <string.h>

int fm_add_type(PyObject *module, PyTypeObject *type) {
    if (PyType_Ready(type) < 0) return -1;
    const char *dot = strrchr(type->tp_name, '.');
    return PyModule_AddObjectRef(module, dot ? dot + 1 : type->tp_name, (PyObject *)type);
}

static PyObject *rank(PyObject *module, PyObject *unused) {
    (void)module, (void)unused;
    return PyLong_FromLong(fm_the_host.rank);
}

static PyObject *world_size(PyObject *module, PyObject *unused) {
    (void)module, (void)unused;
    return PyLong_FromLong(fm_the_host.world_size);
}

static PyObject *device(PyObject *module, PyObject *unused) {
    (void)module, (void)unused;
    fm_ctx *ctx = fm_py_ctx();
    return ctx ? PyUnicode_FromString(ctx->dev->name) : NULL;
}

static PyObject *device_info(PyObject *module, PyObject *unused) {
    (void)module, (void)unused;
    fm_ctx *ctx = fm_py_ctx();
    if (!ctx) return NULL;
    fm_mpi *mpi = fm_the_host.mpi;
    return Py_BuildValue("{s:s,s:s,s:s,s:i,s:i}", "device", ctx->dev->name, "model",
                         ctx->dev->model, "why_not_gpu", fm_the_host.why, "threads",
                         fm_the_host.threads, "ranks_on_node",
                         mpi ? fm_mpi_find_place(mpi).node_size : 1);
}

static PyObject *set_device(PyObject *module, PyObject *name) {
    (void)module;
    const char *text = PyUnicode_Check(name) ? PyUnicode_AsUTF8(name) : NULL;
    fm_host *h = &fm_the_host;
    if (!text) return PyErr_Format(PyExc_TypeError, "set_device: name=%R: a str is wanted", name);
    bool cuda = !strncmp(text, "cuda", 4) && (!text[4] || text[4] == ':');
    if ((!cuda && strcmp(text, "auto") && strcmp(text, "cpu")) || strlen(text) >= sizeof h->device)
        return PyErr_Format(PyExc_ValueError,
                            "set_device: name=%R is not allowed: 'auto', 'cpu', "
                            "'cuda' and 'cuda:N' are",
                            name);
    if (h->ctx && !h->dry_run && strcmp(text, "auto") &&
        strncmp(h->ctx->dev->name, text, strlen(text)) != 0)
        return PyErr_Format(PyExc_RuntimeError, "set_device: name=%R comes too late: %s is in use",
                            name, h->ctx->dev->name);
    snprintf(h->device, sizeof h->device, "%s", text);
    return fm_py_ctx() ? Py_NewRef(Py_None) : NULL;
}

static const fm_option seed_rows[] = {
    {"seed", 0, FM_OPT_SEED, 0, 0, 0, NULL, NULL, "any number of 64 bits", NULL},
    {NULL, 0, 0, 0, 0, 0, NULL, NULL, NULL, NULL},
};
static const fm_options seed_options = {
    "manual_seed", seed_rows, 1,
    "Sets the seed of initial weights, dropout and gates' noise. Call it before making a model; "
    "the same seed gives the same run. Without it the seed is 0."};

static PyObject *manual_seed(PyObject *module, PyObject *const *args, Py_ssize_t n,
                             PyObject *names) {
    (void)module;
    uint64_t seed;
    if (!fm_options_parse_fast(&seed_options, args, n, names, &seed)) return NULL;
    fm_the_host.seed = seed;
    if (fm_the_host.ctx) fm_the_host.ctx->seed = seed;
    fm_py_reset_names();
    Py_RETURN_NONE;
}

static PyObject *get_seed(PyObject *module, PyObject *unused) {
    (void)module, (void)unused;
    return PyLong_FromUnsignedLongLong(fm_the_host.seed);
}

static PyObject *grad_enable(PyObject *module, PyObject *on) {
    (void)module;
    fm_ctx *ctx = fm_py_ctx();
    if (!ctx) return NULL;
    int truth = PyObject_IsTrue(on);
    return truth < 0 ? NULL : PyBool_FromLong(fm_grad_enable(ctx, truth));
}

static PyObject *memory(PyObject *module, PyObject *unused) {
    (void)module, (void)unused;
    fm_ctx *ctx = fm_py_ctx();
    if (!ctx) return NULL;
    fm_alloc_stats a = fm_alloc_get_stats(ctx->alloc);
    return Py_BuildValue("{s:n,s:n,s:n}", "in_use", (Py_ssize_t)a.in_use, "peak",
                         (Py_ssize_t)a.peak_in_use, "reserved", (Py_ssize_t)a.reserved);
}

static PyObject *calls(PyObject *module, PyObject *unused) {
    (void)module, (void)unused;
    return PyLong_FromLongLong(fm_the_host.calls);
}

static PyObject *fail_at_exit(PyObject *module, PyObject *unused) {
    (void)module, (void)unused;
    fm_the_host.failed_at_exit = true;
    Py_RETURN_NONE;
}

static PyObject *dry_run(PyObject *module, PyObject *unused) {
    (void)module, (void)unused;
    return PyBool_FromLong(fm_the_host.dry_run);
}

static PyMethodDef methods[] = {
    {"dry_run", dry_run, METH_NOARGS,
     "dry_run()\n--\n\nWhether the program was started with --dry-run: nothing is computed."},
    {"fail_at_exit", fail_at_exit, METH_NOARGS,
     "fail_at_exit()\n--\n\nThe program's exit status is not 0, though the script's is: Python "
     "ignores\n"
     "what goes wrong in its atexit callbacks."},
    {"rank", rank, METH_NOARGS, "rank()\n--\n\nThis process's number in the job, from 0."},
    {"world_size", world_size, METH_NOARGS, "world_size()\n--\n\nProcesses of the job."},
    {"device", device, METH_NOARGS,
     "device()\n--\n\nThe device that computes: 'cpu', 'cuda:0'. Opens it at the first call."},
    {"device_info", device_info, METH_NOARGS,
     "device_info()\n--\n\ndict: device, model (of the processor), threads, ranks_on_node (that "
     "share its\nmemory), why_not_gpu ('' where there is nothing to say)."},
    {"set_device", set_device, METH_O,
     "set_device(name, /)\n--\n\nChooses 'auto', 'cpu', 'cuda' or 'cuda:N' and opens it; before\n"
     "anything else of fmoe that computes. train's --device is its default."},
    {"seed", get_seed, METH_NOARGS, "seed()\n--\n\nThe seed that manual_seed set."},
    {"grad_enable", grad_enable, METH_O,
     "grad_enable(on, /)\n--\n\nTurns recording on or off; returns what it was. See no_grad."},
    {"memory", memory, METH_NOARGS,
     "memory()\n--\n\ndict, in bytes of the device: in_use, peak (the most so far), reserved."},
    {"calls", calls, METH_NOARGS,
     "calls()\n--\n\nHow often a script entered the framework so far; a training step may do it "
     "19 times."},
    {NULL, NULL, 0, NULL},
};

static const fm_function functions[] = {{&seed_options, manual_seed}, {NULL, NULL}};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "_fmoe",
    .m_doc = "The compiled part of fmoe; use `import fmoe`.",
    .m_size = -1,
    .m_methods = methods,
};

PyMODINIT_FUNC PyInit__fmoe(void) {
    static int (*const parts[])(PyObject *) = {
        fm_add_exceptions,  fm_add_tensor, fm_add_parameter, fm_add_ops,
        fm_add_moe_ops,     fm_add_mesh,   fm_add_moe,       fm_add_moe_layer,
        fm_add_routing_log, fm_add_gpt,    fm_add_optim,     fm_add_data,
        fm_add_checkpoint,  fm_add_peak,   fm_add_op_times,  fm_add_agree,
    };
    PyObject *module = PyModule_Create(&definition);
    if (!module) return NULL;
    bool ok = PyModule_AddStringConstant(module, "version", FM_VERSION) == 0 &&
              fm_add_functions(module, functions) == 0;
    for (size_t i = 0; ok && i < sizeof parts / sizeof *parts; i++) ok = parts[i](module) == 0;
    if (!ok) Py_CLEAR(module);
    return module;
}
