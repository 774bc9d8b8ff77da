/* What fmoe.Checkpointer is made of: a store that writes, a reader, and two functions. */
#include "pyembed/mesh_type.h"
#include "pyembed/optim_type.h"
#include "pyembed/options.h"
#include "pyembed/parameter_type.h"

#include "io/checkpoint.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- what a checkpoint holds */

typedef struct content {
    fm_ckpt_array *arrays;
    int n;
} content;

static void add(content *k, const char *prefix, const char *name, fm_ckpt_group group,
                const fm_param *p, const fm_tensor *flat) {
    fm_ckpt_array *a = &k->arrays[k->n++];
    *a = (fm_ckpt_array){.group = group, .placement = &p->spec.placement};
    a->data = (float *)flat->data + p->offset;
    snprintf(a->name, sizeof a->name, "%s%s", prefix, name);
}

static int set_index(const fm_optim *o, const fm_param_set *set) {
    for (int i = 0; i < o->n_sets; i++)
        if (o->sets[i] == set) return i;
    return -1;
}

/* Masters, and the moments of those that `optim` (may be NULL) trains. */
static bool collect(PyObject *parameters, const fm_optim *optim, content *k) {
    Py_ssize_t n = PyList_GET_SIZE(parameters);
    *k = (content){calloc((size_t)n * 3 + 1, sizeof *k->arrays), 0};
    if (!k->arrays) {
        PyErr_NoMemory();
        return false;
    }
    for (Py_ssize_t i = 0; i < n; i++) {
        PyObject *pair = PyList_GET_ITEM(parameters, i);
        const char *name = PyUnicode_AsUTF8(PyTuple_GET_ITEM(pair, 0));
        if (!name) return false;
        const fm_py_parameter *p = (fm_py_parameter *)PyTuple_GET_ITEM(pair, 1);
        if (strlen(name) >= sizeof p->param->spec.name) {
            PyErr_Format(PyExc_ValueError,
                         "parameter name '%s' is too long: at most %zu bytes are "
                         "allowed",
                         name, sizeof p->param->spec.name - 1);
            return false;
        }
        bool expert = strstr(name, ".experts.") || !strncmp(name, "experts.", 8);
        add(k, "", name, expert ? FM_CKPT_EXPERT : FM_CKPT_DENSE, p->param, p->set->masters);
        int set = optim ? set_index(optim, p->set) : -1;
        if (set < 0) continue;
        bool adamw = optim->config.kind == FM_ADAMW;
        if (optim->m[set])
            add(k, adamw ? "adamw.m/" : "sgd.m/", name, FM_CKPT_OPTIM, p->param, optim->m[set]);
        if (optim->v[set]) add(k, "adamw.v/", name, FM_CKPT_OPTIM, p->param, optim->v[set]);
    }
    return true;
}

/* None or an optimiser; false with an exception. */
static bool optim_of(PyObject *o, const char *what, fm_optim **out) {
    *out = NULL;
    if (!o || o == Py_None) return true;
    if (!PyObject_TypeCheck(o, &fm_optim_type)) {
        PyErr_Format(PyExc_TypeError,
                     "%s: optimizer=%R (%s) is of the wrong type: None or an "
                     "fmoe.Optimizer is wanted",
                     what, o, fm_type_name(o));
        return false;
    }
    *out = ((fm_py_optim *)o)->optim;
    return true;
}

/* ---- the store */

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
     "None: all ranks are data-parallel", "Mesh | None"},
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

static PyObject *store_save(PyObject *o, PyObject *const *args, Py_ssize_t n, PyObject *names) {
    save_args a;
    fm_optim *optim;
    content k = {0};
    if (!fm_options_parse_fast(&save_options, args, n, names, &a) ||
        !optim_of(a.optimizer, "save", &optim))
        return NULL;
    PyObject *parameters = fm_py_parameters_of(a.parameters, "save: model");
    fm_call c;
    if (parameters && collect(parameters, optim, &k) && fm_call_begin(&c)) {
        fm_ckpt_content whole = {a.step, k.n, k.arrays, a.state};
        fm_call_end(&c, fm_checkpointer_save(c.ctx, ((py_store *)o)->store, &whole));
    }
    free(k.arrays);
    Py_XDECREF(parameters);
    return PyErr_Occurred() ? NULL : Py_NewRef(Py_None);
}

static PyObject *finish(PyObject *o, fm_status (*call)(fm_ctx *, fm_checkpointer *)) {
    fm_call c;
    if (!fm_call_begin(&c)) return NULL;
    return fm_call_end(&c, call(c.ctx, ((py_store *)o)->store)) ? Py_NewRef(Py_None) : NULL;
}
static PyObject *store_wait(PyObject *o, PyObject *unused) {
    (void)unused;
    return finish(o, fm_checkpointer_wait);
}
static PyObject *store_poll(PyObject *o, PyObject *unused) {
    (void)unused;
    return finish(o, fm_checkpointer_poll);
}

static PyMethodDef store_methods[] = {
    {"save", (PyCFunction)(void (*)(void))store_save, METH_FASTCALL | METH_KEYWORDS,
     "save($self, step, *, model, optimizer=None, state)\n--\n\nCopies everything to host memory "
     "and writes it."},
    {"wait", store_wait, METH_NOARGS,
     "wait($self)\n--\n\nUntil the last save is on disk; raises its failure, once."},
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
};

/* ---- the reader */

typedef struct py_reader {
    PyObject_HEAD fm_ckpt_reader *reader;
} py_reader;

typedef struct path_args {
    PyObject *path; /* bytes */
} path_args;
static const fm_option path_rows[] = {
    {"path", offsetof(path_args, path), FM_OPT_PATH, 0, 0, 0, NULL, NULL, "folder", NULL},
    {NULL, 0, 0, 0, 0, 0, NULL, NULL, NULL, NULL},
};
static const fm_options reader_options = {"CheckpointReader", path_rows, 1,
                                          "An opened checkpoint: a step_N folder."};

static PyObject *reader_new(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    path_args a;
    if (!fm_options_parse(&reader_options, args, kwargs, &a)) return NULL;
    fm_ckpt_reader *reader = NULL;
    py_reader *self = NULL;
    fm_call c;
    if (fm_call_begin(&c) &&
        fm_call_end(&c, fm_ckpt_open(c.ctx, PyBytes_AS_STRING(a.path), &reader)))
        self = (py_reader *)type->tp_alloc(type, 0);
    fm_options_release(&reader_options, &a);
    if (self) {
        self->reader = reader;
        fm_the_host.live++;
    } else {
        fm_ckpt_close(reader);
    }
    return (PyObject *)self;
}

static void reader_dealloc(PyObject *o) {
    fm_ckpt_close(((py_reader *)o)->reader);
    fm_the_host.live--;
    Py_TYPE(o)->tp_free(o);
}

/* The masters were read; a bfloat16 model's weights follow them. */
static fm_status refresh(fm_ctx *ctx, fm_param_set *set, fm_param *p) {
    if (p->spec.dtype == FM_F32) return FM_OK;
    float *host = malloc((size_t)p->numel * sizeof *host + 1);
    FM_CHECK(host, FM_ERR_OOM, "out of memory: parameter %s", p->spec.name);
    fm_status s = fm_param_get_values(set, p, host, p->numel);
    if (s == FM_OK) s = fm_param_set_values(set, p, host, p->numel);
    free(host);
    return s;
}

typedef struct read_args {
    PyObject *model, *optimizer;
} read_args;
static const fm_option read_rows[] = {
    {"model", offsetof(read_args, model), FM_OPT_OBJECT, 0, 0, 0, NULL, NULL,
     "whose parameters are overwritten", "GPT | Module | MoELayer"},
    {"optimizer", offsetof(read_args, optimizer), FM_OPT_OBJECT, 0, 0, 0, NULL, "None",
     "whose moments are overwritten", "Optimizer | None"},
    {NULL, 0, 0, 0, 0, 0, NULL, NULL, NULL, NULL},
};
static const fm_options read_options = {"read", read_rows, 2, ""};

static PyObject *reader_read(PyObject *o, PyObject *const *args, Py_ssize_t nargs,
                             PyObject *names) {
    read_args a;
    fm_optim *optim;
    content k = {0};
    if (!fm_options_parse_fast(&read_options, args, nargs, names, &a) ||
        !optim_of(a.optimizer, "read", &optim))
        return NULL;
    PyObject *parameters = fm_py_parameters_of(a.model, "read: model");
    fm_call c;
    if (parameters && collect(parameters, optim, &k) && fm_call_begin(&c)) {
        fm_status s = FM_OK;
        for (int i = 0; s == FM_OK && i < k.n; i++)
            s = fm_ckpt_read(c.ctx, ((py_reader *)o)->reader, &k.arrays[i]);
        for (Py_ssize_t i = 0; s == FM_OK && i < PyList_GET_SIZE(parameters); i++) {
            fm_py_parameter *p = (fm_py_parameter *)PyTuple_GET_ITEM(PyList_GET_ITEM(parameters, i),
                                                                     1);
            s = refresh(c.ctx, p->set, p->param);
        }
        fm_call_end(&c, s);
    }
    free(k.arrays);
    Py_XDECREF(parameters);
    return PyErr_Occurred() ? NULL : Py_NewRef(Py_None);
}

static PyObject *reader_has(PyObject *o, PyObject *name) {
    const char *text = PyUnicode_Check(name) ? PyUnicode_AsUTF8(name) : NULL;
    if (!text) return PyErr_Format(PyExc_TypeError, "has: name=%R: a str is wanted", name);
    return PyBool_FromLong(fm_ckpt_has(((py_reader *)o)->reader, text));
}

static PyObject *reader_step(PyObject *o, void *unused) {
    (void)unused;
    return PyLong_FromLongLong(fm_ckpt_step(((py_reader *)o)->reader));
}
static PyObject *reader_state(PyObject *o, void *unused) {
    (void)unused;
    return PyUnicode_FromString(fm_ckpt_state_json(((py_reader *)o)->reader));
}
static PyObject *reader_manifest(PyObject *o, void *unused) {
    (void)unused;
    return PyUnicode_FromString(fm_ckpt_manifest_json(((py_reader *)o)->reader));
}

static PyMethodDef reader_methods[] = {
    {"read", (PyCFunction)(void (*)(void))reader_read, METH_FASTCALL | METH_KEYWORDS,
     "read($self, model, optimizer=None)\n--\n\nOverwrites parameters and moments."},
    {"has", reader_has, METH_O, "has($self, name, /)\n--\n\nWhether it has an array of the name."},
    {NULL, NULL, 0, NULL},
};
static PyGetSetDef reader_getset[] = {
    {"step", reader_step, NULL, "Its step.", NULL},
    {"state", reader_state, NULL, "Its state: one JSON object, as text.", NULL},
    {"manifest", reader_manifest, NULL, "Its manifest: one JSON object, as text.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};
static PyTypeObject reader_type = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "fmoe.CheckpointReader",
    .tp_basicsize = sizeof(py_reader),
    .tp_flags = Py_TPFLAGS_DEFAULT,
    .tp_new = reader_new,
    .tp_dealloc = reader_dealloc,
    .tp_methods = reader_methods,
    .tp_getset = reader_getset,
};

/* ---- functions */

static const fm_options list_options = {
    "checkpoint_list", path_rows, 1, "Steps of the complete checkpoints under a folder, rising."};
static PyObject *checkpoint_list(PyObject *module, PyObject *const *args, Py_ssize_t n,
                                 PyObject *names) {
    (void)module;
    path_args a;
    if (!fm_options_parse_fast(&list_options, args, n, names, &a)) return NULL;
    int64_t *steps = NULL;
    int count = 0;
    PyObject *list = NULL;
    fm_call c;
    if (fm_call_begin(&c) &&
        fm_call_end(&c, fm_checkpoint_list(c.ctx, PyBytes_AS_STRING(a.path), &steps, &count)))
        list = PyList_New(0);
    for (int i = 0; list && i < count; i++) {
        PyObject *step = PyLong_FromLongLong(steps[i]);
        if (!step || PyList_Append(list, step) < 0) Py_CLEAR(list);
        Py_XDECREF(step);
    }
    free(steps);
    fm_options_release(&list_options, &a);
    return list;
}

static const fm_options verify_options = {
    "checkpoint_verify", path_rows, 1,
    "Reads every file of a checkpoint (a step_N folder) and compares its checksums; "
    "CheckpointError names the first bad file and dataset."};
static PyObject *checkpoint_verify(PyObject *module, PyObject *const *args, Py_ssize_t n,
                                   PyObject *names) {
    (void)module;
    path_args a;
    if (!fm_options_parse_fast(&verify_options, args, n, names, &a)) return NULL;
    fm_call c;
    bool ok = fm_call_begin(&c) &&
              fm_call_end(&c, fm_ckpt_verify(c.ctx, PyBytes_AS_STRING(a.path)));
    fm_options_release(&verify_options, &a);
    return ok ? Py_NewRef(Py_None) : NULL;
}

static const fm_function functions[] = {
    {&list_options, checkpoint_list}, {&verify_options, checkpoint_verify}, {NULL, NULL}};

int fm_add_checkpoint(PyObject *module) {
    store_type.tp_doc = fm_options_doc(&store_options);
    reader_type.tp_doc = fm_options_doc(&reader_options);
    if (!store_type.tp_doc || !reader_type.tp_doc) return -1;
    if (fm_add_type(module, &store_type) < 0 || fm_add_type(module, &reader_type) < 0) return -1;
    return fm_add_functions(module, functions);
}
