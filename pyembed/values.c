/* Numbers from Python: tensors, buffers, nested sequences. */
#include "pyembed/tensor_type.h"

#include <stdlib.h>
#include <string.h>

void fm_values_free(fm_values *v) {
    free(v->data);
    v->data = NULL;
}

static bool set_shape(fm_values *v, const char *what, int ndim, const Py_ssize_t *shape) {
    if (ndim > FM_MAX_DIMS) {
        PyErr_Format(PyExc_ValueError, "%s has %d dimensions: at most %d are allowed", what, ndim,
                     FM_MAX_DIMS);
        return false;
    }
    v->ndim = ndim;
    v->n = 1;
    for (int i = 0; i < ndim; i++) {
        v->shape[i] = shape[i];
        v->n *= shape[i];
    }
    return true;
}

static bool take_memory(fm_values *v, size_t size) {
    v->data = malloc((size_t)v->n * size + 1);
    if (!v->data) PyErr_NoMemory();
    return v->data != NULL;
}

static bool from_tensor(fm_tensor *t, fm_values *v) {
    v->dtype = t->dtype == FM_BF16 ? FM_F32 : t->dtype;
    v->ndim = t->ndim;
    v->n = fm_numel(t);
    memcpy(v->shape, t->shape, sizeof v->shape);
    if (!take_memory(v, fm_dtype_size(v->dtype))) return false;
    fm_call c;
    if (!fm_call_begin(&c)) return false;
    fm_status s = fm_tensor_to_host(c.ctx, t, v->data, fm_nbytes(t));
    if (s == FM_OK && t->dtype == FM_BF16)
        for (int64_t i = v->n - 1; i >= 0; i--) /* widens in place, from the end */
            ((float *)v->data)[i] = fm_bf16_to_f32(((fm_bf16 *)v->data)[i]);
    return fm_call_end(&c, s);
}

/* Copies n elements of C type `from` as `to`. */
#define COPY_AS(to, from)                                                                          \
    for (int64_t i = 0; i < v->n; i++) {                                                           \
        from x;                                                                                    \
        memcpy(&x, src + (size_t)i * sizeof x, sizeof x);                                          \
        ((to *)v->data)[i] = (to)x;                                                                \
    }

static bool copy_uint64(fm_values *v, const char *src, const char *what) {
    for (int64_t i = 0; i < v->n; i++) {
        uint64_t x;
        memcpy(&x, src + (size_t)i * sizeof x, sizeof x);
        if (x > INT64_MAX) {
            PyErr_Format(PyExc_ValueError, "%s holds %llu: integers below 2**63 are allowed", what,
                         (unsigned long long)x);
            return false;
        }
        ((int64_t *)v->data)[i] = (int64_t)x;
    }
    return true;
}

static bool copy_elements(fm_values *v, const char *src, char format, Py_ssize_t size,
                          const char *what) {
    bool is_signed = strchr("bhilqn", format) != NULL,
         is_int = is_signed || strchr("BHILQN?", format);
    v->dtype = !is_int ? FM_F32 : size < 4 || (size == 4 && is_signed) ? FM_I32 : FM_I64;
    if (!take_memory(v, fm_dtype_size(v->dtype))) return false;
    if (format == 'f' && size == 4)
        memcpy(v->data, src, (size_t)v->n * 4);
    else if (format == 'd' && size == 8)
        COPY_AS(float, double)
    else if (is_signed && size == 8)
        memcpy(v->data, src, (size_t)v->n * 8);
    else if (is_signed && size == 4)
        memcpy(v->data, src, (size_t)v->n * 4);
    else if (is_signed && size == 2)
        COPY_AS(int32_t, int16_t)
    else if (is_signed && size == 1)
        COPY_AS(int32_t, int8_t)
    else if (is_int && size == 8)
        return copy_uint64(v, src, what);
    else if (is_int && size == 4)
        COPY_AS(int64_t, uint32_t)
    else if (is_int && size == 2)
        COPY_AS(int32_t, uint16_t)
    else if (is_int && size == 1)
        COPY_AS(int32_t, uint8_t)
    else {
        PyErr_Format(PyExc_TypeError,
                     "%s has elements of format '%c': float32, float64 and integers are allowed",
                     what, format);
        return false;
    }
    return true;
}

static bool from_buffer(PyObject *o, const char *what, fm_values *v) {
    Py_buffer b;
    if (PyObject_GetBuffer(o, &b, PyBUF_FULL_RO) != 0) return false;
    const char *f = b.format ? b.format : "B";
    f += *f == '@' || *f == '=' || *f == '<';
    char *contiguous = NULL;
    bool ok = set_shape(v, what, b.ndim, b.shape);
    if (ok && (f[0] == 0 || f[1] != 0)) {
        PyErr_Format(PyExc_TypeError, "%s has elements of format '%s': numbers are allowed", what,
                     f);
        ok = false;
    }
    if (ok && !PyBuffer_IsContiguous(&b, 'C')) {
        contiguous = malloc((size_t)b.len + 1);
        ok = contiguous && PyBuffer_ToContiguous(contiguous, &b, b.len, 'C') == 0;
        if (!contiguous) PyErr_NoMemory();
    }
    ok = ok && copy_elements(v, contiguous ? contiguous : b.buf, f[0], b.itemsize, what);
    free(contiguous);
    PyBuffer_Release(&b);
    return ok;
}

/* The shape of nested sequences, by their first elements. */
static bool find_shape(PyObject *o, const char *what, fm_values *v) {
    Py_ssize_t shape[FM_MAX_DIMS + 1];
    int ndim = 0;
    Py_INCREF(o);
    while (PyList_Check(o) || PyTuple_Check(o)) {
        if (ndim == FM_MAX_DIMS) {
            Py_DECREF(o);
            return set_shape(v, what, ndim + 1, shape);
        }
        shape[ndim++] = PySequence_Fast_GET_SIZE(o);
        if (shape[ndim - 1] == 0) break;
        PyObject *first = Py_NewRef(PySequence_Fast_GET_ITEM(o, 0));
        Py_DECREF(o);
        o = first;
    }
    Py_DECREF(o);
    return set_shape(v, what, ndim, shape);
}

/* An int of 64 bits out of an int, a NumPy integer or an integer tensor: 1. 0: it is none of them.
 * -1: an exception is set. */
static int read_int(PyObject *o, const char *what, int64_t *x) {
    bool tensor = fm_is_tensor(o) && !fm_dtype_is_float(fm_tensor_of(o)->dtype);
    if (!tensor && !PyIndex_Check(o)) return 0;
    PyObject *number = tensor ? PyNumber_Long(o) : PyNumber_Index(o);
    if (!number) return -1;
    int overflow;
    *x = PyLong_AsLongLongAndOverflow(number, &overflow);
    if (overflow)
        PyErr_Format(PyExc_ValueError, "%s holds %R: integers of 64 bits are allowed", what,
                     number);
    Py_DECREF(number);
    return overflow ? -1 : 1;
}

/* Calls `visit` for every number of nested sequences, which must be of v's shape. */
typedef struct walk {
    const char *what;
    fm_values *v;
    bool (*visit)(struct walk *w, PyObject *number);
    int64_t at;
    bool all_int, small;
} walk;

static bool visit_all(walk *w, PyObject *o, int dim) {
    if (dim == w->v->ndim) return w->visit(w, o);
    if (!PyList_Check(o) && !PyTuple_Check(o)) {
        PyErr_Format(PyExc_ValueError, "%s is nested unevenly", w->what);
        return false;
    }
    for (Py_ssize_t i = 0; i < w->v->shape[dim]; i++) {
        /* Looked at each time: a number's own __float__ could change the list. */
        if (PySequence_Fast_GET_SIZE(o) != w->v->shape[dim]) {
            PyErr_Format(PyExc_ValueError, "%s has rows of %zd and of %lld elements", w->what,
                         PySequence_Fast_GET_SIZE(o), (long long)w->v->shape[dim]);
            return false;
        }
        PyObject *item = Py_NewRef(PySequence_Fast_GET_ITEM(o, i));
        bool ok = visit_all(w, item, dim + 1);
        Py_DECREF(item);
        if (!ok) return false;
    }
    return true;
}

/* First walk: which dtype holds them all? */
static bool classify(walk *w, PyObject *o) {
    int64_t x = 0;
    int is_int = w->all_int && !PyFloat_Check(o) ? read_int(o, w->what, &x) : 0;
    w->all_int = w->all_int && is_int;
    w->small = w->small && x == (int32_t)x;
    return is_int >= 0;
}

/* Second walk. */
static bool store(walk *w, PyObject *o) {
    int64_t at = w->at++, x = 0;
    if (w->v->dtype == FM_F32) {
        double y = PyFloat_AsDouble(o);
        if (y == -1 && PyErr_Occurred()) {
            if (PyErr_ExceptionMatches(PyExc_OverflowError))
                PyErr_Format(PyExc_ValueError, "%s holds an int beyond the floats", w->what);
            else
                PyErr_Format(PyExc_TypeError, "%s holds %R (%s): numbers are allowed", w->what, o,
                             fm_type_name(o));
            return false;
        }
        ((float *)w->v->data)[at] = (float)y;
        return true;
    }
    if (read_int(o, w->what, &x) != 1) {
        if (!PyErr_Occurred()) PyErr_Format(PyExc_RuntimeError, "%s changed meanwhile", w->what);
        return false;
    }
    if (w->v->dtype == FM_I32)
        ((int32_t *)w->v->data)[at] = (int32_t)x;
    else
        ((int64_t *)w->v->data)[at] = x;
    return true;
}

static bool from_sequence(PyObject *o, const char *what, fm_values *v) {
    if (!find_shape(o, what, v)) return false;
    walk w = {.what = what, .v = v, .visit = classify, .all_int = v->n > 0, .small = true};
    if (!visit_all(&w, o, 0)) return false;
    v->dtype = !w.all_int ? FM_F32 : w.small ? FM_I32 : FM_I64;
    w.visit = store;
    return take_memory(v, fm_dtype_size(v->dtype)) && visit_all(&w, o, 0);
}

bool fm_values_read(PyObject *o, const char *what, fm_values *v) {
    *v = (fm_values){0};
    bool ok;
    if (fm_is_tensor(o)) {
        ok = from_tensor(fm_tensor_of(o), v);
    } else if (PyObject_CheckBuffer(o)) {
        ok = from_buffer(o, what, v);
    } else if (PyList_Check(o) || PyTuple_Check(o) || PyFloat_Check(o) || PyLong_Check(o)) {
        ok = from_sequence(o, what, v);
    } else if (PyObject_HasAttrString(o, "__array__")) {
        PyObject *a = PyObject_CallMethod(o, "__array__", NULL);
        ok = a && PyObject_CheckBuffer(a) && from_buffer(a, what, v);
        if (a && !PyObject_CheckBuffer(a))
            PyErr_Format(PyExc_TypeError, "%s: __array__ gave a %s", what, fm_type_name(a));
        Py_XDECREF(a);
    } else {
        PyErr_Format(PyExc_TypeError,
                     "%s is a %s: a tensor, a buffer (NumPy array, array.array, "
                     "bytes) or a list of numbers is wanted",
                     what, fm_type_name(o));
        ok = false;
    }
    if (!ok) fm_values_free(v);
    return ok;
}

bool fm_values_convert(fm_values *v, fm_dtype dtype, const char *what) {
    if (v->dtype == dtype) return true;
    if (v->dtype == FM_F32) {
        PyErr_Format(PyExc_ValueError, "%s holds floats: integers are wanted", what);
        return false;
    }
    void *out = malloc((size_t)v->n * fm_dtype_size(dtype) + 1);
    if (!out) {
        PyErr_NoMemory();
        return false;
    }
    for (int64_t i = 0; i < v->n; i++) {
        int64_t x = v->dtype == FM_I64 ? ((int64_t *)v->data)[i] : ((int32_t *)v->data)[i];
        if (dtype == FM_I32 && x != (int32_t)x) {
            PyErr_Format(PyExc_ValueError, "%s holds %lld: int32 is wanted", what, (long long)x);
            free(out);
            return false;
        }
        if (dtype == FM_F32)
            ((float *)out)[i] = (float)x;
        else if (dtype == FM_I32)
            ((int32_t *)out)[i] = (int32_t)x;
        else
            ((int64_t *)out)[i] = x;
    }
    free(v->data);
    v->data = out;
    v->dtype = dtype;
    return true;
}
