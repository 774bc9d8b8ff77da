/* fmoe.CheckpointReader, and the functions that look at checkpoints without loading them. */
#include "pyembed/checkpoint_content.h"
#include "pyembed/options.h"
#include "pyembed/parameter_type.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct py_reader {
    PyObject_HEAD fm_ckpt_reader *reader;
} py_reader;

typedef struct path_args {
    PyObject *path; /* bytes */
} path_args;
static const fm_option path_rows[] = {
    {"path", offsetof(path_args, path), FM_OPT_PATH, 0, 0, 0, NULL, NULL, "folder", NULL},
    {NULL, 0, 0, 0, 0, 0, NULL, NULL, NULL, NULL},
};
static const fm_options reader_options = {"CheckpointReader", path_rows, 1,
                                          "An opened checkpoint: a step_N folder."};

static PyObject *reader_new(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    path_args a;
    if (!fm_options_parse(&reader_options, args, kwargs, &a)) return NULL;
    fm_ckpt_reader *reader = NULL;
    py_reader *self = NULL;
    fm_call c;
    if (fm_call_begin(&c) &&
        fm_call_end(&c, fm_ckpt_open(c.ctx, PyBytes_AS_STRING(a.path), &reader)))
        self = (py_reader *)type->tp_alloc(type, 0);
    fm_options_release(&reader_options, &a);
    if (self) {
        self->reader = reader;
        fm_the_host.live++;
    } else {
        fm_ckpt_close(reader);
    }
    return (PyObject *)self;
}

static void reader_dealloc(PyObject *o) {
    fm_ckpt_close(((py_reader *)o)->reader);
    fm_the_host.live--;
    Py_TYPE(o)->tp_free(o);
}

/* A weight that is bfloat16 is read as fp32, of which its master is kept where it is here. */
static fm_status read_bf16(fm_ctx *ctx, fm_ckpt_reader *r, fm_ckpt_array a, fm_param *p) {
    fm_tensor *wide;
    FM_TRY(FM_NEW(ctx, &wide, FM_F32, p->numel));
    a.data = wide->data;
    fm_status s = fm_ckpt_read(ctx, r, &a);
    float *host = s == FM_OK ? malloc((size_t)p->numel * sizeof *host + 1) : NULL;
    if (s == FM_OK && !host)
        s = fm_fail(&ctx->error, FM_ERR_OOM, "out of memory: parameter %s", p->spec.name);
    if (s == FM_OK) s = fm_tensor_to_host(ctx, wide, host, (size_t)p->numel * sizeof *host);
    if (s == FM_OK) s = fm_param_set_values(p->set, p, host, p->numel);
    free(host);
    fm_tensor_free(wide);
    return s;
}

typedef struct read_args {
    PyObject *model, *optimizer;
} read_args;
static const fm_option read_rows[] = {
    {"model", offsetof(read_args, model), FM_OPT_OBJECT, 0, 0, 0, NULL, NULL,
     "whose parameters are overwritten", "GPT | Module | MoELayer"},
    {"optimizer", offsetof(read_args, optimizer), FM_OPT_OBJECT, 0, 0, 0, NULL, "None",
     "whose moments are overwritten", "Optimizer | None"},
    {NULL, 0, 0, 0, 0, 0, NULL, NULL, NULL, NULL},
};
static const fm_options read_options = {"read", read_rows, 2, ""};

static PyObject *reader_read(PyObject *o, PyObject *const *args, Py_ssize_t nargs,
                             PyObject *names) {
    read_args a;
    fm_optim *optim;
    fm_py_content k = {0};
    if (!fm_options_parse_fast(&read_options, args, nargs, names, &a) ||
        !fm_py_optim_of(a.optimizer, "read", &optim))
        return NULL;
    PyObject *parameters = fm_py_parameters_of(a.model, "read: model");
    fm_ckpt_reader *reader = ((py_reader *)o)->reader;
    fm_call c;
    if (parameters && fm_py_content_collect(parameters, optim, FM_PY_LOADING, &k) &&
        fm_call_begin(&c)) {
        fm_status s = FM_OK;
        for (int i = 0; s == FM_OK && i < k.n; i++)
            s = k.kept[i].param ? read_bf16(c.ctx, reader, k.arrays[i], k.kept[i].param)
                                : fm_ckpt_read(c.ctx, reader, &k.arrays[i]);
        for (Py_ssize_t i = 0; s == FM_OK && i < PyList_GET_SIZE(parameters); i++) {
            PyObject *parameter = PyTuple_GET_ITEM(PyList_GET_ITEM(parameters, i), 1);
            /* gradients of the weights before */
            fm_param_zero_grads(((fm_py_parameter *)parameter)->set);
        }
        fm_call_end(&c, s);
    }
    fm_py_content_free(&k);
    Py_XDECREF(parameters);
    return PyErr_Occurred() ? NULL : Py_NewRef(Py_None);
}

typedef struct compare_args {
    PyObject *other;
    const char *name;
} compare_args;
static const fm_option compare_rows[] = {
    {"other", offsetof(compare_args, other), FM_OPT_OBJECT, 0, 0, 0, NULL, NULL,
     "another checkpoint", "CheckpointReader"},
    {"name", offsetof(compare_args, name), FM_OPT_TEXT, 0, 0, 0, NULL, NULL, "of an array", NULL},
    {NULL, 0, 0, 0, 0, 0, NULL, NULL, NULL, NULL},
};
static const fm_options compare_options = {"compare", compare_rows, 2, ""};

static PyObject *reader_compare(PyObject *o, PyObject *const *args, Py_ssize_t n, PyObject *names) {
    compare_args a;
    if (!fm_options_parse_fast(&compare_options, args, n, names, &a)) return NULL;
    if (Py_TYPE(a.other) != Py_TYPE(o))
        return PyErr_Format(PyExc_TypeError,
                            "compare: other=%R (%s) is of the wrong type: a CheckpointReader is "
                            "wanted",
                            a.other, fm_type_name(a.other));
    fm_ckpt_difference d;
    fm_call c;
    if (!fm_call_begin(&c)) return NULL;
    fm_status s = fm_ckpt_compare(c.ctx, ((py_reader *)o)->reader, ((py_reader *)a.other)->reader,
                                  a.name, &d);
    if (!fm_call_end(&c, s)) return NULL;
    return Py_BuildValue("Ldd", (long long)d.unequal, d.max_abs, d.relative);
}

static PyObject *reader_has(PyObject *o, PyObject *name) {
    const char *text = PyUnicode_Check(name) ? PyUnicode_AsUTF8(name) : NULL;
    if (!text) return PyErr_Format(PyExc_TypeError, "has: name=%R: a str is wanted", name);
    return PyBool_FromLong(fm_ckpt_has(((py_reader *)o)->reader, text));
}

static PyObject *reader_step(PyObject *o, void *unused) {
    (void)unused;
    return PyLong_FromLongLong(fm_ckpt_step(((py_reader *)o)->reader));
}
static PyObject *reader_state(PyObject *o, void *unused) {
    (void)unused;
    return PyUnicode_FromString(fm_ckpt_state_json(((py_reader *)o)->reader));
}
static PyObject *reader_manifest(PyObject *o, void *unused) {
    (void)unused;
    return PyUnicode_FromString(fm_ckpt_manifest_json(((py_reader *)o)->reader));
}

/* [{name, file, global_shape, numel}]: an array that several ranks wrote appears for each file. */
static PyObject *reader_arrays(PyObject *o, void *unused) {
    (void)unused;
    const fm_ckpt_reader *r = ((py_reader *)o)->reader;
    PyObject *list = PyList_New(0);
    for (int64_t i = 0; list && i < fm_ckpt_count(r); i++) {
        fm_ckpt_entry e = fm_ckpt_at(r, i);
        PyObject *row = Py_BuildValue("{s:s,s:s,s:N,s:L}", "name", e.name, "file", e.file,
                                      "global_shape", fm_py_int_tuple(e.ndim, e.global_shape),
                                      "numel", (long long)e.numel);
        if (!row || PyList_Append(list, row) < 0) Py_CLEAR(list);
        Py_XDECREF(row);
    }
    return list;
}

static PyMethodDef reader_methods[] = {
    {"read", (PyCFunction)(void (*)(void))reader_read, METH_FASTCALL | METH_KEYWORDS,
     "read($self, model, optimizer=None)\n--\n\nOverwrites parameters and moments."},
    {"compare", (PyCFunction)(void (*)(void))reader_compare, METH_FASTCALL | METH_KEYWORDS,
     "compare($self, other, name)\n--\n\nOf an array of both: elements that differ, the largest "
     "|x - y|, and\n|x - y| / max(|x|, |y|) in Euclidean norms."},
    {"has", reader_has, METH_O, "has($self, name, /)\n--\n\nWhether it has an array of the name."},
    {NULL, NULL, 0, NULL},
};
static PyGetSetDef reader_getset[] = {
    {"step", reader_step, NULL, "Its step.", NULL},
    {"state", reader_state, NULL, "Its state: one JSON object, as text.", NULL},
    {"arrays", reader_arrays, NULL,
     "A list of dicts, one for each array of each file: name, file, global_shape, numel (in it).",
     NULL},
    {"manifest", reader_manifest, NULL, "Its manifest: one JSON object, as text.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};
static PyTypeObject reader_type = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "fmoe.CheckpointReader",
    .tp_basicsize = sizeof(py_reader),
    .tp_flags = Py_TPFLAGS_DEFAULT,
    .tp_new = reader_new,
    .tp_dealloc = reader_dealloc,
    .tp_methods = reader_methods,
    .tp_getset = reader_getset,
};

/* ---- functions */

static const fm_options list_options = {
    "checkpoint_list", path_rows, 1, "Steps of the complete checkpoints under a folder, rising."};
static PyObject *checkpoint_list(PyObject *module, PyObject *const *args, Py_ssize_t n,
                                 PyObject *names) {
    (void)module;
    path_args a;
    if (!fm_options_parse_fast(&list_options, args, n, names, &a)) return NULL;
    int64_t *steps = NULL;
    int count = 0;
    PyObject *list = NULL;
    fm_call c;
    if (fm_call_begin(&c) &&
        fm_call_end(&c, fm_checkpoint_list(c.ctx, PyBytes_AS_STRING(a.path), &steps, &count)))
        list = PyList_New(0);
    for (int i = 0; list && i < count; i++) {
        PyObject *step = PyLong_FromLongLong(steps[i]);
        if (!step || PyList_Append(list, step) < 0) Py_CLEAR(list);
        Py_XDECREF(step);
    }
    free(steps);
    fm_options_release(&list_options, &a);
    return list;
}

static const fm_options verify_options = {
    "checkpoint_verify", path_rows, 1,
    "Reads every file of a checkpoint (a step_N folder) and compares its checksums; "
    "CheckpointError names the first bad file and dataset."};
static PyObject *checkpoint_verify(PyObject *module, PyObject *const *args, Py_ssize_t n,
                                   PyObject *names) {
    (void)module;
    path_args a;
    if (!fm_options_parse_fast(&verify_options, args, n, names, &a)) return NULL;
    fm_call c;
    bool ok = fm_call_begin(&c) &&
              fm_call_end(&c, fm_ckpt_verify(c.ctx, PyBytes_AS_STRING(a.path)));
    fm_options_release(&verify_options, &a);
    return ok ? Py_NewRef(Py_None) : NULL;
}

typedef struct merge_args {
    PyObject *path, *root; /* bytes */
} merge_args;
static const fm_option merge_rows[] = {
    {"path", offsetof(merge_args, path), FM_OPT_PATH, 0, 0, 0, NULL, NULL, "a step_N folder", NULL},
    {"root", offsetof(merge_args, root), FM_OPT_PATH, 0, 0, 0, NULL, NULL,
     "folder in which step_N is written", NULL},
    {NULL, 0, 0, 0, 0, 0, NULL, NULL, NULL, NULL},
};
static const fm_options merge_options = {
    "checkpoint_merge", merge_rows, 2,
    "Writes a checkpoint of any layout anew in that of one rank, array by array."};
static PyObject *checkpoint_merge(PyObject *module, PyObject *const *args, Py_ssize_t n,
                                  PyObject *names) {
    (void)module;
    merge_args a;
    if (!fm_options_parse_fast(&merge_options, args, n, names, &a)) return NULL;
    fm_call c;
    bool ok = fm_call_begin(&c) && fm_call_end(&c, fm_ckpt_merge(c.ctx, PyBytes_AS_STRING(a.path),
                                                                 PyBytes_AS_STRING(a.root)));
    fm_options_release(&merge_options, &a);
    return ok ? Py_NewRef(Py_None) : NULL;
}

static const fm_function functions[] = {{&list_options, checkpoint_list},
                                        {&verify_options, checkpoint_verify},
                                        {&merge_options, checkpoint_merge},
                                        {NULL, NULL}};

int fm_add_checkpoint_reader(PyObject *module) {
    reader_type.tp_doc = fm_options_doc(&reader_options);
    if (!reader_type.tp_doc) return -1;
    if (fm_add_type(module, &reader_type) < 0) return -1;
    return fm_add_functions(module, functions);
}
