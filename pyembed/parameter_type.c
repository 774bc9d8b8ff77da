#include "pyembed/parameter_type.h"
#include "pyembed/mesh_type.h"
#include "pyembed/options.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int64_t names_given;

void fm_py_next_name(char *buf, size_t n, const char *kind) {
    snprintf(buf, n, "%s.%lld", kind, (long long)names_given++);
}

void fm_py_reset_names(void) { names_given = 0; }

PyObject *fm_py_parameter_new(fm_param_set *set, fm_param *param, PyObject *owner) {
    fm_py_parameter *self = PyObject_GC_New(fm_py_parameter, &fm_parameter_type);
    if (!self) return NULL;
    self->base.t = fm_tensor_retain(param->weight);
    self->base.lm_loss = NULL;
    self->owner = Py_XNewRef(owner);
    self->set = set;
    self->param = param;
    fm_the_host.live++;
    PyObject_GC_Track(self);
    return (PyObject *)self;
}

static void free_set(void *set) { fm_param_set_free(set); }

static void dealloc(PyObject *o) {
    fm_py_parameter *self = (fm_py_parameter *)o;
    PyObject_GC_UnTrack(o);
    if (!self->owner) fm_py_free(free_set, self->set); /* the tape may still hold its tensors */
    Py_CLEAR(self->owner);
    fm_py_tensor_dealloc(o);
}

/* A gate that keeps its model's parameters is in a cycle; the gate's own dict is where it is cut. */
static int traverse(PyObject *o, visitproc visit, void *arg) {
    Py_VISIT(((fm_py_parameter *)o)->owner);
    return 0;
}

typedef struct parameter_args {
    PyObject *shape, *init;
    bool decay;
    PyObject *shard;
} parameter_args;

#define ROW(field) #field, offsetof(parameter_args, field)
static const fm_option rows[] = {
    {ROW(shape), FM_OPT_OBJECT, 0, 0, 0, NULL, NULL, "sizes of its dimensions, at most 5",
     "Sequence[int]"},
    {ROW(init), FM_OPT_OBJECT, 0, 0, 0, NULL, "None",
     "None: normal with deviation 0.02; a number: that constant; a pair (mean, deviation): normal; "
     "an array of the shape: its values",
     "float | tuple[float, float] | Buffer | None"},
    {ROW(decay), FM_OPT_BOOL, 0, 0, 0, NULL, "True", "weight decay applies to it", NULL},
    {ROW(shard), FM_OPT_OBJECT, 0, 0, 0, NULL, "None", "None: every rank holds all of it", "None"},
    {NULL, 0, 0, 0, 0, 0, NULL, NULL, NULL, NULL},
};
#undef ROW
static const fm_options options = {
    "Parameter", rows, 1,
    "A float32 tensor that optimisers update and Checkpointer saves. Initial values depend on the "
    "seed and on how many parameters were made before it."};

static bool read_shape(PyObject *o, int *ndim, int64_t *shape) {
    PyObject *seq = PySequence_Fast(o, "Parameter: shape is a sequence of ints");
    if (!seq) return false;
    Py_ssize_t n = PySequence_Fast_GET_SIZE(seq);
    bool ok = n >= 1 && n <= FM_MAX_DIMS;
    for (Py_ssize_t i = 0; ok && i < n; i++) {
        shape[i] = PyLong_AsLongLong(PySequence_Fast_GET_ITEM(seq, i));
        ok = !PyErr_Occurred() && shape[i] >= 1 && shape[i] < INT32_MAX;
    }
    *ndim = (int)n;
    Py_DECREF(seq);
    if (!ok && !PyErr_Occurred())
        PyErr_Format(PyExc_ValueError,
                     "Parameter: shape=%R is not allowed: 1 to %d sizes of at least 1 are", o,
                     FM_MAX_DIMS);
    return ok;
}

/* False with an exception; *values where the caller has to copy an array in. */
static bool read_init(PyObject *o, fm_init *init, PyObject **values) {
    *init = (fm_init){.kind = FM_INIT_NORMAL, .std = 0.02f};
    *values = NULL;
    if (!o || o == Py_None) return true;
    if (PyTuple_Check(o) && PyTuple_GET_SIZE(o) == 2) {
        float mean, std;
        if (!PyArg_ParseTuple(o, "ff", &mean, &std)) return false;
        if (!(std >= 0)) {
            PyErr_Format(PyExc_ValueError,
                         "Parameter: init=%R is not allowed: a deviation of at least 0 is", o);
            return false;
        }
        init->mean = mean;
        init->std = std;
        return true;
    }
    init->kind = FM_INIT_CONSTANT;
    if (PyFloat_Check(o) || PyLong_Check(o)) {
        init->mean = (float)PyFloat_AsDouble(o);
        return !PyErr_Occurred();
    }
    *values = o;
    return true;
}

static PyObject *new (PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    parameter_args a;
    int ndim;
    int64_t shape[FM_MAX_DIMS];
    fm_init init;
    PyObject *values;
    if (!fm_options_parse(&options, args, kwargs, &a) || !read_shape(a.shape, &ndim, shape) ||
        !read_init(a.init, &init, &values))
        return NULL;
    if (a.shard && a.shard != Py_None)
        return PyErr_Format(PyExc_ValueError, "Parameter: shard=%R is not allowed: None is",
                            a.shard);
    char name[96];
    fm_py_next_name(name, sizeof name, "parameter");
    fm_param_set *set = NULL;
    fm_tensor *unused = NULL;
    fm_param_spec spec = fm_param_spec_whole(name, ndim, shape, FM_F32, a.decay, init);
    fm_call c;
    fm_mesh *mesh = fm_py_default_mesh();
    if (!mesh || !fm_call_begin(&c)) return NULL;
    fm_status s = fm_param_set_new(c.ctx, mesh, &set);
    if (s == FM_OK) s = fm_param_add(set, &spec, &unused);
    if (s == FM_OK) s = fm_param_set_seal(set);
    if (s != FM_OK) fm_param_set_free(set);
    if (!fm_call_end(&c, s)) return NULL;
    fm_py_parameter *self = (fm_py_parameter *)type->tp_alloc(type, 0);
    if (!self) return NULL;
    self->set = set;
    self->param = set->items[0];
    self->base.t = fm_tensor_retain(self->param->weight);
    fm_the_host.live++;
    if (values) {
        PyObject *done = PyObject_CallMethod((PyObject *)self, "copy_", "O", values);
        if (!done) {
            Py_DECREF(self);
            return NULL;
        }
        Py_DECREF(done);
    }
    return (PyObject *)self;
}

static PyObject *copy_(PyObject *o, PyObject *array) {
    fm_py_parameter *self = (fm_py_parameter *)o;
    fm_tensor *t = self->base.t;
    fm_values v;
    if (!fm_values_read(array, "copy_: array", &v)) return NULL;
    if (v.ndim != t->ndim || memcmp(v.shape, t->shape, (size_t)v.ndim * sizeof *v.shape)) {
        char text[96];
        PyErr_Format(PyExc_ValueError,
                     "copy_: array has %d dimensions and %lld elements, the parameter %s is %s",
                     v.ndim, (long long)v.n, self->param->spec.name,
                     fm_tensor_describe(t, text, sizeof text));
    } else if (fm_values_convert(&v, FM_F32, "copy_: array")) {
        fm_call c;
        if (fm_call_begin(&c))
            fm_call_end(&c, fm_param_set_values(self->set, self->param, v.data, v.n));
    }
    fm_values_free(&v);
    return PyErr_Occurred() ? NULL : Py_NewRef(o);
}

PyObject *fm_py_int_tuple(int n, const int64_t *x) {
    PyObject *t = PyTuple_New(n);
    for (int i = 0; t && i < n; i++) {
        PyObject *v = PyLong_FromLongLong(x[i]);
        if (!v)
            Py_CLEAR(t);
        else
            PyTuple_SET_ITEM(t, i, v);
    }
    return t;
}

static PyObject *get_global_shape(PyObject *o, void *unused) {
    (void)unused;
    const fm_placement *p = &((fm_py_parameter *)o)->param->spec.placement;
    return fm_py_int_tuple(p->ndim, p->global_shape);
}

static PyObject *get_placement(PyObject *o, void *unused) {
    (void)unused;
    const fm_placement *p = &((fm_py_parameter *)o)->param->spec.placement;
    PyObject *boxes = PyList_New(0);
    for (int i = 0; boxes && i < p->n_boxes; i++) {
        PyObject *box = Py_BuildValue("(NN)", fm_py_int_tuple(p->ndim, p->boxes[i].start),
                                      fm_py_int_tuple(p->ndim, p->boxes[i].stop));
        if (!box || PyList_Append(boxes, box) < 0) Py_CLEAR(boxes);
        Py_XDECREF(box);
    }
    if (!boxes) return NULL;
    return Py_BuildValue("{s:N,s:s}", "boxes", boxes, "replicas", fm_replicas_name(p->replicas));
}

static PyGetSetDef getset[] = {
    {"global_shape", get_global_shape, NULL, "Shape over all ranks.", NULL},
    {"placement", get_placement, NULL,
     "dict: 'boxes', a list of (start, stop) of the global array that this rank holds, and "
     "'replicas', the ranks that hold the same ('dp', 'dp*tp', 'edp' or 'edp*etp').",
     NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyMethodDef methods[] = {
    {"copy_", copy_, METH_O,
     "copy_($self, array, /)\n--\n\nOverwrites this rank's values, and their float32 master, by\n"
     "those of a buffer, tensor or (nested) list of this shape; returns the parameter."},
    {NULL, NULL, 0, NULL},
};

PyTypeObject fm_parameter_type = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "fmoe.Parameter",
    .tp_basicsize = sizeof(fm_py_parameter),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC,
    .tp_base = &fm_tensor_type,
    .tp_new = new,
    .tp_dealloc = dealloc,
    .tp_traverse = traverse,
    .tp_free = PyObject_GC_Del,
    .tp_methods = methods,
    .tp_getset = getset,
};

PyObject *fm_py_named_parameters(fm_param_set *set, PyObject *owner, size_t skip) {
    PyObject *list = PyList_New(0);
    for (int i = 0; list && i < set->n; i++) {
        PyObject *p = fm_py_parameter_new(set, set->items[i], owner);
        PyObject *pair = p ? Py_BuildValue("(sN)", set->items[i]->spec.name + skip, p) : NULL;
        if (!pair || PyList_Append(list, pair) < 0) Py_CLEAR(list);
        Py_XDECREF(pair);
    }
    return list;
}

PyObject *fm_py_parameters_of(PyObject *model, const char *what) {
    PyObject *method = PyObject_GetAttrString(model, "named_parameters");
    if (!method) {
        PyErr_Clear();
        return PyErr_Format(PyExc_TypeError, "%s is a %s: a model or fmoe.Module is wanted", what,
                            fm_type_name(model));
    }
    PyObject *iterable = PyObject_CallNoArgs(method);
    Py_DECREF(method);
    PyObject *list = iterable ? PySequence_List(iterable) : NULL;
    Py_XDECREF(iterable);
    if (!list) return NULL;
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(list); i++) {
        PyObject *pair = PyList_GET_ITEM(list, i);
        if (!PyTuple_Check(pair) || PyTuple_GET_SIZE(pair) != 2 ||
            !PyUnicode_Check(PyTuple_GET_ITEM(pair, 0)) ||
            !fm_is_parameter(PyTuple_GET_ITEM(pair, 1))) {
            PyErr_Format(
                PyExc_TypeError,
                "%s: named_parameters() gave %R: pairs of a name and a Parameter are wanted", what,
                pair);
            Py_DECREF(list);
            return NULL;
        }
    }
    return list;
}

int fm_add_parameter(PyObject *module) {
    const char *doc = fm_options_doc(&options);
    if (!doc) return -1;
    fm_parameter_type.tp_doc = doc;
    return fm_add_type(module, &fm_parameter_type);
}
