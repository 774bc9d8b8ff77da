/* fmoe.MoELayer: a MoE layer on its own. */
#include "pyembed/mesh_type.h"
#include "pyembed/moe_type.h"
#include "pyembed/ops.h"
#include "pyembed/parameter_type.h"

#include <stdlib.h>
#include <string.h>

typedef struct py_layer {
    PyObject_HEAD fm_moe *layer;
    fm_param_set *params;
    PyObject *moe, *mesh;
    fm_tensor *aux;  /* of the last forward, weighted; NULL: none */
    size_t name_len; /* of the layer's own name and the dot, in front of its parameters' */
    fm_py_gate gate;
} py_layer;

typedef struct layer_args {
    PyObject *moe, *mesh;
    int64_t d_model;
    bool bias;
    int dtype;
} layer_args;

#define ARG(field) #field, offsetof(layer_args, field)
static const fm_option rows[] = {
    {ARG(d_model), FM_OPT_INT, 1, INT32_MAX, 0, NULL, NULL, "width of the tokens", NULL},
    {ARG(moe), FM_OPT_OBJECT, 0, 0, 0, NULL, NULL, "its configuration; `every` is not used", "MoE"},
    {ARG(mesh), FM_OPT_OBJECT, 0, 0, 0, NULL, "None", "None: all ranks are data-parallel",
     "Mesh | None"},
    {ARG(bias), FM_OPT_BOOL, 0, 0, 0, NULL, "True", "the experts have biases", NULL},
    {ARG(dtype), FM_OPT_CHOICE, 0, 0, 0, "float32|bfloat16", "'float32'",
     "of the experts' weights, and of the tokens", NULL},
    {NULL, 0, 0, 0, 0, 0, NULL, NULL, NULL, NULL},
};
static const fm_options options = {
    "MoELayer", rows, 0,
    "A Mixture-of-Experts feed-forward layer. Parameters: gate.weight [E, d_model], "
    "experts.up.weight [E, d_hidden, d_model], experts.down.weight [E, d_model, d_hidden], and "
    "their biases. layer(x, token_ids=None) takes [T, d_model] or [B, S, d_model] and gives the "
    "same shape."};

/* The experts' weights start N(0, 0.02), as a model's. */
static const float start_std = 0.02f;

static fm_status build(fm_ctx *ctx, py_layer *self, const layer_args *a, const char *name,
                       const fm_moe_config *config) {
    self->layer = calloc(1, sizeof *self->layer);
    FM_CHECK(self->layer, FM_ERR_OOM, "out of memory: a MoE layer");
    FM_TRY(fm_param_set_new(ctx, fm_mesh_of(self->mesh), &self->params));
    FM_TRY(fm_moe_init(ctx, self->layer, name, config,
                       self->gate.instances ? &self->gate.gate : NULL, fm_mesh_of(self->mesh),
                       a->d_model, (fm_dtype)a->dtype, start_std, start_std, self->params));
    return fm_param_set_seal(self->params);
}

static PyObject *new (PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    layer_args a;
    if (!fm_options_parse(&options, args, kwargs, &a)) return NULL;
    if (!PyObject_TypeCheck(a.moe, &fm_moe_type))
        return PyErr_Format(PyExc_TypeError,
                            "MoELayer: moe=%R (%s) is of the wrong type: an fmoe.MoE is wanted",
                            a.moe, fm_type_name(a.moe));
    py_layer *self = (py_layer *)type->tp_alloc(type, 0);
    if (!self) return NULL;
    fm_the_host.live++;
    fm_py_moe *moe = (fm_py_moe *)a.moe;
    fm_moe_config config = moe->config;
    config.bias = a.bias;
    char name[64];
    fm_py_next_name(name, sizeof name, "moe_layer");
    self->name_len = strlen(name) + 1;
    self->moe = Py_NewRef(a.moe);
    self->mesh = fm_py_mesh_or_default(a.mesh, "MoELayer");
    PyObject *class_ = fm_py_gate_class(moe);
    if (!self->mesh || (!fm_py_gate_init(&self->gate, class_) && PyErr_Occurred())) goto fail;
    if (class_ &&
        !fm_py_gate_add(&self->gate, class_, name, Py_None, a.d_model, &config, self->mesh))
        goto fail;
    fm_call c;
    if (!fm_call_begin(&c)) goto fail;
    fm_status s = build(c.ctx, self, &a, name, &config);
    if (!fm_call_end(&c, s)) goto fail;
    return (PyObject *)self;
fail:
    Py_DECREF(self);
    return NULL;
}

static void free_layer(void *layer) {
    fm_moe_free(layer);
    free(layer);
}
static void free_params(void *params) { fm_param_set_free(params); }

static void dealloc(PyObject *o) {
    py_layer *self = (py_layer *)o;
    PyObject_GC_UnTrack(o);
    fm_py_tensor_free(self->aux);
    fm_py_free(free_layer, self->layer);
    fm_py_free(free_params, self->params);
    fm_the_host.live--;
    fm_py_gate_clear(&self->gate);
    Py_XDECREF(self->moe);
    Py_XDECREF(self->mesh);
    Py_TYPE(o)->tp_free(o);
}

static int traverse(PyObject *o, visitproc visit, void *arg) {
    py_layer *self = (py_layer *)o;
    Py_VISIT(self->gate.instances);
    Py_VISIT(self->moe);
    Py_VISIT(self->mesh);
    return 0;
}

static const fm_option call_rows[] = {
    FM_ARG("x", x, FM_OPT_TENSOR, NULL, "[T, d_model] or [B, S, d_model]"),
    FM_ARG("token_ids", ids, FM_OPT_TENSOR_OR_NONE, "None",
           "int, one for each token; for gates that look at them"),
    FM_ARGS_END};
static const fm_options call_options = {"MoELayer", call_rows, 2, ""};

static PyObject *call(PyObject *o, PyObject *args, PyObject *kwargs) {
    py_layer *self = (py_layer *)o;
    fm_op_args a;
    fm_moe_out out = {0};
    fm_tensor *ids = NULL, *aux = NULL;
    fm_call c;
    if (!fm_options_parse(&call_options, args, kwargs, &a) || !fm_call_begin(&c)) return NULL;
    const fm_clock *clock = fm_clock_enter(c.ctx, &self->params->clock);
    fm_mesh *mesh = fm_mesh_of(self->mesh);
    int64_t B = a.x->ndim == 3 && fm_numel(a.x) > 0 ? a.x->shape[0] : 1;
    fm_rows outer = fm_rows_enter(c.ctx,
                                  fm_mesh_rows(mesh, B, fm_rows_of(a.x) / B * mesh->config.tp));
    fm_status s = a.ids ? fm_as_int32(c.ctx, a.ids, "MoELayer: token_ids", &ids) : FM_OK;
    if (s == FM_OK) s = fm_moe_forward(c.ctx, self->layer, a.x, ids, &out);
    if (s == FM_OK) s = fm_moe_aux_loss(c.ctx, self->layer, &out, 1, &aux);
    c.ctx->clock = clock;
    c.ctx->rows = outer;
    fm_tensor_free(ids);
    fm_tensor *y = s == FM_OK ? fm_tensor_retain(out.y) : NULL;
    fm_moe_out_free(&out);
    if (!fm_call_end(&c, s)) return NULL;
    fm_py_tensor_free(self->aux);
    self->aux = aux;
    return fm_py_tensor_new(y);
}

static PyObject *get_aux(PyObject *o, void *unused) {
    (void)unused;
    py_layer *self = (py_layer *)o;
    if (self->aux) return fm_py_tensor_new(fm_tensor_retain(self->aux));
    fm_tensor *zero = NULL;
    fm_call c;
    if (!fm_call_begin(&c)) return NULL;
    fm_status s = fm_tensor_zeros(c.ctx, &zero, FM_F32, 1, (int64_t[]){1});
    return fm_call_end(&c, s) ? fm_py_tensor_new(zero) : NULL;
}

static PyStructSequence_Field routing_fields[] = {
    {"indices", "int32 Tensor [T, k]: each token's experts, -1 = not taken, or dropped"},
    {"scores", "float32 Tensor [T, k]"},
    {"tokens_per_expert", "int32 Tensor [E], after drops"},
    {NULL, NULL},
};
static PyStructSequence_Desc routing_desc = {"fmoe.Routing", "Who went where in the last forward.",
                                             routing_fields, 3};
static PyTypeObject routing_type;

static PyObject *routing(PyObject *o, PyObject *unused) {
    (void)unused;
    const fm_moe *m = ((py_layer *)o)->layer;
    fm_tensor *parts[3] = {NULL};
    fm_call c;
    if (!fm_call_begin(&c)) return NULL;
    fm_tensor *const last[] = {m->last_indices, m->last_scores, m->last_counts};
    fm_status s = FM_OK;
    for (int i = 0; s == FM_OK && last[0] && i < 3; i++)
        s = fm_tensor_detach(c.ctx, &parts[i], last[i]);
    bool ok = fm_call_end(&c, s);
    if (ok && !parts[0])
        return PyErr_Format(PyExc_RuntimeError, "routing: the layer has not run yet");
    PyObject *result = ok ? PyStructSequence_New(&routing_type) : NULL;
    for (int i = 0; i < 3; i++) {
        if (!result) {
            fm_py_tensor_free(parts[i]);
            continue;
        }
        PyObject *part = fm_py_tensor_new(parts[i]);
        if (part)
            PyStructSequence_SetItem(result, i, part);
        else
            Py_CLEAR(result);
    }
    return result;
}

static PyObject *named_parameters(PyObject *o, PyObject *unused) {
    (void)unused;
    py_layer *self = (py_layer *)o;
    PyObject *list = fm_py_named_parameters(self->params, o, self->name_len);
    if (list && fm_py_gate_parameters(&self->gate, list, self->name_len) < 0) Py_CLEAR(list);
    return list;
}

static PyObject *set_mode(PyObject *o, bool training) {
    ((py_layer *)o)->layer->training = training;
    return Py_NewRef(o);
}
static PyObject *train(PyObject *o, PyObject *unused) {
    (void)unused;
    return set_mode(o, true);
}
static PyObject *eval(PyObject *o, PyObject *unused) {
    (void)unused;
    return set_mode(o, false);
}

static PyObject *get_object(PyObject *o, void *offset) {
    return Py_NewRef(*(PyObject **)((char *)o + (size_t)offset));
}
static PyObject *get_training(PyObject *o, void *unused) {
    (void)unused;
    return PyBool_FromLong(((py_layer *)o)->layer->training);
}

static PyGetSetDef getset[] = {
    {"aux_loss", get_aux, NULL,
     "Scalar Tensor: the weighted balance and z losses of the last forward; add it to your loss.",
     NULL},
    {"mesh", get_object, NULL, "How the ranks are folded.", (void *)offsetof(py_layer, mesh)},
    {"moe", get_object, NULL, "Its configuration.", (void *)offsetof(py_layer, moe)},
    {"training", get_training, NULL, "False after eval().", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyMethodDef methods[] = {
    {"named_parameters", named_parameters, METH_NOARGS,
     "named_parameters($self)\n--\n\nA list of (name, Parameter)."},
    {"routing", routing, METH_NOARGS,
     "routing($self)\n--\n\nOf the last forward: Routing(indices, scores, tokens_per_expert)."},
    {"train", train, METH_NOARGS, "train($self)\n--\n\nTraining mode; returns the layer."},
    {"eval", eval, METH_NOARGS, "eval($self)\n--\n\nEvaluation mode; returns the layer."},
    {NULL, NULL, 0, NULL},
};

static PyTypeObject layer_type = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "fmoe.MoELayer",
    .tp_basicsize = sizeof(py_layer),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC,
    .tp_new = new,
    .tp_dealloc = dealloc,
    .tp_traverse = traverse,
    .tp_free = PyObject_GC_Del,
    .tp_call = call,
    .tp_methods = methods,
    .tp_getset = getset,
};

fm_moe *fm_py_layer_moe(PyObject *o) {
    return PyObject_TypeCheck(o, &layer_type) ? ((py_layer *)o)->layer : NULL;
}

int fm_add_moe_layer(PyObject *module) {
    layer_type.tp_doc = fm_options_doc(&options);
    if (!layer_type.tp_doc || PyStructSequence_InitType2(&routing_type, &routing_desc) < 0 ||
        PyModule_AddObjectRef(module, "Routing", (PyObject *)&routing_type) < 0)
        return -1;
    return fm_add_type(module, &layer_type);
}
