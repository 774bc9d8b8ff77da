#include "pyembed/checkpoint_content.h"
#include "pyembed/parameter_type.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* One more; its region may borrow `boxes`, which are kept. */
static bool add(fm_py_content *k, const char *prefix, const char *name, fm_ckpt_group group,
                const fm_region *region, float *data, fm_box *boxes) {
    if (k->n == k->room) {
        int room = 2 * k->room + 64;
        fm_ckpt_array *arrays = realloc(k->arrays, (size_t)room * sizeof *arrays);
        if (arrays) k->arrays = arrays;
        struct fm_py_kept *kept = arrays ? realloc(k->kept, (size_t)room * sizeof *kept) : NULL;
        if (!kept) {
            free(boxes);
            PyErr_NoMemory();
            return false;
        }
        k->kept = kept;
        k->room = room;
    }
    k->kept[k->n] = (struct fm_py_kept){boxes, NULL};
    fm_ckpt_array *a = &k->arrays[k->n++];
    *a = (fm_ckpt_array){.group = group, .region = *region, .data = data};
    snprintf(a->name, sizeof a->name, "%s%s", prefix, name);
    return true;
}

typedef enum buffer { IN_STATE, IN_MASTERS } buffer;

/* What of a parameter's local elements this rank's optimiser updates, in a buffer laid out for that. */
static bool add_pieces(fm_py_content *k, const char *prefix, const char *name, fm_ckpt_group group,
                       const fm_param *p, fm_py_content_for what, const fm_tensor *flat,
                       buffer in) {
    fm_stretch part;
    for (int b = p->first_bucket; fm_param_stretch(p, &b, &part);) {
        const fm_bucket *bucket = &p->set->buckets[b - 1];
        if (what == FM_PY_SAVING && !bucket->sharded && bucket->comm->rank > 0) continue;
        fm_box *boxes = malloc(FM_FRAGMENT_BOXES * sizeof *boxes);
        if (!boxes) {
            PyErr_NoMemory();
            return false;
        }
        fm_region r = fm_fragment(&p->spec.placement, part.local.start,
                                  part.local.start + part.local.n, boxes);
        float *data = (float *)flat->data + (in == IN_STATE ? part.state : part.master);
        if (!add(k, prefix, name, group, &r, data, boxes)) return false;
    }
    return true;
}

/* fp32 weights are masters, whole on every replica; bfloat16 ones have theirs in pieces. */
static bool add_weight(fm_py_content *k, const char *name, fm_param *p, fm_py_content_for what) {
    bool expert = strstr(name, ".experts.") || !strncmp(name, "experts.", 8);
    fm_ckpt_group group = expert ? FM_CKPT_EXPERT : FM_CKPT_DENSE;
    fm_region all = fm_region_of(&p->spec.placement);
    if (p->spec.dtype == FM_F32) {
        const fm_comm *replicas = fm_mesh_replicas(p->set->mesh, p->spec.placement.replicas);
        return (what == FM_PY_SAVING && replicas->rank > 0) ||
               add(k, "", name, group, &all, p->weight->data, NULL);
    }
    if (what == FM_PY_SAVING)
        return add_pieces(k, "", name, group, p, what, p->set->masters, IN_MASTERS);
    if (!add(k, "", name, group, &all, NULL, NULL)) return false;
    k->kept[k->n - 1].param = p;
    return true;
}

static bool add_moments(fm_py_content *k, const char *name, const fm_param *p,
                        fm_py_content_for what, const fm_optim *optim, int set) {
    const char *m = optim->config.kind == FM_ADAMW ? "adamw.m/" : "sgd.m/";
    if (optim->m[set] && !add_pieces(k, m, name, FM_CKPT_OPTIM, p, what, optim->m[set], IN_STATE))
        return false;
    return !optim->v[set] ||
           add_pieces(k, "adamw.v/", name, FM_CKPT_OPTIM, p, what, optim->v[set], IN_STATE);
}

static int set_index(const fm_optim *o, const fm_param_set *set) {
    for (int i = 0; i < o->n_sets; i++)
        if (o->sets[i] == set) return i;
    return -1;
}

/* Fills k->arrays, and marks in `met` which sets of the optimiser the parameters come from. */
static bool fill(PyObject *parameters, const fm_optim *optim, fm_py_content_for what,
                 fm_py_content *k, bool *met) {
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
        if (!add_weight(k, name, p->param, what)) return false;
        int set = optim ? set_index(optim, p->set) : -1;
        if (set < 0) continue;
        met[set] = true;
        if (!add_moments(k, name, p->param, what, optim, set)) return false;
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

bool fm_py_content_collect(PyObject *parameters, const fm_optim *optim, fm_py_content_for what,
                           fm_py_content *k) {
    *k = (fm_py_content){0};
    bool *met = calloc(optim ? (size_t)optim->n_sets + 1 : 1, sizeof *met);
    bool good = met && fill(parameters, optim, what, k, met);
    if (!met) PyErr_NoMemory();
    free(met);
    return good;
}

void fm_py_content_free(fm_py_content *k) {
    for (int i = 0; i < k->n; i++) free(k->kept[i].boxes);
    free(k->kept);
    free(k->arrays);
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
