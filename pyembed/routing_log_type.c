/* fmoe's RoutingLog: what fmoe.record writes and fmoe.replay reads (fmoe/routing.py). */
#include "fmoe/routing_log.h"
#include "pyembed/gpt_type.h"
#include "pyembed/ops.h"

#include <stdlib.h>

typedef struct py_log {
    PyObject_HEAD fm_routing_log log;
    PyObject *models; /* whose layers point to the log while it is attached; NULL: it is not */
} py_log;

typedef struct log_args {
    PyObject *models;
    bool replay;
} log_args;
#define ARG(field) #field, offsetof(log_args, field)
static const fm_option rows[] = {
    {ARG(models), FM_OPT_OBJECT, 0, 0, 0, NULL, NULL, "whose MoE layers take part",
     "Sequence[GPT | MoELayer]"},
    {ARG(replay), FM_OPT_BOOL, 0, 0, 0, NULL, "False",
     "the layers follow what add() gives, instead of being recorded", NULL},
    {NULL, 0, 0, 0, 0, 0, NULL, NULL, NULL, NULL},
};
#undef ARG
static const fm_options options = {"RoutingLog", rows, 1,
                                   "The routing of MoE layers' training forwards: see fmoe.record "
                                   "and fmoe.replay. Layers are numbered over all models."};

/* Calls `each` for every MoE layer; false with an exception set. */
static bool for_layers(PyObject *models, void (*each)(fm_moe *m, int layer, void *user),
                       void *user) {
    int n = 0;
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(models); i++) {
        PyObject *o = PyTuple_GET_ITEM(models, i);
        fm_moe *alone = fm_py_layer_moe(o);
        if (alone) {
            each(alone, n++, user);
        } else if (PyObject_TypeCheck(o, &fm_gpt_type)) {
            const fm_gpt *g = ((fm_py_gpt *)o)->gpt;
            for (int64_t b = 0; b < g->config.n_layer; b++)
                if (g->blocks[b].moe) each(g->blocks[b].moe, n++, user);
        } else {
            PyErr_Format(PyExc_TypeError,
                         "RoutingLog: models holds a %s: GPT and MoELayer are allowed",
                         fm_type_name(o));
            return false;
        }
    }
    return true;
}

static void count(fm_moe *m, int layer, void *user) {
    (void)m;
    *(int *)user = layer + 1;
}
static void check_free(fm_moe *m, int layer, void *user) {
    (void)layer;
    *(bool *)user &= m->log == NULL;
}
static void attach(fm_moe *m, int layer, void *user) { fm_routing_log_attach(m, user, layer); }

static void let_go(py_log *self) {
    if (self->models) for_layers(self->models, attach, NULL);
    Py_CLEAR(self->models);
}

static PyObject *new (PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    log_args a;
    int n = 0;
    bool unused = true;
    if (!fm_options_parse(&options, args, kwargs, &a)) return NULL;
    PyObject *models = PySequence_Tuple(a.models);
    if (!models) return NULL;
    if (!for_layers(models, count, &n) || !for_layers(models, check_free, &unused)) goto fail;
    if (n == 0 || !unused) {
        PyErr_SetString(PyExc_ValueError, n ? "RoutingLog: a layer is recorded or replayed already"
                                            : "RoutingLog: the models have no MoE layer");
        goto fail;
    }
    py_log *self = (py_log *)type->tp_alloc(type, 0);
    if (!self) goto fail;
    self->log.replay = a.replay;
    self->models = models;
    fm_the_host.live++;
    fm_call c;
    if (!fm_call_begin(&c)) {
        Py_DECREF(self);
        return NULL;
    }
    for_layers(models, attach, &self->log);
    fm_call_end(&c, FM_OK);
    return (PyObject *)self;
fail:
    Py_DECREF(models);
    return NULL;
}

static void dealloc(PyObject *o) {
    py_log *self = (py_log *)o;
    let_go(self);
    fm_routing_log_clear(&self->log);
    fm_the_host.live--;
    Py_TYPE(o)->tp_free(o);
}

static PyObject *detach(PyObject *o, PyObject *unused) {
    (void)unused;
    py_log *self = (py_log *)o;
    fm_call c;
    if (!fm_call_begin(&c)) return NULL; /* another thread's forward may be at work on it */
    if (self->models) for_layers(self->models, attach, NULL);
    if (!fm_call_end(&c, FM_OK)) return NULL;
    Py_CLEAR(self->models);
    Py_RETURN_NONE;
}

typedef struct add_args {
    int64_t layer, step, micro, forward;
    fm_tensor *choices;
} add_args;
#define ARG(field) #field, offsetof(add_args, field)
static const fm_option add_rows[] = {
    {ARG(layer), FM_OPT_INT, 0, INT32_MAX, 0, NULL, NULL, "its number", NULL},
    {ARG(step), FM_OPT_INT, 0, UINT32_MAX, 0, NULL, NULL, "completed optimiser steps", NULL},
    {ARG(micro), FM_OPT_INT, 0, UINT32_MAX, 0, NULL, NULL, "micro-batches since", NULL},
    {ARG(forward), FM_OPT_INT, 0, INT32_MAX, 0, NULL, NULL, "forwards of it before this one", NULL},
    {ARG(choices), FM_OPT_TENSOR, 0, 0, 0, NULL, NULL,
     "int32 [T, k] of the whole micro-batch: e; -2 - e: chosen, not taken; -1: none", NULL},
    {NULL, 0, 0, 0, 0, 0, NULL, NULL, NULL, NULL},
};
#undef ARG
static const fm_options add_options = {"add", add_rows, 5, ""};

static fm_status add_entry(fm_ctx *ctx, fm_routing_log *log, const add_args *a) {
    char text[96];
    void *host = NULL;
    FM_CHECK(a->choices->ndim == 2 && a->choices->dtype == FM_I32, FM_ERR_SHAPE,
             "RoutingLog.add: choices is %s; int32 [T, k] is wanted",
             fm_tensor_describe(a->choices, text, sizeof text));
    FM_TRY(fm_host_view(ctx, a->choices, &host));
    fm_routing_entry e = {
        .key = {(int)a->layer, (uint32_t)a->step, (uint32_t)a->micro, (int)a->forward},
        .T = a->choices->shape[0],
        .k = a->choices->shape[1],
        .choices = host};
    fm_status s = fm_routing_log_add(ctx, log, &e);
    fm_host_release(ctx, host);
    return s;
}

static PyObject *add(PyObject *o, PyObject *args, PyObject *kwargs) {
    add_args a;
    fm_call c;
    if (!fm_options_parse(&add_options, args, kwargs, &a) || !fm_call_begin(&c)) return NULL;
    fm_status s = add_entry(c.ctx, &((py_log *)o)->log, &a);
    return fm_call_end(&c, s) ? Py_NewRef(Py_None) : NULL;
}

/* Entry i, or NULL with or without (behind the last) an exception. */
static PyObject *entry_at(fm_routing_log *log, int i) {
    fm_call c;
    fm_tensor *choices = NULL;
    fm_routing_entry e = {0};
    if (!fm_call_begin(&c)) return NULL;
    fm_status s = FM_OK;
    if (i < log->n) {
        e = log->entries[i];
        s = fm_tensor_from_host(c.ctx, &choices, FM_I32, 2, (int64_t[]){e.T, e.k}, e.choices);
    }
    if (!fm_call_end(&c, s) || !choices) return NULL;
    PyObject *t = fm_py_tensor_new(choices);
    if (!t) return NULL;
    return Py_BuildValue("(iIIi(LLL)N)", e.key.layer, e.key.step, e.key.micro, e.key.pass,
                         (long long)e.rows.offset, (long long)e.rows.block,
                         (long long)e.rows.stride, t);
}

static PyObject *entries(PyObject *o, PyObject *unused) {
    (void)unused;
    PyObject *list = PyList_New(0), *entry;
    for (int i = 0; list && (entry = entry_at(&((py_log *)o)->log, i)); i++) {
        if (PyList_Append(list, entry) < 0) Py_CLEAR(list);
        Py_DECREF(entry);
    }
    if (PyErr_Occurred()) Py_CLEAR(list);
    return list;
}

static PyMethodDef methods[] = {
    {"detach", detach, METH_NOARGS,
     "detach($self)\n--\n\nThe layers are recorded or replayed no more."},
    {"add", (PyCFunction)(void (*)(void))add, METH_VARARGS | METH_KEYWORDS,
     "add($self, layer, step, micro, forward, choices)\n--\n\nWhat one forward is to follow."},
    {"entries", entries, METH_NOARGS,
     "entries($self)\n--\n\nA list of (layer, step, micro, forward, (offset, block, stride), "
     "choices): row r of choices\nis token offset + r // block * stride + r % block of the "
     "micro-batch (offset + r if block is 0)."},
    {NULL, NULL, 0, NULL},
};

static PyTypeObject log_type = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "fmoe.RoutingLog",
    .tp_basicsize = sizeof(py_log),
    .tp_flags = Py_TPFLAGS_DEFAULT,
    .tp_new = new,
    .tp_dealloc = dealloc,
    .tp_methods = methods,
};

int fm_add_routing_log(PyObject *module) {
    log_type.tp_doc = fm_options_doc(&options);
    return log_type.tp_doc ? fm_add_type(module, &log_type) : -1;
}
