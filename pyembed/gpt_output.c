/* fmoe.GPTOutput: what a forward gives. */
#include "pyembed/gpt_type.h"
#include "pyembed/tensor_type.h"

typedef struct py_output {
    PyObject_HEAD PyObject *loss, *lm_loss;
    fm_tensor *balance, *z; /* weighted; NULL where none */
    int64_t num_targets;
} py_output;

static PyTypeObject output_type;

PyObject *fm_py_output_new(fm_gpt_out *out) {
    py_output *self = PyObject_New(py_output, &output_type);
    if (!self) {
        fm_py_tensor_free(out->loss);
        fm_py_tensor_free(out->lm_loss);
        fm_py_tensor_free(out->lm_part);
        fm_py_tensor_free(out->balance_loss);
        fm_py_tensor_free(out->z_loss);
        return NULL;
    }
    self->num_targets = out->num_targets;
    self->balance = out->balance_loss;
    self->z = out->z_loss;
    fm_tensor *lm = out->lm_part;
    self->loss = fm_py_tensor_new(out->loss);
    self->lm_loss = fm_py_tensor_new(out->lm_loss);
    fm_the_host.live++;
    if (self->loss)
        ((fm_py_tensor *)self->loss)->lm_loss = lm;
    else
        fm_py_tensor_free(lm);
    if (!self->loss || !self->lm_loss) Py_CLEAR(self);
    return (PyObject *)self;
}

static void dealloc(PyObject *o) {
    py_output *self = (py_output *)o;
    Py_XDECREF(self->loss);
    Py_XDECREF(self->lm_loss);
    fm_py_tensor_free(self->balance);
    fm_py_tensor_free(self->z);
    fm_the_host.live--;
    Py_TYPE(o)->tp_free(o);
}

static bool add_number(PyObject *dict, const char *name, fm_tensor *t) {
    double x;
    fm_call c;
    if (!t) return true;
    if (!fm_call_begin(&c) || !fm_call_end(&c, fm_tensor_item(c.ctx, t, &x))) return false;
    PyObject *number = PyFloat_FromDouble(x);
    bool ok = number && PyDict_SetItemString(dict, name, number) == 0;
    Py_XDECREF(number);
    return ok;
}

static PyObject *get_aux(PyObject *o, void *unused) {
    (void)unused;
    py_output *self = (py_output *)o;
    PyObject *dict = PyDict_New();
    if (dict && (!add_number(dict, "balance", self->balance) || !add_number(dict, "z", self->z)))
        Py_CLEAR(dict);
    return dict;
}

static PyObject *get_tensor(PyObject *o, void *offset) {
    return Py_NewRef(*(PyObject **)((char *)o + (size_t)offset));
}

static PyObject *get_num_targets(PyObject *o, void *unused) {
    (void)unused;
    return PyLong_FromLongLong(((py_output *)o)->num_targets);
}

static PyGetSetDef getset[] = {
    {"loss", get_tensor, NULL,
     "Scalar Tensor, nats: lm_loss + the weighted auxiliary losses. backward() starts here.",
     (void *)offsetof(py_output, loss)},
    {"lm_loss", get_tensor, NULL,
     "Scalar Tensor, nats: mean cross entropy of this rank's micro-batch over the targets that are "
     "not -1.",
     (void *)offsetof(py_output, lm_loss)},
    {"num_targets", get_num_targets, NULL,
     "Targets of this rank's micro-batch that are not -1: what lm_loss is the mean over.", NULL},
    {"aux", get_aux, NULL,
     "dict of floats, weighted, what was added to lm_loss: 'balance', 'z'; waits for the device.",
     NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyTypeObject output_type = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "fmoe.GPTOutput",
    .tp_basicsize = sizeof(py_output),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .tp_doc = "What model(tokens, targets) gives.",
    .tp_dealloc = dealloc,
    .tp_getset = getset,
};

int fm_add_output(PyObject *module) { return fm_add_type(module, &output_type); }
