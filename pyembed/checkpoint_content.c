#include "pyembed/checkpoint_content.h"
#include "pyembed/parameter_type.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void add(fm_py_content *k, const char *prefix, const char *name, fm_ckpt_group group,
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

/* Fills k->arrays, and marks in `met` which sets of the optimiser the parameters come from. */
static bool fill(PyObject *parameters, const fm_optim *optim, fm_py_content *k, bool *met) {
    Py_ssize_t n = PyList_GET_SIZE(parameters);
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
        if (strchr(name, '/')) {
            PyErr_Format(PyExc_ValueError,
                         "parameter name '%s' is not allowed: '/' divides the groups of a "
                         "checkpoint's file",
                         name);
            return false;
        }
        bool expert = strstr(name, ".experts.") || !strncmp(name, "experts.", 8);
        add(k, "", name, expert ? FM_CKPT_EXPERT : FM_CKPT_DENSE, p->param, p->set->masters);
        int set = optim ? set_index(optim, p->set) : -1;
        if (set < 0) continue;
        met[set] = true;
        bool adamw = optim->config.kind == FM_ADAMW;
        if (optim->m[set])
            add(k, adamw ? "adamw.m/" : "sgd.m/", name, FM_CKPT_OPTIM, p->param, optim->m[set]);
        if (optim->v[set]) add(k, "adamw.v/", name, FM_CKPT_OPTIM, p->param, optim->v[set]);
    }
    for (int i = 0; optim && i < optim->n_sets; i++) {
        if (met[i]) continue;
        PyErr_Format(PyExc_ValueError,
                     "the optimizer trains '%s', which is no parameter of the model; give the "
                     "model's own optimizer",
                     optim->sets[i]->items[0]->spec.name);
        return false;
    }
    return true;
}

bool fm_py_content_collect(PyObject *parameters, const fm_optim *optim, fm_py_content *k) {
    Py_ssize_t n = PyList_GET_SIZE(parameters);
    *k = (fm_py_content){calloc((size_t)n * 3 + 1, sizeof *k->arrays), 0};
    bool *met = calloc(optim ? (size_t)optim->n_sets + 1 : 1, sizeof *met);
    bool good = k->arrays && met && fill(parameters, optim, k, met);
    if (!k->arrays || !met) PyErr_NoMemory();
    free(met);
    return good;
}

bool fm_py_optim_of(PyObject *o, const char *what, fm_optim **out) {
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
