#include "pyembed/moe_type.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct moe_args {
    PyObject *gate, *every;
    fm_moe_config config;
    fm_py_moe_later later;
} moe_args;
_Static_assert(offsetof(fm_py_moe, later) - offsetof(fm_py_moe, config) ==
                   offsetof(moe_args, later) - offsetof(moe_args, config),
               "one shift leads from the arguments' rows to the object's");

#define FIELD(name) #name, offsetof(moe_args, config.name)
#define LATER(name) #name, offsetof(moe_args, later.name)
#define ACT(name, text) text "|"
#define COUNT_MAX (1 << 20)
static const fm_option rows[] = {
    {FIELD(num_experts), FM_OPT_INT, 1, COUNT_MAX, 0, NULL, NULL, "experts, over all ranks", NULL},
    {FIELD(top_k), FM_OPT_INT_OR_NONE, 1, COUNT_MAX, 0, NULL, "None",
     "experts of each token; None: the gate's own (2; switch 1)", NULL},
    {FIELD(d_hidden), FM_OPT_INT, 1, COUNT_MAX, 0, NULL, NULL, "width of each expert", NULL},
    {"gate", offsetof(moe_args, gate), FM_OPT_OBJECT, 0, 0, 0, NULL, "'gshard'",
     "'naive', 'gshard', 'switch', or a subclass of fmoe.Gate", "str | type[Gate]"},
    {FIELD(activation), FM_OPT_CHOICE, 0, 0, 0, FM_ACT_MAP(ACT), "'gelu'", "of the experts", NULL},
    {FIELD(capacity_factor), FM_OPT_FLOAT_OR_NONE, 0, INFINITY, FM_OPEN_LOW | FM_ALLOW_INFINITY,
     NULL, "None",
     "an expert takes at most ceil(factor*k*T/E) of the T tokens in training; None: all", NULL},
    {FIELD(eval_capacity_factor), FM_OPT_FLOAT_OR_NONE, 0, INFINITY,
     FM_OPEN_LOW | FM_ALLOW_INFINITY, NULL, "None", "the same after eval()", NULL},
    {FIELD(drop_policy), FM_OPT_CHOICE, 0, 0, 0, "position|score", "'position'",
     "who keeps its place: earlier tokens, or higher scores (not causal)", NULL},
    {FIELD(capacity_scope), FM_OPT_CHOICE, 0, 0, 0, "global|sequence|rank", "'global'",
     "the tokens that share out capacity: all ranks', one sequence's, or one rank's", NULL},
    {FIELD(aux_loss_weight), FM_OPT_FLOAT, 0, INFINITY, 0, NULL, "0.01",
     "of the balance loss, which is 1 at perfect balance; mean over the MoE layers", NULL},
    {FIELD(aux_loss_scope), FM_OPT_CHOICE, 0, 0, 0, "global|sequence|rank", "'global'",
     "the tokens over which balance is measured: all ranks', a sequence's, or a rank's", NULL},
    {FIELD(z_loss_weight), FM_OPT_FLOAT, 0, INFINITY, 0, NULL, "0.0",
     "of mean(logsumexp(router logits)**2)", NULL},
    {FIELD(gate_bias), FM_OPT_BOOL, 0, 0, 0, NULL, "False", "the router has a bias", NULL},
    {FIELD(scale), FM_OPT_FLOAT, 0, INFINITY, FM_OPEN_LOW, NULL, "1.0", "multiplies every score",
     NULL},
    {FIELD(num_shared_experts), FM_OPT_INT, 0, COUNT_MAX, 0, NULL, "0",
     "experts that see every token", NULL},
    {"every", offsetof(moe_args, every), FM_OPT_OBJECT, 0, 0, 0, NULL, "2",
     "layer I is MoE when (I+1) % every == 0; or the MoE layers' numbers, from 0",
     "int | Sequence[int]"},
    {FIELD(renormalize), FM_OPT_BOOL, 0, 0, 0, NULL, "False",
     "scores of the choices that experts compute are divided by their sum", NULL},
    {FIELD(jitter), FM_OPT_FLOAT, 0, 1, FM_OPEN_HIGH, NULL, "0.0",
     "switch: in training the router's input is multiplied by U[1 - jitter, 1 + jitter]", NULL},
    {"second_policy", offsetof(moe_args, config.random_second), FM_OPT_SWITCH, 0, 0, 0,
     "all|random", "'random'",
     "gshard, in training: keep the second choice with probability 2*score, or always", NULL},
    {LATER(router_dtype), FM_OPT_CHOICE, 0, 0, 0, "float32|bfloat16", "'float32'",
     "of the router; only float32 so far", NULL},
    {LATER(dispatch), FM_OPT_CHOICE, 0, 0, 0, "alltoall|scheduled", "'alltoall'",
     "how tokens travel to other ranks; only alltoall so far", NULL},
    {LATER(shadow), FM_OPT_BOOL, 0, 0, 0, NULL, "False",
     "copies of busy experts on every rank; only False so far", NULL},
    {LATER(bias_update_rate), FM_OPT_FLOAT, 0, 1, 0, NULL, "0.0",
     "of balancing without a loss; only 0 so far", NULL},
    {LATER(num_groups), FM_OPT_INT, 1, COUNT_MAX, 0, NULL, "1", "groups of experts; only 1 so far",
     NULL},
    {LATER(top_groups), FM_OPT_INT, 1, COUNT_MAX, 0, NULL, "1",
     "groups that a token may use; only 1 so far", NULL},
    {NULL, 0, 0, 0, 0, 0, NULL, NULL, NULL, NULL},
};
static const fm_options options = {
    "MoE", rows, 0,
    "What the Mixture-of-Experts layers of a model are: "
    "y = sum over the chosen experts of score * expert(x), plus the shared experts."};

PyObject *fm_py_gate_class(const fm_py_moe *moe) {
    return PyType_Check(moe->gate) ? moe->gate : NULL;
}

static bool read_gate(PyObject *gate, fm_moe_config *c) {
    if (!gate) return true; /* the default is in the configuration */
    const char *name = PyUnicode_Check(gate) ? PyUnicode_AsUTF8(gate) : NULL;
    if (name && fm_gate_find(name)) {
        snprintf(c->gate, sizeof c->gate, "%s", name);
        return true;
    }
    if (PyType_Check(gate) && PyObject_HasAttrString(gate, "forward")) {
        snprintf(c->gate, sizeof c->gate, "python");
        return true;
    }
    char known[256];
    size_t used = 0;
    for (int i = 0; fm_gate_at(i) && used < sizeof known; i++)
        used += (size_t)snprintf(known + used, sizeof known - used, "'%s', ", fm_gate_at(i)->name);
    PyErr_Format(name ? PyExc_ValueError : PyExc_TypeError, "MoE: gate=%R is not allowed: %s%s is",
                 gate, known, "or a subclass of fmoe.Gate");
    return false;
}

/* Arguments that scripts may name already, at the value that they have today. */
static bool check_later(const fm_py_moe_later *l) {
    const char *what = l->router_dtype           ? "router_dtype='bfloat16'"
                       : l->dispatch             ? "dispatch='scheduled'"
                       : l->shadow               ? "shadow=True"
                       : l->bias_update_rate > 0 ? "bias_update_rate above 0"
                       : l->num_groups > 1       ? "num_groups above 1"
                       : l->top_groups > 1       ? "top_groups above 1"
                                                 : NULL;
    if (what)
        PyErr_Format(PyExc_NotImplementedError,
                     "MoE: %s is not there yet: the default is what works", what);
    return !what;
}

static bool read_every(fm_py_moe *self, PyObject *every) {
    if (!every || (PyLong_Check(every) && !PyBool_Check(every))) {
        int overflow = 0;
        self->interval = every ? PyLong_AsLongLongAndOverflow(every, &overflow) : 2;
        if (overflow || self->interval < 1) goto refuse;
        self->every = PyLong_FromLongLong(self->interval);
        return self->every != NULL;
    }
    PyObject *tuple = PyUnicode_Check(every) ? NULL : PySequence_Tuple(every);
    if (!tuple) goto refuse;
    self->every = tuple;
    self->n_layers = (int)PyTuple_GET_SIZE(tuple);
    self->layers = calloc((size_t)self->n_layers + 1, sizeof *self->layers);
    if (!self->layers) return PyErr_NoMemory() != NULL;
    for (int i = 0; i < self->n_layers; i++) {
        self->layers[i] = PyLong_AsLongLong(PyTuple_GET_ITEM(tuple, i));
        if (PyErr_Occurred() || self->layers[i] < 0) goto refuse;
    }
    if (self->n_layers > 0) return true;
refuse:
    PyErr_Clear();
    PyErr_Format(
        PyExc_ValueError,
        "MoE: every=%R is not allowed: an int of at least 1, or a list of layers from 0, is",
        every);
    return false;
}

static PyObject *new (PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    moe_args a = {.config = fm_moe_config_default(1, 1)};
    if (!fm_options_parse(&options, args, kwargs, &a) || !check_later(&a.later) ||
        !read_gate(a.gate, &a.config))
        return NULL;
    fm_py_moe *self = (fm_py_moe *)type->tp_alloc(type, 0);
    if (!self) return NULL;
    self->gate = a.gate ? Py_NewRef(a.gate) : PyUnicode_FromString(a.config.gate);
    fm_py_gate bridge = {0};
    fm_call c;
    if (!self->gate || !read_every(self, a.every)) goto fail;
    bool python = fm_py_gate_init(&bridge, fm_py_gate_class(self));
    if (PyErr_Occurred() || !fm_call_begin(&c)) goto fail;
    fm_status s = fm_moe_config_check(c.ctx, &a.config, python ? &bridge.gate : NULL);
    if (s != FM_OK) fm_fail_context(&c.ctx->error, s, "MoE");
    if (!fm_call_end(&c, s)) goto fail;
    /* Allowed, but hardly meant: the softmax over one logit is 1 whatever the router says. */
    if (!python && a.config.top_k == 1 && strcmp(a.config.gate, "naive") == 0 &&
        PyErr_WarnEx(PyExc_UserWarning,
                     "MoE: gate 'naive' with top_k=1 gives every score 1 and its router no "
                     "gradient; gate 'switch' learns where to route",
                     1) < 0)
        goto fail;
    fm_py_gate_clear(&bridge);
    self->config = a.config;
    self->later = a.later;
    return (PyObject *)self;
fail:
    fm_py_gate_clear(&bridge);
    Py_DECREF(self);
    return NULL;
}

static void dealloc(PyObject *o) {
    fm_py_moe *self = (fm_py_moe *)o;
    Py_XDECREF(self->gate);
    Py_XDECREF(self->every);
    free(self->layers);
    Py_TYPE(o)->tp_free(o);
}

static PyObject *get_object(PyObject *o, void *offset) {
    return Py_NewRef(*(PyObject **)((char *)o + (size_t)offset));
}

static const PyGetSetDef more[] = {
    {"gate", get_object, NULL, "Its name, or its class.", (void *)offsetof(fm_py_moe, gate)},
    {"every", get_object, NULL, "Which layers are MoE.", (void *)offsetof(fm_py_moe, every)},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyObject *describe(PyObject *type, PyObject *unused) {
    (void)type, (void)unused;
    return fm_options_describe(&options);
}

static PyMethodDef methods[] = {
    {"options", describe, METH_NOARGS | METH_CLASS,
     "options($type)\n--\n\nA tuple of dicts, one for each argument: name, type, required, "
     "default, "
     "low, high,\nchoices, doc."},
    {NULL, NULL, 0, NULL},
};

PyTypeObject fm_moe_type = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "fmoe.MoE",
    .tp_basicsize = sizeof(fm_py_moe),
    .tp_flags = Py_TPFLAGS_DEFAULT,
    .tp_new = new,
    .tp_dealloc = dealloc,
    .tp_methods = methods,
};

int fm_add_moe(PyObject *module) {
    fm_moe_type.tp_doc = fm_options_doc(&options);
    /* The rows' offsets are those of moe_args: the object's configuration stands elsewhere. */
    size_t shift = offsetof(fm_py_moe, config) - offsetof(moe_args, config);
    fm_moe_type.tp_getset = fm_options_getset(&options, shift, more);
    if (!fm_moe_type.tp_doc || !fm_moe_type.tp_getset) return -1;
    return fm_add_type(module, &fm_moe_type);
}
