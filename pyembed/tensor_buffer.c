/* Tensors as buffers, DLPack capsules, NumPy arrays and lists. */
#include "pyembed/tensor_type.h"
#include "tensor/ops.h"

#include <stdlib.h>
#include <string.h>

/* struct-module formats; NULL: no such format. */
static const char *format_of(fm_dtype t) {
    switch (t) {
    case FM_F32:
        return "f";
    case FM_I32:
        return "i";
    case FM_I64:
        return "q";
    case FM_BF16:
        return NULL;
    }
    return NULL;
}

static const char *no_view(const fm_tensor *t) {
    if (!t->ctx->dev->on_host) return "it is in GPU memory; numpy() copies it";
    if (!format_of(t->dtype)) return "bfloat16 is no buffer format; numpy() copies it to float32";
    return NULL;
}

static int get_buffer(PyObject *o, Py_buffer *view, int flags) {
    fm_py_tensor *self = (fm_py_tensor *)o;
    fm_tensor *t = self->t;
    view->obj = NULL;
    const char *why = no_view(t);
    if (why) {
        PyErr_Format(PyExc_BufferError, "Tensor: no view of this tensor: %s", why);
        return -1;
    }
    /* What the tape may still need is read-only. */
    if ((flags & PyBUF_WRITABLE) && t->node) {
        PyErr_SetString(PyExc_BufferError,
                        "Tensor: the result of an operation cannot be written; use detach()");
        return -1;
    }
    Py_ssize_t size = (Py_ssize_t)fm_dtype_size(t->dtype), stride = size;
    for (int i = t->ndim - 1; i >= 0; i--) {
        self->shape[i] = (Py_ssize_t)t->shape[i];
        self->strides[i] = stride;
        stride *= self->shape[i];
    }
    *view = (Py_buffer){.buf = t->data,
                        .obj = Py_NewRef(o),
                        .len = (Py_ssize_t)fm_nbytes(t),
                        .itemsize = size,
                        .readonly = t->node != NULL,
                        .ndim = t->ndim,
                        .format = flags & PyBUF_FORMAT ? (char *)(uintptr_t)format_of(t->dtype)
                                                       : NULL,
                        .shape = flags & PyBUF_ND ? self->shape : NULL,
                        .strides = (flags & PyBUF_STRIDES) == PyBUF_STRIDES ? self->strides : NULL};
    return 0;
}

PyBufferProcs fm_tensor_as_buffer = {.bf_getbuffer = get_buffer};

/* ---- DLPack, version 0.x: the layout that every consumer reads */

typedef struct dl_device {
    int32_t type, id;
} dl_device;
typedef struct dl_tensor {
    void *data;
    dl_device device;
    int32_t ndim;
    uint8_t code, bits;
    uint16_t lanes;
    int64_t *shape, *strides;
    uint64_t byte_offset;
} dl_tensor;
typedef struct dl_managed {
    dl_tensor tensor;
    void *owner;
    void (*deleter)(struct dl_managed *);
} dl_managed;

enum { DL_CPU = 1, DL_CUDA = 2 };

static dl_device dl_device_of(const fm_tensor *t) {
    const fm_device *d = t->ctx->dev;
    return d->on_host ? (dl_device){DL_CPU, 0} : (dl_device){DL_CUDA, d->index};
}

/* Consumers call it from any thread, with or without the interpreter's lock. */
static void dl_delete(dl_managed *m) {
    PyGILState_STATE gil = PyGILState_Ensure();
    fm_py_tensor_free(m->owner);
    fm_the_host.live--;
    PyGILState_Release(gil);
    free(m);
}

static void capsule_delete(PyObject *capsule) {
    if (PyCapsule_IsValid(capsule, "dltensor")) {
        dl_managed *m = PyCapsule_GetPointer(capsule, "dltensor");
        m->deleter(m);
    }
}

static PyObject *dlpack(PyObject *o, PyObject *args, PyObject *kwargs) {
    /* stream, max_version, dl_device, copy: hints. What is exported waits for the device below, and
     * is of the oldest version. */
    (void)args, (void)kwargs;
    fm_tensor *t = fm_tensor_of(o);
    fm_call c;
    if (!fm_call_begin(&c)) return NULL;
    fm_status s = c.ctx->dev->ops->sync(c.ctx->dev);
    if (!fm_call_end(&c, s)) return NULL;
    dl_managed *m = calloc(1, sizeof *m);
    if (!m) return PyErr_NoMemory();
    uint8_t code = t->dtype == FM_F32 ? 2 : t->dtype == FM_BF16 ? 4 : 0;
    m->tensor = (dl_tensor){.data = t->data,
                            .device = dl_device_of(t),
                            .ndim = t->ndim,
                            .code = code,
                            .bits = (uint8_t)(8 * fm_dtype_size(t->dtype)),
                            .lanes = 1,
                            .shape = t->shape};
    m->owner = fm_tensor_retain(t);
    m->deleter = dl_delete;
    fm_the_host.live++;
    PyObject *capsule = PyCapsule_New(m, "dltensor", capsule_delete);
    if (!capsule) dl_delete(m);
    return capsule;
}

static PyObject *dlpack_device(PyObject *o, PyObject *unused) {
    (void)unused;
    dl_device d = dl_device_of(fm_tensor_of(o));
    return Py_BuildValue("(ii)", d.type, d.id);
}

/* ---- copies */

static PyObject *copy_bytes(const fm_values *v) {
    return PyByteArray_FromStringAndSize(v->data,
                                         (Py_ssize_t)(v->n * (int64_t)fm_dtype_size(v->dtype)));
}

static PyObject *to_numpy(PyObject *o, PyObject *unused) {
    (void)unused;
    fm_values v;
    PyObject *numpy = PyImport_ImportModule("numpy");
    if (!numpy) return NULL;
    if (!fm_values_read(o, "numpy", &v)) {
        Py_DECREF(numpy);
        return NULL;
    }
    PyObject *out = NULL, *bytes = copy_bytes(&v);
    PyObject *shape = PyObject_GetAttrString(o, "shape");
    PyObject *flat = bytes && shape ? PyObject_CallMethod(numpy, "frombuffer", "Os", bytes,
                                                          fm_dtype_name(v.dtype))
                                    : NULL;
    if (flat) out = PyObject_CallMethod(flat, "reshape", "O", shape);
    Py_XDECREF(flat);
    Py_XDECREF(shape);
    Py_XDECREF(bytes);
    Py_DECREF(numpy);
    fm_values_free(&v);
    return out;
}

/* NumPy asks this after the buffer protocol refused: without it numpy.asarray would make an array
 * of one Python object. */
static PyObject *array(PyObject *o, PyObject *args, PyObject *kwargs) {
    (void)args, (void)kwargs;
    const char *why = no_view(fm_tensor_of(o));
    if (why) return PyErr_Format(PyExc_TypeError, "Tensor: no view of this tensor: %s", why);
    return to_numpy(o, NULL);
}

static PyObject *list_of(const fm_values *v, int dim, int64_t *at) {
    if (dim == v->ndim) {
        int64_t i = (*at)++;
        switch (v->dtype) {
        case FM_I32:
            return PyLong_FromLong(((int32_t *)v->data)[i]);
        case FM_I64:
            return PyLong_FromLongLong(((int64_t *)v->data)[i]);
        default:
            return PyFloat_FromDouble((double)((float *)v->data)[i]);
        }
    }
    PyObject *list = PyList_New((Py_ssize_t)v->shape[dim]);
    for (int64_t i = 0; list && i < v->shape[dim]; i++) {
        PyObject *x = list_of(v, dim + 1, at);
        if (!x)
            Py_CLEAR(list);
        else
            PyList_SET_ITEM(list, (Py_ssize_t)i, x);
    }
    return list;
}

static PyObject *tolist(PyObject *o, PyObject *unused) {
    (void)unused;
    fm_values v;
    if (!fm_values_read(o, "tolist", &v)) return NULL;
    int64_t at = 0;
    PyObject *list = list_of(&v, 0, &at);
    fm_values_free(&v);
    return list;
}

static PyObject *copy_in(PyObject *o, PyObject *array_) {
    fm_tensor *t = fm_tensor_of(o);
    if (t->node)
        return PyErr_Format(PyExc_RuntimeError,
                            "copy_: the result of an operation cannot be overwritten");
    fm_values v;
    if (!fm_values_read(array_, "copy_: array", &v)) return NULL;
    bool same = v.ndim == t->ndim && !memcmp(v.shape, t->shape, (size_t)v.ndim * sizeof *v.shape);
    if (!same) {
        char text[96];
        PyErr_Format(PyExc_ValueError,
                     "copy_: array has %d dimensions and %lld elements, the tensor is %s", v.ndim,
                     (long long)v.n, fm_tensor_describe(t, text, sizeof text));
    }
    fm_dtype wanted = t->dtype == FM_BF16 ? FM_F32 : t->dtype;
    if (same && fm_values_convert(&v, wanted, "copy_: array")) {
        if (t->dtype == FM_BF16)
            for (int64_t i = 0; i < v.n; i++)
                ((fm_bf16 *)v.data)[i] = fm_f32_to_bf16(((float *)v.data)[i]);
        fm_call c;
        if (fm_call_begin(&c)) fm_call_end(&c, fm_tensor_set(c.ctx, t, v.data, fm_nbytes(t)));
    }
    fm_values_free(&v);
    return PyErr_Occurred() ? NULL : Py_NewRef(o);
}

#define KEYWORDS (PyCFunction)(void (*)(void))
PyMethodDef fm_tensor_exchange_methods[] = {
    {"copy_", copy_in, METH_O,
     "copy_($self, array, /)\n--\n\nOverwrites the values by those of a buffer, tensor or "
     "(nested)\n"
     "list of this shape; returns the tensor."},
    {"numpy", to_numpy, METH_NOARGS,
     "numpy($self)\n--\n\nA copy as a NumPy array; bfloat16 becomes float32. Waits for the "
     "device."},
    {"tolist", tolist, METH_NOARGS, "tolist($self)\n--\n\nThe values as nested lists of numbers."},
    {"__array__", KEYWORDS array, METH_VARARGS | METH_KEYWORDS,
     "__array__($self, dtype=None, copy=None)\n--\n\nFor NumPy, where there is no view."},
    {"__dlpack__", KEYWORDS dlpack, METH_VARARGS | METH_KEYWORDS,
     "__dlpack__($self, *, stream=None, max_version=None, dl_device=None, copy=None)\n--\n\n"
     "A DLPack capsule of the same memory; waits for the device."},
    {"__dlpack_device__", dlpack_device, METH_NOARGS,
     "__dlpack_device__($self)\n--\n\n(1, 0) on the CPU, (2, n) on GPU n."},
    {NULL, NULL, 0, NULL},
};
