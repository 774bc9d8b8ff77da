#include "pyembed/gpt_type.h"
#include "pyembed/mesh_type.h"
#include "pyembed/tensor_type.h"

#include <math.h>
#include <stdio.h>

#define FIELD(name) #name, offsetof(fm_gpt_args, config.name)
#define ACT(name, text) text "|"
#define MAX 2147483647
static const fm_option rows[] = {
    {FIELD(vocab_size), FM_OPT_INT, 1, MAX, 0, NULL, NULL, "tokens are 0 .. vocab_size - 1", NULL},
    {FIELD(n_layer), FM_OPT_INT, 1, 65536, 0, NULL, NULL, "blocks", NULL},
    {FIELD(d_model), FM_OPT_INT, 1, MAX, 0, NULL, NULL, "width of the residual stream", NULL},
    {FIELD(n_head), FM_OPT_INT, 1, 65536, 0, NULL, NULL, "query heads; divides d_model", NULL},
    {FIELD(seq_len), FM_OPT_INT, 1, MAX, 0, NULL, NULL, "longest sequence, in tokens", NULL},
    {FIELD(d_hidden), FM_OPT_INT_OR_NONE, 1, MAX, 0, NULL, "None",
     "width of the dense feed-forward layers; None: 4*d_model", NULL},
    {FIELD(n_kv_head), FM_OPT_INT_OR_NONE, 1, 65536, 0, NULL, "None",
     "key and value heads; divides n_head; None: n_head", NULL},
    {FIELD(activation), FM_OPT_CHOICE, 0, 0, 0, FM_ACT_MAP(ACT), "'gelu'",
     "of the dense feed-forward layers", NULL},
    {FIELD(norm), FM_OPT_CHOICE, 0, 0, 0, "layernorm|rmsnorm", "'layernorm'", "before each part",
     NULL},
    {FIELD(norm_eps), FM_OPT_FLOAT, 0, 1, FM_OPEN_LOW, NULL, "1e-05", "added to the variance",
     NULL},
    {FIELD(position), FM_OPT_CHOICE, 0, 0, 0, "learned|rope", "'learned'", "how positions enter",
     NULL},
    {FIELD(rope_theta), FM_OPT_FLOAT, 0, INFINITY, FM_OPEN_LOW, NULL, "10000.0", "base of rope",
     NULL},
    {FIELD(dropout), FM_OPT_FLOAT, 0, 1, FM_OPEN_HIGH, NULL, "0.0",
     "of embeddings and of what each part adds", NULL},
    {FIELD(bias), FM_OPT_BOOL, 0, 0, 0, NULL, "True", "linear layers, norms and experts have one",
     NULL},
    {FIELD(tie_embeddings), FM_OPT_BOOL, 0, 0, 0, NULL, "True", "the head is the token embedding",
     NULL},
    {"moe", offsetof(fm_gpt_args, moe), FM_OPT_OBJECT, 0, 0, 0, NULL, "None",
     "None: every layer is dense", "MoE | None"},
    {"mesh", offsetof(fm_gpt_args, mesh), FM_OPT_OBJECT, 0, 0, 0, NULL, "None",
     "None: all ranks are data-parallel", "Mesh | None"},
    {FIELD(dtype), FM_OPT_CHOICE, 0, 0, 0, "float32|bfloat16", "'float32'",
     "of weights and activations; masters, moments, losses and routers are float32 in both", NULL},
    {FIELD(recompute), FM_OPT_SWITCH, 0, 0, 0, "none|block", "'none'",
     "block: each block's activations are computed again in backward: less memory, 4/3 the time",
     NULL},
    {NULL, 0, 0, 0, 0, 0, NULL, NULL, NULL, NULL},
};
const fm_options fm_gpt_options = {
    "GPT", rows, 0,
    "A pre-norm decoder with dense or MoE feed-forward layers. Weights start N(0, 0.02), those "
    "into "
    "the residual stream N(0, 0.02/sqrt(2*n_layer)), by the seed of manual_seed.\n\n"
    "model(tokens, targets) gives an output with loss, lm_loss and aux."};

static bool use_moe(fm_gpt_args *a) {
    if (!a->moe || a->moe == Py_None) {
        a->moe = NULL;
        return true;
    }
    if (!PyObject_TypeCheck(a->moe, &fm_moe_type)) {
        PyErr_Format(PyExc_TypeError,
                     "GPT: moe=%R (%s) is of the wrong type: None or an fmoe.MoE is wanted", a->moe,
                     fm_type_name(a->moe));
        return false;
    }
    fm_py_moe *moe = (fm_py_moe *)a->moe;
    a->config.has_moe = true;
    a->config.moe = moe->config;
    a->config.moe_every = moe->interval;
    a->config.moe_layers = moe->layers;
    a->config.n_moe_layers = moe->n_layers;
    return true;
}

/* One gate for each MoE layer, before the model is made: it asks for none. */
static bool add_gates(fm_py_gpt *self, fm_gpt_args *a) {
    PyObject *class_ = a->moe ? fm_py_gate_class((fm_py_moe *)a->moe) : NULL;
    if (!fm_py_gate_init(&self->gate, class_)) return !PyErr_Occurred();
    a->config.gate = &self->gate.gate;
    for (int64_t i = 0; i < a->config.n_layer; i++) {
        char name[64];
        if (!fm_gpt_is_moe_layer(&a->config, i)) continue;
        snprintf(name, sizeof name, "layers.%lld.moe", (long long)i);
        PyObject *layer = PyLong_FromLongLong(i);
        bool ok = layer && fm_py_gate_add(&self->gate, class_, name, layer, a->config.d_model,
                                          &a->config.moe, self->mesh);
        Py_XDECREF(layer);
        if (!ok) return false;
    }
    return true;
}

/* A block that is recomputed calls the model, and its gates: the tape holds this object until then.
 * At the interpreter's end objects stay where they are. */
static void retain(void *o) {
    PyGILState_STATE gil = PyGILState_Ensure();
    Py_INCREF(o);
    PyGILState_Release(gil);
}
static void release(void *o) {
    if (!Py_IsInitialized()) return;
    PyGILState_STATE gil = PyGILState_Ensure();
    Py_DECREF(o);
    PyGILState_Release(gil);
}

static PyObject *new (PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    fm_gpt_args a = {.config = fm_gpt_config_default(1, 1, 1, 1, 1)};
    if (!fm_options_parse(&fm_gpt_options, args, kwargs, &a) || !use_moe(&a)) return NULL;
    fm_py_gpt *self = (fm_py_gpt *)type->tp_alloc(type, 0);
    if (!self) return NULL;
    fm_the_host.live++;
    self->moe = Py_XNewRef(a.moe);
    self->mesh = fm_py_mesh_or_default(a.mesh, "GPT");
    fm_call c;
    if (!self->mesh || !add_gates(self, &a) || !fm_call_begin(&c)) goto fail;
    fm_status s = fm_gpt_new(c.ctx, &a.config, fm_mesh_of(self->mesh), &self->gpt);
    if (s != FM_OK) fm_fail_context(&c.ctx->error, s, "GPT");
    if (!fm_call_end(&c, s)) goto fail;
    self->gpt->keep = (fm_keep){retain, release, self};
    return (PyObject *)self;
fail:
    Py_DECREF(self);
    return NULL;
}

static void free_gpt(void *gpt) { fm_gpt_free(gpt); }

static void dealloc(PyObject *o) {
    fm_py_gpt *self = (fm_py_gpt *)o;
    PyObject_GC_UnTrack(o);
    fm_py_free(free_gpt, self->gpt);
    fm_the_host.live--;
    fm_py_gate_clear(&self->gate);
    Py_XDECREF(self->mesh);
    Py_XDECREF(self->moe);
    Py_TYPE(o)->tp_free(o);
}

/* Gates written in Python may refer to their model; their dict is where the cycle is cut. */
static int traverse(PyObject *o, visitproc visit, void *arg) {
    fm_py_gpt *self = (fm_py_gpt *)o;
    Py_VISIT(self->gate.instances);
    Py_VISIT(self->moe);
    Py_VISIT(self->mesh);
    return 0;
}

/* The configuration as the model resolved it: defaults that follow from others are numbers here. */
static PyObject *get_config(PyObject *o, void *row_index) {
    const fm_py_gpt *self = (fm_py_gpt *)o;
    fm_gpt_args a = {.config = self->gpt->config};
    return fm_option_get(&rows[(size_t)row_index], &a);
}

static PyObject *get_object(PyObject *o, void *offset) {
    PyObject *x = *(PyObject **)((char *)o + (size_t)offset);
    return Py_NewRef(x ? x : Py_None);
}

static PyObject *get_training(PyObject *o, void *unused) {
    (void)unused;
    return PyBool_FromLong(((fm_py_gpt *)o)->gpt->training);
}

enum { ROWS = sizeof rows / sizeof *rows };

/* The table's attributes, and three more. */
static PyGetSetDef *attributes(void) {
    static PyGetSetDef all[ROWS + 4];
    size_t n = 0;
    for (size_t i = 0; rows[i].name; i++)
        if (rows[i].kind != FM_OPT_OBJECT)
            all[n++] = (PyGetSetDef){rows[i].name, get_config, NULL, rows[i].doc, (void *)i};
    all[n++] = (PyGetSetDef){"mesh", get_object, NULL, "How the ranks are folded.",
                             (void *)offsetof(fm_py_gpt, mesh)};
    all[n++] = (PyGetSetDef){"moe", get_object, NULL, "The MoE layers' configuration, or None.",
                             (void *)offsetof(fm_py_gpt, moe)};
    all[n++] = (PyGetSetDef){"training", get_training, NULL, "False after eval().", NULL};
    return all;
}

/* int32 [B, S] on the device, out of what a script has. A new reference; NULL with an exception. */
static fm_tensor *device_tokens(PyObject *o, const char *what, int64_t low, int64_t vocab) {
    if (fm_is_tensor(o) && fm_tensor_of(o)->dtype == FM_I32)
        return fm_tensor_retain(fm_tensor_of(o)); /* a loader's, or checked by the operations */
    fm_values v;
    if (!fm_tokens_read(o, what, low, vocab, false, &v)) return NULL;
    fm_tensor *t = NULL;
    fm_call c;
    if (fm_call_begin(&c))
        fm_call_end(&c, fm_tensor_from_host(c.ctx, &t, FM_I32, v.ndim, v.shape, v.data));
    fm_values_free(&v);
    return PyErr_Occurred() ? NULL : t;
}

static PyObject *call(PyObject *o, PyObject *args, PyObject *kwargs) {
    static char *names[] = {"tokens", "targets", NULL};
    fm_gpt *gpt = ((fm_py_gpt *)o)->gpt;
    int64_t vocab = gpt->config.vocab_size;
    PyObject *tokens_arg, *targets_arg;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "OO:GPT", names, &tokens_arg, &targets_arg))
        return NULL;
    fm_gpt_out out = {0};
    fm_tensor *targets = NULL, *tokens = device_tokens(tokens_arg, "GPT: tokens", 0, vocab);
    if (tokens) targets = device_tokens(targets_arg, "GPT: targets", -1, vocab);
    bool ok = false;
    fm_call c;
    if (targets && fm_call_begin(&c)) {
        fm_status s = fm_gpt_forward(gpt, tokens, targets, &out);
        if (s != FM_OK) fm_fail_context(&c.ctx->error, s, "GPT");
        ok = fm_call_end(&c, s);
    }
    fm_py_tensor_free(tokens);
    fm_py_tensor_free(targets);
    return ok ? fm_py_output_new(&out) : NULL;
}

PyTypeObject fm_gpt_type = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "fmoe.GPT",
    .tp_basicsize = sizeof(fm_py_gpt),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC,
    .tp_new = new,
    .tp_dealloc = dealloc,
    .tp_traverse = traverse,
    .tp_free = PyObject_GC_Del,
    .tp_call = call,
    .tp_methods = fm_gpt_methods,
};

int fm_add_gpt(PyObject *module) {
    fm_gpt_type.tp_doc = fm_options_doc(&fm_gpt_options);
    fm_gpt_type.tp_getset = attributes();
    if (!fm_gpt_type.tp_doc || fm_add_output(module) < 0) return -1;
    return fm_add_type(module, &fm_gpt_type);
}
