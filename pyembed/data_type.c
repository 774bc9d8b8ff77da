#include "pyembed/data_type.h"
#include "pyembed/options.h"
#include "pyembed/tensor_type.h"

#include <stdlib.h>

typedef struct dataset_args {
    PyObject *path; /* bytes */
    const char *pattern, *exclude;
} dataset_args;
static const fm_option dataset_rows[] = {
    {"path", offsetof(dataset_args, path), FM_OPT_PATH, 0, 0, 0, NULL, NULL, "a file or a folder",
     NULL},
    {"pattern", offsetof(dataset_args, pattern), FM_OPT_TEXT_OR_NONE, 0, 0, 0, NULL, "None",
     "of a folder, the files whose names match, '*.py'; None: all", NULL},
    {"exclude", offsetof(dataset_args, exclude), FM_OPT_TEXT_OR_NONE, 0, 0, 0, NULL, "None",
     "of a folder, the files and folders to leave out, 'test*'; None: none", NULL},
    {NULL, 0, 0, 0, 0, 0, NULL, NULL, NULL, NULL},
};
static const fm_options dataset_options = {
    "ByteDataset", dataset_rows, 1,
    "The bytes of a file, or of all files below a folder, one after another; a vocabulary of 256. "
    "Read as it is asked for, never loaded. Hidden files are left out."};

static PyObject *dataset_new(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    dataset_args a;
    if (!fm_options_parse(&dataset_options, args, kwargs, &a)) return NULL;
    fm_dataset *data = NULL;
    fm_py_dataset *self = NULL;
    fm_call c;
    if (fm_call_begin(&c)) {
        fm_status s = fm_dataset_bytes(c.ctx, PyBytes_AS_STRING(a.path), a.pattern, a.exclude,
                                       &data);
        if (fm_call_end(&c, s)) self = (fm_py_dataset *)type->tp_alloc(type, 0);
    }
    if (self) {
        self->data = data;
        self->path = PyUnicode_DecodeFSDefault(PyBytes_AS_STRING(a.path));
        fm_the_host.live++;
    } else {
        fm_dataset_free(data);
    }
    fm_options_release(&dataset_options, &a);
    return (PyObject *)self;
}

static void dataset_dealloc(PyObject *o) {
    fm_dataset_free(((fm_py_dataset *)o)->data);
    Py_XDECREF(((fm_py_dataset *)o)->path);
    fm_the_host.live--;
    Py_TYPE(o)->tp_free(o);
}

static Py_ssize_t dataset_length(PyObject *o) {
    return (Py_ssize_t)fm_dataset_tokens(fm_dataset_of(o));
}

static PyObject *dataset_files(PyObject *o, void *unused) {
    (void)unused;
    return PyLong_FromLongLong(fm_dataset_files(fm_dataset_of(o)));
}
static PyObject *dataset_vocab(PyObject *o, void *unused) {
    (void)unused;
    return PyLong_FromLongLong(fm_dataset_vocab(fm_dataset_of(o)));
}
static PyObject *dataset_identity(PyObject *o, void *unused) {
    (void)unused;
    return PyUnicode_FromString(fm_dataset_identity(fm_dataset_of(o)));
}
static PyObject *dataset_path(PyObject *o, void *unused) {
    (void)unused;
    return Py_NewRef(((fm_py_dataset *)o)->path);
}

typedef struct read_args {
    int64_t start, n;
} read_args;
static const fm_option read_rows[] = {
    {"start", offsetof(read_args, start), FM_OPT_INT, 0, 1e18, 0, NULL, NULL, "first token", NULL},
    {"n", offsetof(read_args, n), FM_OPT_INT, 1, 1e9, 0, NULL, NULL, "how many", NULL},
    {NULL, 0, 0, 0, 0, 0, NULL, NULL, NULL, NULL},
};
static const fm_options read_options = {"read", read_rows, 2, ""};

static PyObject *dataset_read(PyObject *o, PyObject *const *args, Py_ssize_t n, PyObject *names) {
    read_args a;
    if (!fm_options_parse_fast(&read_options, args, n, names, &a)) return NULL;
    int32_t *tokens = malloc((size_t)a.n * sizeof *tokens);
    if (!tokens) return PyErr_NoMemory();
    fm_tensor *t = NULL;
    fm_call c;
    if (fm_call_begin(&c)) {
        fm_status s = fm_dataset_read(c.ctx, fm_dataset_of(o), a.start, a.n, tokens);
        if (s == FM_OK) s = fm_tensor_from_host(c.ctx, &t, FM_I32, 1, &a.n, tokens);
        if (!fm_call_end(&c, s)) t = NULL;
    }
    free(tokens);
    return t ? fm_py_tensor_new(t) : NULL;
}

static PyMethodDef dataset_methods[] = {
    {"read", (PyCFunction)(void (*)(void))dataset_read, METH_FASTCALL | METH_KEYWORDS,
     "read($self, start, n)\n--\n\nTokens [start, start + n) as an int32 Tensor [n]."},
    {NULL, NULL, 0, NULL},
};
static PyGetSetDef dataset_getset[] = {
    {"num_files", dataset_files, NULL, "Files it consists of.", NULL},
    {"vocab_size", dataset_vocab, NULL, "256", NULL},
    {"identity", dataset_identity, NULL,
     "Names its contents: number of files and tokens, and a hash. Checkpoints keep it.", NULL},
    {"path", dataset_path, NULL, "As it was given.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};
static PySequenceMethods dataset_sequence = {.sq_length = dataset_length};
PyTypeObject fm_dataset_type = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "fmoe.ByteDataset",
    .tp_basicsize = sizeof(fm_py_dataset),
    .tp_flags = Py_TPFLAGS_DEFAULT,
    .tp_new = dataset_new,
    .tp_dealloc = dataset_dealloc,
    .tp_methods = dataset_methods,
    .tp_getset = dataset_getset,
    .tp_as_sequence = &dataset_sequence,
};

int fm_add_data(PyObject *module) {
    fm_dataset_type.tp_doc = fm_options_doc(&dataset_options);
    if (!fm_dataset_type.tp_doc || fm_add_type(module, &fm_dataset_type) < 0) return -1;
    return fm_add_loader(module);
}
