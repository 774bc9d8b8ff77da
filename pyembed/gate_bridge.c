/* Gates written in Python: called by the layer's forward, with the context's lock held. */
#include "pyembed/moe_type.h"
#include "pyembed/parameter_type.h"

#include <string.h>

/* A tensor of Python's result; false with an exception set. */
static bool take(PyObject *o, const char *name, const char *what, fm_dtype dtype, int64_t T,
                 int64_t k, fm_tensor **out) {
    char text[96];
    if (!fm_is_tensor(o)) {
        PyErr_Format(PyExc_TypeError, "%s: the gate's %s is a %s: an fmoe.Tensor is wanted", name,
                     what, fm_type_name(o));
        return false;
    }
    fm_tensor *t = fm_tensor_of(o);
    bool shape = k ? t->ndim == 2 && t->shape[0] == T && t->shape[1] == k : fm_numel(t) == 1;
    if (!shape || t->dtype != dtype) {
        PyErr_Format(PyExc_ValueError, "%s: the gate's %s is %s: [%lld, %lld] %s is wanted", name,
                     what, fm_tensor_describe(t, text, sizeof text), (long long)(k ? T : 1),
                     (long long)(k ? k : 1), fm_dtype_name(dtype));
        return false;
    }
    *out = fm_tensor_retain(t);
    return true;
}

static bool check_indices(fm_tensor *t, const char *name, int64_t E) {
    fm_values v;
    PyObject *o = fm_py_tensor_new(fm_tensor_retain(t));
    if (!o || !fm_values_read(o, "gate", &v)) {
        Py_XDECREF(o);
        return false;
    }
    Py_DECREF(o);
    bool ok = true;
    for (int64_t i = 0; ok && i < v.n; i++) {
        int32_t e = ((int32_t *)v.data)[i];
        ok = e >= -1 && e < E;
        if (!ok)
            PyErr_Format(PyExc_ValueError,
                         "%s: the gate's indices hold %d: -1 (not taken) to %lld are allowed", name,
                         (int)e, (long long)E - 1);
    }
    fm_values_free(&v);
    return ok;
}

static bool read_result(PyObject *result, const fm_moe *m, int64_t T, fm_gate_out *out) {
    if (!PyTuple_Check(result) || PyTuple_GET_SIZE(result) != 3) {
        PyErr_Format(PyExc_TypeError,
                     "%s: the gate's forward gave %R: (indices, scores, loss) is wanted", m->name,
                     result);
        return false;
    }
    int64_t k = m->config.top_k;
    PyObject *loss = PyTuple_GET_ITEM(result, 2);
    return take(PyTuple_GET_ITEM(result, 0), m->name, "indices", FM_I32, T, k, &out->indices) &&
           check_indices(out->indices, m->name, m->config.num_experts) &&
           take(PyTuple_GET_ITEM(result, 1), m->name, "scores", FM_F32, T, k, &out->scores) &&
           (loss == Py_None || take(loss, m->name, "loss", FM_F32, T, 0, &out->balance));
}

static _Thread_local fm_mesh *mesh_of_gate; /* of the gate whose forward this thread is in */
fm_mesh *fm_py_gate_mesh(void) { return mesh_of_gate; }

static PyObject *call(PyObject *instance, const fm_moe *m, const fm_gate_in *in) {
    if (PyObject_SetAttrString(instance, "training", m->training ? Py_True : Py_False) < 0)
        return NULL;
    PyObject *x = fm_py_tensor_new(fm_tensor_retain(in->x));
    PyObject *ids = in->token_ids ? fm_py_tensor_new(fm_tensor_retain(in->token_ids))
                                  : Py_NewRef(Py_None);
    fm_mesh *outer = mesh_of_gate;
    mesh_of_gate = m->mesh;
    PyObject *result = x && ids ? PyObject_CallMethod(instance, "forward", "OO", x, ids) : NULL;
    mesh_of_gate = outer;
    Py_XDECREF(x);
    Py_XDECREF(ids);
    return result;
}

/* A Python exception stays set, and is what the script sees (fm_raise). */
static fm_status forward(fm_ctx *ctx, fm_moe *m, const fm_gate_in *in, fm_gate_out *out) {
    const fm_py_gate *g = m->gate->user;
    *out = (fm_gate_out){0};
    PyGILState_STATE gil = PyGILState_Ensure();
    PyObject *instance = PyDict_GetItemString(g->instances, m->name);
    PyObject *result = instance ? call(instance, m, in) : NULL;
    bool ok = result && read_result(result, m, in->T, out);
    if (!instance && !PyErr_Occurred()) PyErr_Format(PyExc_RuntimeError, "%s has no gate", m->name);
    Py_XDECREF(result);
    PyGILState_Release(gil);
    if (ok) return FM_OK;
    fm_gate_out_free(out);
    return fm_fail(&ctx->error, FM_ERR_STATE, "the Python gate raised an exception");
}

bool fm_py_gate_init(fm_py_gate *g, PyObject *class_) {
    if (!class_) return false;
    PyObject *top_k = PyObject_GetAttrString(class_, "default_top_k");
    long k = top_k ? PyLong_AsLong(top_k) : -1;
    Py_XDECREF(top_k);
    if (PyErr_Occurred() || k < 1) {
        PyErr_Clear();
        k = 2;
    }
    g->instances = PyDict_New();
    if (!g->instances) return false;
    g->gate = (fm_gate){.name = "python",
                        .default_top_k = k,
                        .causal = true, /* of its author's making, and on his word */
                        .has_balance = true,
                        .own_router = true,
                        .user = g,
                        .forward = forward};
    return true;
}

bool fm_py_gate_add(fm_py_gate *g, PyObject *class_, const char *name, PyObject *layer,
                    int64_t d_model, const fm_moe_config *config, PyObject *mesh) {
    PyObject *gate = PyObject_CallMethod(class_, "__new__", "O", class_);
    bool ok = gate && PyObject_SetAttrString(gate, "mesh", mesh) == 0 &&
              PyObject_SetAttrString(gate, "layer", layer) == 0;
    PyObject *done = ok ? PyObject_CallMethod(gate, "__init__", "LLL", (long long)d_model,
                                              (long long)config->num_experts,
                                              (long long)config->top_k)
                        : NULL;
    ok = done && PyDict_SetItemString(g->instances, name, gate) == 0;
    Py_XDECREF(done);
    Py_XDECREF(gate);
    return ok;
}

void fm_py_gate_clear(fm_py_gate *g) { Py_CLEAR(g->instances); }

/* Whether the list has it: a gate may refer to its model, or to another layer's gate. */
static bool listed(PyObject *list, PyObject *parameter) {
    const fm_param *p = ((fm_py_parameter *)parameter)->param;
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(list); i++)
        if (((fm_py_parameter *)PyTuple_GET_ITEM(PyList_GET_ITEM(list, i), 1))->param == p)
            return true;
    return false;
}

int fm_py_gate_parameters(const fm_py_gate *g, PyObject *list, size_t skip) {
    PyObject *key, *gate;
    Py_ssize_t at = 0;
    while (g->instances && PyDict_Next(g->instances, &at, &key, &gate)) {
        const char *layer = PyUnicode_AsUTF8(key);
        PyObject *own = layer ? fm_py_parameters_of(gate, layer) : NULL;
        if (!own) return -1;
        for (Py_ssize_t i = 0; i < PyList_GET_SIZE(own); i++) {
            PyObject *pair = PyList_GET_ITEM(own, i);
            if (listed(list, PyTuple_GET_ITEM(pair, 1))) continue;
            const char *prefix = strlen(layer) > skip ? layer + skip : "";
            PyObject *name = PyUnicode_FromFormat("%s%sgate.%U", prefix, *prefix ? "." : "",
                                                  PyTuple_GET_ITEM(pair, 0));
            PyObject *named = name ? PyTuple_Pack(2, name, PyTuple_GET_ITEM(pair, 1)) : NULL;
            int failed = !named || PyList_Append(list, named) < 0;
            Py_XDECREF(name);
            Py_XDECREF(named);
            if (failed) {
                Py_DECREF(own);
                return -1;
            }
        }
        Py_DECREF(own);
    }
    return 0;
}
