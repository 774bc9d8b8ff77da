#include "pyembed/tensor_type.h"
#include "pyembed/options.h"
#include "tensor/ops.h"

#include <string.h>

bool fm_is_tensor(PyObject *o) { return PyObject_TypeCheck(o, &fm_tensor_type); }

PyObject *fm_py_tensor_new(fm_tensor *t) {
    fm_py_tensor *self = PyObject_New(fm_py_tensor, &fm_tensor_type);
    if (!self) {
        fm_py_tensor_free(t);
        return NULL;
    }
    self->t = t;
    self->lm_loss = NULL;
    fm_the_host.live++;
    return (PyObject *)self;
}

void fm_py_tensor_dealloc(PyObject *o) {
    fm_py_tensor *self = (fm_py_tensor *)o;
    PyTypeObject *type = Py_TYPE(o);
    if (self->t) fm_the_host.live--;
    fm_py_tensor_free(self->lm_loss);
    fm_py_tensor_free(self->t);
    type->tp_free(o);
}

static PyObject *wrap(fm_call *c, fm_status s, fm_tensor *y) {
    if (!fm_call_end(c, s)) return NULL;
    return fm_py_tensor_new(y);
}

static PyObject *get_shape(PyObject *o, void *unused) {
    (void)unused;
    fm_tensor *t = fm_tensor_of(o);
    PyObject *shape = PyTuple_New(t->ndim);
    for (int i = 0; shape && i < t->ndim; i++) {
        PyObject *n = PyLong_FromLongLong(t->shape[i]);
        if (!n)
            Py_CLEAR(shape);
        else
            PyTuple_SET_ITEM(shape, i, n);
    }
    return shape;
}

static PyObject *get_dtype(PyObject *o, void *unused) {
    (void)unused;
    return PyUnicode_FromString(fm_dtype_name(fm_tensor_of(o)->dtype));
}

static PyObject *get_requires_grad(PyObject *o, void *unused) {
    (void)unused;
    return PyBool_FromLong(fm_tensor_of(o)->requires_grad);
}

static int set_requires_grad(PyObject *o, PyObject *v, void *unused) {
    (void)unused;
    fm_tensor *t = fm_tensor_of(o);
    if (!v || !PyBool_Check(v)) {
        PyErr_SetString(PyExc_TypeError, "Tensor: requires_grad is True or False");
        return -1;
    }
    if (t->node) {
        PyErr_SetString(PyExc_RuntimeError, "Tensor: requires_grad can be set on tensors that no "
                                            "operation made; use detach() before");
        return -1;
    }
    if (v == Py_True && !fm_dtype_is_float(t->dtype)) {
        PyErr_Format(PyExc_ValueError,
                     "Tensor: requires_grad=True is not allowed for %s: float32 "
                     "and bfloat16 are differentiable",
                     fm_dtype_name(t->dtype));
        return -1;
    }
    t->requires_grad = v == Py_True;
    return 0;
}

/* A gradient that the next backward will overwrite counts as zero, and reads as such. */
static PyObject *get_grad(PyObject *o, void *unused) {
    (void)unused;
    fm_tensor *t = fm_tensor_of(o);
    if (!t->grad) Py_RETURN_NONE;
    fm_call c;
    if (!fm_call_begin(&c)) return NULL;
    fm_status s = t->grad_is_set ? FM_OK : fm_tensor_zero(c.ctx, t->grad);
    if (!fm_call_end(&c, s)) return NULL;
    return fm_py_tensor_new(fm_tensor_retain(t->grad));
}

static PyGetSetDef getset[] = {
    {"shape", get_shape, NULL, "Tuple of ints.", NULL},
    {"dtype", get_dtype, NULL, "'float32', 'bfloat16', 'int32' or 'int64'.", NULL},
    {"requires_grad", get_requires_grad, set_requires_grad,
     "Whether operations with it are recorded, so that backward() gives it a gradient.", NULL},
    {"grad", get_grad, NULL,
     "Sum of the gradients since the last step() or zero_grad(), float32 and of this shape; "
     "None before the first backward(). Set on leaves only.",
     NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static const fm_option backward_rows[] = {
    {"grad", 0, FM_OPT_OBJECT, 0, 0, 0, NULL, "None",
     "gradient of this tensor, of its shape; None: 1, for tensors of one element",
     "Tensor | Buffer | None"},
    {NULL, 0, 0, 0, 0, 0, NULL, NULL, NULL, NULL},
};
static const fm_options backward_options = {
    "backward",
    backward_rows,
    1,
    "Adds the gradients of everything that this tensor was computed from to their .grad. Where it "
    "reaches an optimiser's parameters it counts as that optimiser's next micro-batch.",
};

/* A tensor of grad's values in the dtype and shape of `t`. */
static fm_tensor *grad_like(fm_tensor *t, PyObject *grad) {
    fm_values v;
    if (!fm_values_read(grad, "backward: grad", &v)) return NULL;
    fm_tensor *as32 = NULL, *out = NULL;
    fm_call c;
    if (fm_values_convert(&v, FM_F32, "backward: grad") && fm_call_begin(&c)) {
        fm_status s = fm_tensor_from_host(c.ctx, &as32, FM_F32, v.ndim, v.shape, v.data);
        if (s == FM_OK && !fm_same_shape(as32, t)) {
            char a[96], b[96];
            s = fm_fail(&c.ctx->error, FM_ERR_SHAPE, "backward: grad is %s, the tensor %s",
                        fm_tensor_describe(as32, a, sizeof a), fm_tensor_describe(t, b, sizeof b));
        }
        if (s == FM_OK) s = fm_cast(c.ctx, &out, as32, t->dtype);
        fm_tensor_free(as32);
        if (!fm_call_end(&c, s)) out = NULL;
    }
    fm_values_free(&v);
    return out;
}

static PyObject *backward(PyObject *o, PyObject *const *args, Py_ssize_t n, PyObject *names) {
    fm_py_tensor *self = (fm_py_tensor *)o;
    PyObject *grad;
    if (!fm_options_parse_fast(&backward_options, args, n, names, &grad)) return NULL;
    fm_tensor *dloss = NULL;
    if (grad && grad != Py_None && !(dloss = grad_like(self->t, grad))) return NULL;
    fm_call c;
    if (!fm_call_begin(&c)) {
        fm_py_tensor_free(dloss);
        return NULL;
    }
    fm_status s = fm_py_backward(c.ctx, self->t, dloss, self->lm_loss);
    fm_tensor_free(dloss);
    if (!fm_call_end(&c, s)) return NULL;
    Py_RETURN_NONE;
}

static PyObject *detach(PyObject *o, PyObject *unused) {
    (void)unused;
    fm_tensor *y = NULL;
    fm_call c;
    if (!fm_call_begin(&c)) return NULL;
    fm_status s = fm_tensor_detach(c.ctx, &y, fm_tensor_of(o));
    return wrap(&c, s, y);
}

static PyObject *zero_grad(PyObject *o, PyObject *unused) {
    (void)unused;
    fm_zero_grad(fm_tensor_of(o));
    Py_RETURN_NONE;
}

/* The one element as a float or an int. */
static PyObject *item(PyObject *o, PyObject *unused) {
    (void)unused;
    fm_tensor *t = fm_tensor_of(o);
    if (fm_numel(t) != 1)
        return PyErr_Format(PyExc_ValueError,
                            "Tensor: a tensor of one element is a number, this one has %lld",
                            (long long)fm_numel(t));
    double x = 0;
    int64_t i64 = 0;
    int32_t i32 = 0;
    fm_call c;
    if (!fm_call_begin(&c)) return NULL;
    fm_status s = t->dtype == FM_I64   ? fm_tensor_to_host(c.ctx, t, &i64, sizeof i64)
                  : t->dtype == FM_I32 ? fm_tensor_to_host(c.ctx, t, &i32, sizeof i32)
                                       : fm_tensor_item(c.ctx, t, &x);
    if (!fm_call_end(&c, s)) return NULL;
    if (fm_dtype_is_float(t->dtype)) return PyFloat_FromDouble(x);
    return PyLong_FromLongLong(t->dtype == FM_I64 ? i64 : i32);
}

/* float() and int(): Python would read the buffer as digits otherwise. */
static PyObject *convert(PyObject *o, PyObject *(*to)(PyObject *)) {
    PyObject *x = item(o, NULL), *y = x ? to(x) : NULL;
    Py_XDECREF(x);
    return y;
}
static PyObject *to_float(PyObject *o) { return convert(o, PyNumber_Float); }
static PyObject *to_int(PyObject *o) { return convert(o, PyNumber_Long); }

/* Not the length: `if loss:` asks for the value. */
static int to_bool(PyObject *o) {
    PyObject *x = item(o, NULL);
    int truth = x ? PyObject_IsTrue(x) : -1;
    Py_XDECREF(x);
    return truth;
}

static PyObject *repr(PyObject *o) {
    char text[128];
    fm_tensor *t = fm_tensor_of(o);
    const char *name = strrchr(Py_TYPE(o)->tp_name, '.');
    return PyUnicode_FromFormat("<%s %s on %s%s>", name ? name + 1 : Py_TYPE(o)->tp_name,
                                fm_tensor_describe(t, text, sizeof text), t->ctx->dev->name,
                                t->requires_grad ? ", requires_grad" : "");
}

static Py_ssize_t length(PyObject *o) {
    fm_tensor *t = fm_tensor_of(o);
    if (t->ndim > 0) return (Py_ssize_t)t->shape[0];
    PyErr_SetString(PyExc_TypeError, "Tensor: a tensor without dimensions has no length");
    return -1;
}

/* What a weighted sum with a model's loss in it reports: that loss's lm_loss. Of two models: none. */
static fm_tensor *lm_loss_of(PyObject *a, PyObject *b) {
    fm_tensor *x = fm_is_tensor(a) ? ((fm_py_tensor *)a)->lm_loss : NULL;
    fm_tensor *y = fm_is_tensor(b) ? ((fm_py_tensor *)b)->lm_loss : NULL;
    return x && y && x != y ? NULL : fm_tensor_retain(x ? x : y);
}

/* False without an exception: no number, or of NumPy's arrays one. */
static bool read_number(PyObject *o, double *x) {
    if (PyBool_Check(o) || PySequence_Check(o) || !PyNumber_Check(o)) return false;
    *x = PyFloat_AsDouble(o);
    return !PyErr_Occurred();
}

/* y = x + number */
static fm_status add_number(fm_ctx *ctx, fm_tensor **y, fm_tensor *x, double number) {
    fm_tensor *constant = NULL;
    FM_TRY(fm_tensor_new(ctx, &constant, x->dtype, x->ndim, x->shape));
    fm_status s = FM_KERNEL(ctx, fill, x->dtype, constant->data, (float)number, fm_numel(x));
    if (s == FM_OK) s = fm_add(ctx, y, x, constant);
    fm_tensor_free(constant);
    return s;
}

/* Two tensors, or a tensor and a number. */
static PyObject *combine(PyObject *a, PyObject *b, bool multiply) {
    PyObject *number = !fm_is_tensor(a) ? a : !fm_is_tensor(b) ? b : NULL;
    double x = 0;
    if (number && !read_number(number, &x)) {
        if (PyErr_Occurred()) return NULL;
        Py_RETURN_NOTIMPLEMENTED;
    }
    fm_tensor *y = NULL;
    fm_call c;
    if (!fm_call_begin(&c)) return NULL;
    fm_status s;
    if (number)
        s = multiply ? fm_scale(c.ctx, &y, fm_tensor_of(number == a ? b : a), (float)x)
                     : add_number(c.ctx, &y, fm_tensor_of(number == a ? b : a), x);
    else
        s = multiply ? fm_mul(c.ctx, &y, fm_tensor_of(a), fm_tensor_of(b))
                     : fm_add(c.ctx, &y, fm_tensor_of(a), fm_tensor_of(b));
    PyObject *result = wrap(&c, s, y);
    if (result) ((fm_py_tensor *)result)->lm_loss = lm_loss_of(a, b);
    return result;
}

static PyObject *nb_add(PyObject *a, PyObject *b) { return combine(a, b, false); }
static PyObject *nb_multiply(PyObject *a, PyObject *b) { return combine(a, b, true); }

static PyObject *scaled(PyObject *o, double factor) {
    PyObject *f = PyFloat_FromDouble(factor), *y = f ? combine(o, f, true) : NULL;
    Py_XDECREF(f);
    return y;
}
static PyObject *nb_negative(PyObject *o) { return scaled(o, -1); }

/* a + (-b), whichever of them is the number */
static PyObject *nb_subtract(PyObject *a, PyObject *b) {
    double x = 0;
    if (!fm_is_tensor(b) && !read_number(b, &x)) {
        if (PyErr_Occurred()) return NULL;
        Py_RETURN_NOTIMPLEMENTED;
    }
    PyObject *minus_b = fm_is_tensor(b) ? scaled(b, -1) : PyFloat_FromDouble(-x);
    PyObject *y = minus_b ? combine(a, minus_b, false) : NULL;
    Py_XDECREF(minus_b);
    return y;
}

/* By numbers only. */
static PyObject *nb_divide(PyObject *a, PyObject *b) {
    double x = 0;
    if (fm_is_tensor(b) || !read_number(b, &x)) {
        if (PyErr_Occurred()) return NULL;
        Py_RETURN_NOTIMPLEMENTED;
    }
    if (x == 0) return PyErr_Format(PyExc_ZeroDivisionError, "Tensor: division by 0");
    return scaled(a, 1 / x);
}

static PyNumberMethods as_number = {
    .nb_add = nb_add,
    .nb_multiply = nb_multiply,
    .nb_subtract = nb_subtract,
    .nb_negative = nb_negative,
    .nb_true_divide = nb_divide,
    .nb_float = to_float,
    .nb_int = to_int,
    .nb_bool = to_bool,
};
static PySequenceMethods as_sequence = {.sq_length = length};

static PyMethodDef methods[] = {
    {"backward", (PyCFunction)(void (*)(void))backward, METH_FASTCALL | METH_KEYWORDS,
     "backward($self, grad=None)\n--\n\n"
     "Adds the gradients of everything that this tensor was computed from to their .grad.\n"
     "grad has this tensor's shape; None means 1 and needs one element. Where it reaches an\n"
     "optimiser's parameters it is that optimiser's next micro-batch."},
    {"detach", detach, METH_NOARGS,
     "detach($self)\n--\n\nThe same data, without a gradient (no copy)."},
    {"zero_grad", zero_grad, METH_NOARGS,
     "zero_grad($self)\n--\n\nThe next gradient overwrites .grad instead of adding to it."},
    {"item", item, METH_NOARGS,
     "item($self)\n--\n\nThe value of a tensor of one element; waits for the device."},
    {NULL, NULL, 0, NULL},
};

PyTypeObject fm_tensor_type = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "fmoe.Tensor",
    .tp_basicsize = sizeof(fm_py_tensor),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .tp_doc =
        "An array on the device, row-major: what fmoe's operations take and give.\n\n"
        "Made by fmoe.tensor(). On the CPU numpy.asarray(t) is a view of float32 and integer\n"
        "tensors; bfloat16 and CUDA tensors refuse the buffer protocol, numpy() copies them.",
    .tp_dealloc = fm_py_tensor_dealloc,
    .tp_repr = repr,
    .tp_as_number = &as_number,
    .tp_as_sequence = &as_sequence,
    .tp_as_buffer = &fm_tensor_as_buffer,
    .tp_getset = getset,
};

int fm_add_tensor(PyObject *module) {
    /* One table of methods out of the two files' tables. */
    static PyMethodDef all[16];
    size_t n = 0;
    for (const PyMethodDef *m = methods; m->ml_name; m++) all[n++] = *m;
    for (const PyMethodDef *m = fm_tensor_exchange_methods; m->ml_name; m++) all[n++] = *m;
    fm_tensor_type.tp_methods = all;
    if (fm_add_type(module, &fm_tensor_type) < 0) return -1;
    /* NumPy's numbers and arrays on the left leave the operation to the tensor. */
    if (PyDict_SetItemString(fm_tensor_type.tp_dict, "__array_ufunc__", Py_None) < 0) return -1;
    PyType_Modified(&fm_tensor_type);
    return 0;
}
