#include "pyembed/optim_type.h"
#include "pyembed/optim_args.h"
#include "pyembed/parameter_type.h"

#include <math.h>
#include <structmember.h>

/* ---- which optimiser a loss belongs to. The list is read and changed with the host's lock held. */

typedef struct entry {
    fm_optim *optim;
    struct entry *next;
} entry;
static entry *live;

static void forget_and_free(void *optim) {
    for (entry **e = &live; *e; e = &(*e)->next) {
        if ((*e)->optim != optim) continue;
        entry *gone = *e;
        *e = gone->next;
        free(gone);
        break;
    }
    fm_optim_free(optim);
}

fm_optim *fm_optim_of_storage(const fm_storage *storage) {
    for (entry *e = live; e; e = e->next)
        for (int i = 0; i < e->optim->n_sets; i++) {
            const fm_param_set *s = e->optim->sets[i];
            if (s->masters->storage == storage || (s->models && s->models->storage == storage))
                return e->optim;
        }
    return NULL;
}

void fm_optims_settle(void) {
    for (entry *e = live; e; e = e->next) fm_reducer_settle(e->optim->reducer);
}

fm_clock fm_optims_clock(void) {
    fm_clock sum = {0};
    for (entry *e = live; e; e = e->next) {
        sum.step += (uint32_t)e->optim->step;
        sum.micro += (uint32_t)e->optim->backwards;
    }
    return sum;
}

/* ---- construction */

/* The distinct sets of the parameters; malloc'ed. A set is trained whole: its moments and norms
 * are one pass over it. */
static fm_param_set **sets_of(PyObject *parameters, const char *owner, int *n) {
    Py_ssize_t count = PyList_GET_SIZE(parameters);
    fm_param_set **sets = calloc((size_t)count + 1, sizeof(*sets));
    int64_t wanted = 0;
    *n = 0;
    if (!sets) {
        PyErr_NoMemory();
        return NULL;
    }
    for (Py_ssize_t i = 0; i < count; i++) {
        PyObject *p = PyTuple_GET_ITEM(PyList_GET_ITEM(parameters, i), 1);
        fm_param_set *set = ((fm_py_parameter *)p)->set;
        int at = 0;
        while (at < *n && sets[at] != set) at++;
        if (at < *n) continue;
        sets[(*n)++] = set;
        wanted += set->n;
    }
    if (count > 0 && wanted == count) return sets;
    if (count == 0)
        PyErr_Format(PyExc_ValueError, "%s: model has no parameters", owner);
    else
        PyErr_Format(
            PyExc_ValueError,
            "%s: model gives %zd parameters of models that have %lld: all are wanted, each "
            "once",
            owner, count, (long long)wanted);
    free(sets);
    return NULL;
}

static PyObject *make(PyTypeObject *type, const fm_options *o, fm_optim_args *a) {
    fm_optim *optim = NULL;
    fm_param_set **sets = NULL;
    fm_py_optim *self = NULL;
    int n;
    PyObject *parameters = fm_py_parameters_of(a->model, o->owner);
    entry *e = malloc(sizeof *e);
    if (!e) PyErr_NoMemory();
    fm_call c;
    if (!parameters || !e || !(sets = sets_of(parameters, o->owner, &n)) || !fm_call_begin(&c))
        goto out;
    fm_status s = fm_optim_new(c.ctx, &a->config, sets[0]->mesh, sets, n, &optim);
    if (s == FM_OK) {
        *e = (entry){optim, live};
        live = e;
        e = NULL;
    }
    if (!fm_call_end(&c, s)) goto out;
    self = (fm_py_optim *)type->tp_alloc(type, 0);
    if (!self) {
        fm_py_free(forget_and_free, optim);
        goto out;
    }
    self->optim = optim;
    self->initial_lr = a->config.lr;
    self->parameters = Py_NewRef(parameters);
    fm_the_host.live++;
out:
    free(e);
    free(sets);
    Py_XDECREF(parameters);
    return (PyObject *)self;
}

static PyObject *adamw_new(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    fm_optim_args a;
    if (!fm_optim_args_read(&fm_adamw_options, args, kwargs, &a)) return NULL;
    return make(type, &fm_adamw_options, &a);
}

static PyObject *sgd_new(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    fm_optim_args a;
    if (!fm_optim_args_read(&fm_sgd_options, args, kwargs, &a)) return NULL;
    return make(type, &fm_sgd_options, &a);
}

static void dealloc(PyObject *o) {
    fm_py_optim *self = (fm_py_optim *)o;
    PyObject_GC_UnTrack(o);
    if (self->optim) fm_the_host.live--;
    fm_py_free(forget_and_free, self->optim);
    Py_XDECREF(self->parameters);
    Py_TYPE(o)->tp_free(o);
}

static int traverse(PyObject *o, visitproc visit, void *arg) {
    Py_VISIT(((fm_py_optim *)o)->parameters);
    return 0;
}

/* ---- use */

static PyStructSequence_Field info_fields[] = {
    {"loss", "mean lm_loss of the whole global batch, nats; the same on every rank"},
    {"grad_norm", "over all gradients, before clipping"},
    {"lr", "learning rate of this step"},
    {"skipped", "True: the norm was not finite, and nothing was updated"},
    {"stop", "the highest stop that a rank gave; the same on every rank"},
    {NULL, NULL},
};
static PyStructSequence_Desc info_desc = {"fmoe.StepInfo", "What a step did.", info_fields, 4};
static PyTypeObject info_type;

/* What the package does between steps: complete background saves. */
static PyObject *after_step;

typedef struct step_args {
    int stop;
} step_args;
static const fm_option step_rows[] = {
    {"stop", offsetof(step_args, stop), FM_OPT_INT32, 0, 1 << 20, 0, NULL, "0",
     "above 0: this rank wants to stop, for this reason; every rank is told the highest", NULL},
    {NULL, 0, 0, 0, 0, 0, NULL, NULL, NULL, NULL},
};
static const fm_options step_options = {"step", step_rows, 0, ""};

static PyObject *step(PyObject *o, PyObject *const *args, Py_ssize_t n, PyObject *names) {
    step_args a;
    fm_step_info info;
    fm_call c;
    if (!fm_options_parse_fast(&step_options, args, n, names, &a) || !fm_call_begin(&c))
        return NULL;
    fm_status s = fm_optim_step(((fm_py_optim *)o)->optim, a.stop, &info);
    if (!fm_call_end(&c, s)) return NULL;
    PyObject *result = PyStructSequence_New(&info_type);
    if (!result) return NULL;
    PyStructSequence_SetItem(result, 0, PyFloat_FromDouble(info.loss));
    PyStructSequence_SetItem(result, 1, PyFloat_FromDouble(info.grad_norm));
    PyStructSequence_SetItem(result, 2, PyFloat_FromDouble(info.lr));
    PyStructSequence_SetItem(result, 3, PyBool_FromLong(info.skipped));
    PyStructSequence_SetItem(result, 4, PyLong_FromLong(info.stop));
    if (PyErr_Occurred()) Py_CLEAR(result);
    if (result && fm_the_host.dry_run) {
        Py_DECREF(result);
        return fm_py_dry_run_end(o);
    }
    if (result && after_step) {
        PyObject *done = PyObject_CallNoArgs(after_step);
        if (!done) Py_CLEAR(result);
        Py_XDECREF(done);
    }
    return result;
}

static PyObject *set_after_step(PyObject *module, PyObject *callable) {
    (void)module;
    Py_XSETREF(after_step, Py_NewRef(callable));
    Py_RETURN_NONE;
}

static PyMethodDef functions[] = {
    {"after_step", set_after_step, METH_O,
     "after_step(callable, /)\n--\n\nCalled at the end of every optimiser's step(), which raises "
     "what it raises."},
    {NULL, NULL, 0, NULL},
};

static PyObject *zero_grad(PyObject *o, PyObject *unused) {
    (void)unused;
    fm_optim *optim = ((fm_py_optim *)o)->optim;
    fm_call c;
    if (!fm_call_begin(&c)) return NULL;
    fm_optim_restart(optim, optim->step);
    return fm_call_end(&c, FM_OK) ? Py_NewRef(Py_None) : NULL;
}

static PyObject *get_steps(PyObject *o, void *unused) {
    (void)unused;
    return PyLong_FromLongLong(((fm_py_optim *)o)->optim->step);
}

/* The step number is also the random numbers' (tensor/rng.h). */
static int set_steps(PyObject *o, PyObject *v, void *unused) {
    (void)unused;
    long long n = v && PyLong_Check(v) ? PyLong_AsLongLong(v) : -1;
    if (n < 0 || n > UINT32_MAX) {
        if (!PyErr_Occurred())
            PyErr_Format(PyExc_ValueError, "steps=%R is not allowed: an int of at least 0 is",
                         v ? v : Py_None);
        return -1;
    }
    fm_call c;
    if (!fm_call_begin(&c)) return -1;
    /* Gradients of a step that was begun belong to the weights before. */
    fm_optim_restart(((fm_py_optim *)o)->optim, n);
    return fm_call_end(&c, FM_OK) ? 0 : -1;
}

static PyObject *get_kind(PyObject *o, void *unused) {
    (void)unused;
    return PyUnicode_FromString(((fm_py_optim *)o)->optim->config.kind == FM_ADAMW ? "adamw"
                                                                                   : "sgd");
}

static PyObject *get_lr(PyObject *o, void *unused) {
    (void)unused;
    return PyFloat_FromDouble(((fm_py_optim *)o)->optim->config.lr);
}

static int set_lr(PyObject *o, PyObject *v, void *unused) {
    (void)unused;
    double lr = v ? PyFloat_AsDouble(v) : -1;
    if (PyErr_Occurred()) return -1;
    if (!(lr >= 0) || isinf(lr)) {
        PyErr_Format(PyExc_ValueError, "lr=%R is not allowed: a number of at least 0 is",
                     v ? v : Py_None);
        return -1;
    }
    ((fm_py_optim *)o)->optim->config.lr = lr;
    return 0;
}

static PyObject *get_initial_lr(PyObject *o, void *unused) {
    (void)unused;
    return PyFloat_FromDouble(((fm_py_optim *)o)->initial_lr);
}

static PyObject *trains(PyObject *o, PyObject *model) {
    const fm_optim *optim = ((fm_py_optim *)o)->optim;
    PyObject *parameters = fm_py_parameters_of(model, "trains: model");
    if (!parameters) return NULL;
    bool all = PyList_GET_SIZE(parameters) == PyList_GET_SIZE(((fm_py_optim *)o)->parameters);
    for (Py_ssize_t i = 0; all && i < PyList_GET_SIZE(parameters); i++) {
        PyObject *p = PyTuple_GET_ITEM(PyList_GET_ITEM(parameters, i), 1);
        bool found = false;
        for (int j = 0; j < optim->n_sets; j++)
            found = found || optim->sets[j] == ((fm_py_parameter *)p)->set;
        all = found;
    }
    Py_DECREF(parameters);
    return PyBool_FromLong(all);
}

/* The groups of a checkpoint's optimiser files: see checkpoint_content.c. */
static PyObject *get_moments(PyObject *o, void *unused) {
    (void)unused;
    const fm_optim *optim = ((fm_py_optim *)o)->optim;
    bool adamw = optim->config.kind == FM_ADAMW, has_m = false, has_v = false;
    for (int i = 0; i < optim->n_sets; i++) {
        has_m = has_m || optim->m[i];
        has_v = has_v || optim->v[i];
    }
    if (has_v) return Py_BuildValue("(ss)", "adamw.m", "adamw.v");
    return has_m ? Py_BuildValue("(s)", adamw ? "adamw.m" : "sgd.m") : PyTuple_New(0);
}

static PyObject *get_micro_batches(PyObject *o, void *unused) {
    (void)unused;
    return PyLong_FromLongLong(((fm_py_optim *)o)->optim->config.micro_batches);
}

static PyObject *get_schedule(PyObject *o, void *unused) {
    (void)unused;
    fm_py_schedule *s = PyObject_New(fm_py_schedule, &fm_schedule_type);
    if (s) s->schedule = ((fm_py_optim *)o)->optim->config.schedule;
    return (PyObject *)s;
}

static PyMethodDef methods[] = {
    {"step", (PyCFunction)(void (*)(void))step, METH_FASTCALL | METH_KEYWORDS,
     "step($self, *, stop=0)\n--\n\nFinishes the reduction over the ranks, clips, updates, "
     "zeroes "
     "the gradients:\nStepInfo(loss, grad_norm, lr, skipped, stop). All ranks together. "
     "RuntimeError "
     "unless exactly\nmicro_batches backward() have run. A parameter whose requires_grad is False "
     "is "
     "left alone;\none that no gradient reached has gradient 0. stop: above 0 where this rank "
     "wants "
     "to stop;\nevery rank is told the highest."},
    {"zero_grad", zero_grad, METH_NOARGS,
     "zero_grad($self)\n--\n\nForgets the gradients and micro-batches since the last step."},
    {"memory", fm_py_optim_memory, METH_NOARGS,
     "memory($self)\n--\n\ndict, in bytes on this rank: parameters (with bfloat16 ones' masters), "
     "gradients, moments."},
    {"trains", trains, METH_O,
     "trains($self, model, /)\n--\n\nWhether the model's parameters are the ones it updates."},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef getset[] = {
    {"steps", get_steps, set_steps, "Completed steps; skipped ones do not count.", NULL},
    {"kind", get_kind, NULL, "'adamw' or 'sgd'.", NULL},
    {"lr", get_lr, set_lr, "Base learning rate.", NULL},
    {"initial_lr", get_initial_lr, NULL, "Base learning rate that it was made with.", NULL},
    {"moments", get_moments, NULL, "Names of what it keeps for each parameter.", NULL},
    {"schedule", get_schedule, NULL, "Schedule of the learning rate.", NULL},
    {"micro_batches", get_micro_batches, NULL, "Calls of backward() that make one step.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

PyTypeObject fm_optim_type = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "fmoe.Optimizer",
    .tp_basicsize = sizeof(fm_py_optim),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC |
                Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .tp_doc = "What AdamW and SGD have in common.",
    .tp_dealloc = dealloc,
    .tp_traverse = traverse,
    .tp_free = PyObject_GC_Del,
    .tp_methods = methods,
    .tp_getset = getset,
};
static PyTypeObject adamw_type = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "fmoe.AdamW",
    .tp_basicsize = sizeof(fm_py_optim),
    .tp_flags = Py_TPFLAGS_DEFAULT,
    .tp_base = &fm_optim_type,
    .tp_new = adamw_new,
};
static PyTypeObject sgd_type = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "fmoe.SGD",
    .tp_basicsize = sizeof(fm_py_optim),
    .tp_flags = Py_TPFLAGS_DEFAULT,
    .tp_base = &fm_optim_type,
    .tp_new = sgd_new,
};

int fm_add_optim(PyObject *module) {
    adamw_type.tp_doc = fm_options_doc(&fm_adamw_options);
    sgd_type.tp_doc = fm_options_doc(&fm_sgd_options);
    if (!adamw_type.tp_doc || !sgd_type.tp_doc || fm_add_schedule(module) < 0) return -1;
    if (PyModule_AddFunctions(module, functions) < 0 ||
        PyStructSequence_InitType2(&info_type, &info_desc) < 0 ||
        PyModule_AddObjectRef(module, "StepInfo", (PyObject *)&info_type) < 0)
        return -1;
    if (fm_add_type(module, &fm_optim_type) < 0 || fm_add_type(module, &adamw_type) < 0) return -1;
    return fm_add_type(module, &sgd_type);
}
