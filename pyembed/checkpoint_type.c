/* fmoe.CheckpointStore: what fmoe.Checkpointer writes with. */
#include "pyembed/checkpoint_content.h"
#include "pyembed/mesh_type.h"
#include "pyembed/options.h"
#include "pyembed/parameter_type.h"

#include <stdio.h>
#include <stdlib.h>

typedef struct py_store {
    PyObject_HEAD fm_checkpointer *store;
    PyObject *mesh;
} py_store;

typedef struct store_args {
    PyObject *root, *mesh; /* root: bytes */
    fm_ckpt_config config;
} store_args;
static const fm_option store_rows[] = {
    {"root", offsetof(store_args, root), FM_OPT_PATH, 0, 0, 0, NULL, NULL, "folder", NULL},
    {"keep_last", offsetof(store_args, config.keep_last), FM_OPT_INT32, 1, 1 << 20, 0, NULL, "3",
     "older ones are deleted", NULL},
    {"asynchronous", offsetof(store_args, config.asynchronous), FM_OPT_BOOL, 0, 0, 0, NULL, "True",
     "a thread writes while training goes on", NULL},
    {"compression", offsetof(store_args, config.compression), FM_OPT_INT32, 0, 9, 0, NULL, "0",
     "gzip level; 0: none", NULL},
    {"mesh", offsetof(store_args, mesh), FM_OPT_OBJECT, 0, 0, 0, NULL, "None",
     "layout of a model without parameters", "Mesh | None"},
    {NULL, 0, 0, 0, 0, 0, NULL, NULL, NULL, NULL},
};
static const fm_options store_options = {"CheckpointStore", store_rows, 1,
                                         "Writes checkpoints; see fmoe.Checkpointer."};

static PyObject *store_new(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    store_args a = {0};
    if (!fm_options_parse(&store_options, args, kwargs, &a)) return NULL;
    py_store *self = NULL;
    fm_checkpointer *store = NULL;
    PyObject *mesh = fm_py_mesh_or_default(a.mesh, "Checkpointer");
    fm_call c;
    a.config.root = PyBytes_AS_STRING(a.root);
    if (mesh && fm_call_begin(&c)) {
        fm_status s = fm_checkpointer_new(c.ctx, fm_mesh_of(mesh), &a.config, &store);
        if (fm_call_end(&c, s)) self = (py_store *)type->tp_alloc(type, 0);
    }
    fm_options_release(&store_options, &a);
    if (!self) {
        fm_checkpointer_free(store);
        Py_XDECREF(mesh);
        return NULL;
    }
    self->store = store;
    self->mesh = mesh;
    fm_the_host.live++;
    return (PyObject *)self;
}

static void store_dealloc(PyObject *o) {
    py_store *self = (py_store *)o;
    /* Waits for the writer's thread. */
    PyThreadState *thread = PyEval_SaveThread();
    fm_checkpointer_free(self->store);
    PyEval_RestoreThread(thread);
    fm_the_host.live--;
    Py_XDECREF(self->mesh);
    Py_TYPE(o)->tp_free(o);
}

typedef struct save_args {
    int64_t step;
    PyObject *parameters, *optimizer;
    const char *state;
} save_args;
static const fm_option save_rows[] = {
    {"step", offsetof(save_args, step), FM_OPT_INT, 0, 1e15, 0, NULL, NULL, "its name", NULL},
    {"model", offsetof(save_args, parameters), FM_OPT_OBJECT, 0, 0, 0, NULL, NULL,
     "whose parameters are written", "GPT | Module | MoELayer"},
    {"optimizer", offsetof(save_args, optimizer), FM_OPT_OBJECT, 0, 0, 0, NULL, "None",
     "whose moments are written", "Optimizer | None"},
    {"state", offsetof(save_args, state), FM_OPT_TEXT, 0, 0, 0, NULL, NULL, "one JSON object",
     NULL},
    {NULL, 0, 0, 0, 0, 0, NULL, NULL, NULL, NULL},
};
static const fm_options save_options = {"save", save_rows, 1, ""};

/* Ends a call of the store; what its saves left to say becomes a warning, never an exception. */
static PyObject *end(fm_call *c, PyObject *o, fm_status s) {
    char text[1024] = "";
    const char *notes = s == FM_OK ? fm_checkpointer_notes(((py_store *)o)->store) : NULL;
    if (notes) snprintf(text, sizeof text, "%s", notes);
    if (!fm_call_end(c, s)) return NULL;
    if (notes && PyErr_WarnEx(PyExc_RuntimeWarning, text, 2) < 0) return NULL; /* -W error */
    return Py_NewRef(Py_None);
}

/* The model's layout; NULL: it has no parameters. */
static const fm_mesh *mesh_of(PyObject *parameters) {
    if (PyList_GET_SIZE(parameters) == 0) return NULL;
    PyObject *first = PyTuple_GET_ITEM(PyList_GET_ITEM(parameters, 0), 1);
    return ((fm_py_parameter *)first)->set->mesh;
}

static PyObject *store_save(PyObject *o, PyObject *const *args, Py_ssize_t n, PyObject *names) {
    save_args a;
    fm_optim *optim;
    fm_py_content k = {0};
    if (!fm_options_parse_fast(&save_options, args, n, names, &a) ||
        !fm_py_optim_of(a.optimizer, "save", &optim))
        return NULL;
    if (optim && optim->backwards > 0)
        return PyErr_Format(
            PyExc_RuntimeError,
            "save: %lld of %lld micro-batches of a step have run and would be lost; "
            "save after optimizer.step()",
            (long long)optim->backwards, (long long)optim->config.micro_batches);
    PyObject *parameters = fm_py_parameters_of(a.parameters, "save: model");
    PyObject *result = NULL;
    fm_call c;
    if (parameters && fm_py_content_collect(parameters, optim, FM_PY_SAVING, &k) &&
        fm_call_begin(&c)) {
        fm_ckpt_content whole = {a.step, k.n, k.arrays, a.state, mesh_of(parameters)};
        result = end(&c, o, fm_checkpointer_save(c.ctx, ((py_store *)o)->store, &whole));
    }
    fm_py_content_free(&k);
    Py_XDECREF(parameters);
    return result;
}

static PyObject *finish(PyObject *o, fm_status (*call)(fm_ctx *, fm_checkpointer *)) {
    fm_call c;
    if (!fm_call_begin(&c)) return NULL;
    return end(&c, o, call(c.ctx, ((py_store *)o)->store));
}
static PyObject *store_wait(PyObject *o, PyObject *unused) {
    (void)unused;
    return finish(o, fm_checkpointer_wait);
}
static PyObject *store_end(PyObject *o, PyObject *unused) {
    (void)unused;
    return finish(o, fm_checkpointer_end);
}
static PyObject *store_poll(PyObject *o, PyObject *unused) {
    (void)unused;
    return finish(o, fm_checkpointer_poll);
}

typedef struct loaded_args {
    int64_t step, newest;
} loaded_args;
static const fm_option loaded_rows[] = {
    {"step", offsetof(loaded_args, step), FM_OPT_INT, 0, 1e18, 0, NULL, NULL, "loaded", NULL},
    {"newest", offsetof(loaded_args, newest), FM_OPT_INT, 0, 1e18, 0, NULL, NULL,
     "the newest in the folder then", NULL},
    {NULL, 0, 0, 0, 0, 0, NULL, NULL, NULL, NULL},
};
static const fm_options loaded_options = {"loaded", loaded_rows, 2, ""};

static PyObject *store_loaded(PyObject *o, PyObject *const *args, Py_ssize_t n, PyObject *names) {
    loaded_args a;
    fm_call c;
    if (!fm_options_parse_fast(&loaded_options, args, n, names, &a) || !fm_call_begin(&c))
        return NULL;
    fm_checkpointer_loaded(((py_store *)o)->store, a.step, a.newest);
    return end(&c, o, FM_OK);
}

static PyObject *store_busy(PyObject *o, void *unused) {
    (void)unused;
    return PyBool_FromLong(fm_checkpointer_busy(((py_store *)o)->store));
}
static PyGetSetDef store_getset[] = {
    {"busy", store_busy, NULL, "A background save is not committed yet.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyMethodDef store_methods[] = {
    {"save", (PyCFunction)(void (*)(void))store_save, METH_FASTCALL | METH_KEYWORDS,
     "save($self, step, *, model, optimizer=None, state)\n--\n\nCopies everything to host memory "
     "and writes it."},
    {"loaded", (PyCFunction)(void (*)(void))store_loaded, METH_FASTCALL | METH_KEYWORDS,
     "loaded($self, step, newest)\n--\n\nThe run goes on from `step`; later ones, up to `newest`, "
     "are set aside by the next save."},
    {"wait", store_wait, METH_NOARGS,
     "wait($self)\n--\n\nUntil the last save is on disk; raises its failure, once."},
    {"end", store_end, METH_NOARGS,
     "end($self)\n--\n\nAs wait, for the end of the program: no messages between ranks."},
    {"poll", store_poll, METH_NOARGS,
     "poll($self)\n--\n\nCommits a finished background save, without waiting."},
    {NULL, NULL, 0, NULL},
};
static PyTypeObject store_type = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "fmoe.CheckpointStore",
    .tp_basicsize = sizeof(py_store),
    .tp_flags = Py_TPFLAGS_DEFAULT,
    .tp_new = store_new,
    .tp_dealloc = store_dealloc,
    .tp_methods = store_methods,
    .tp_getset = store_getset,
};

int fm_add_checkpoint(PyObject *module) {
    store_type.tp_doc = fm_options_doc(&store_options);
    if (!store_type.tp_doc || fm_add_type(module, &store_type) < 0) return -1;
    return fm_add_checkpoint_reader(module);
}
