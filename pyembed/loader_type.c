/* fmoe.DataLoader */
#include "pyembed/data_type.h"
#include "pyembed/mesh_type.h"
#include "pyembed/options.h"
#include "pyembed/tensor_type.h"

#include "io/loader.h"

#include <stdio.h>
#include <stdlib.h>

typedef struct py_loader {
    PyObject_HEAD fm_loader *loader;
    PyObject *dataset, *mesh;
    fm_loader_config config;
    int split;
    int64_t valid;
    int32_t *tokens, *targets; /* host memory of one micro-batch */
} py_loader;

typedef struct loader_args {
    PyObject *data, *ratio, *mesh;
    int split;
    fm_loader_config config;
} loader_args;
#define SPLITS "train|valid|test"
enum { N_SPLITS = 3 };
#define FIELD(name) #name, offsetof(loader_args, config.name)
static const fm_option loader_rows[] = {
    {"data", offsetof(loader_args, data), FM_OPT_OBJECT, 0, 0, 0, NULL, NULL, "what to read",
     "ByteDataset"},
    {FIELD(batch_size), FM_OPT_INT, 1, 1 << 30, 0, NULL, NULL,
     "sequences of one optimiser step, over the whole job", NULL},
    {FIELD(seq_len), FM_OPT_INT, 1, 1 << 30, 0, NULL, NULL, "tokens of a sequence", NULL},
    {"split", offsetof(loader_args, split), FM_OPT_CHOICE, 0, 0, 0, SPLITS, "'train'",
     "which part: train is shuffled and endless, the others go once, in order", NULL},
    {"split_ratio", offsetof(loader_args, ratio), FM_OPT_OBJECT, 0, 0, 0, NULL, "(0.98, 0.02)",
     "of the dataset, for train, valid and (if there) test, from its beginning",
     "tuple[float, ...]"},
    {FIELD(seed), FM_OPT_SEED, 0, 0, 0, NULL, "0", "of the order of samples", NULL},
    {"mesh", offsetof(loader_args, mesh), FM_OPT_OBJECT, 0, 0, 0, NULL, "None",
     "None: all ranks are data-parallel", "Mesh | None"},
    {FIELD(micro_batches), FM_OPT_INT, 1, 1 << 20, 0, NULL, "1",
     "parts of a batch; next() gives one", NULL},
    {NULL, 0, 0, 0, 0, 0, NULL, NULL, NULL, NULL},
};
static const fm_options loader_options = {
    "DataLoader", loader_rows, 1,
    "Gives this rank's micro-batches: next(loader) is (tokens, targets), int32 Tensors "
    "[batch_size/(dp*micro_batches), seq_len]; targets are the tokens one place on, -1 where there "
    "is none. The order of samples depends on seed only, not on dp, batch_size or the steps to "
    "come."};

/* Sets split_start and split_stop; ratios are of train, valid, test. */
static bool read_split(loader_args *a) {
    static const double usual[] = {0.98, 0.02};
    double ratio[N_SPLITS] = {usual[0], usual[1], 0}, sum = 0;
    if (a->ratio) {
        PyObject *seq = PySequence_Fast(a->ratio, "DataLoader: split_ratio is a tuple of numbers");
        if (!seq) return false;
        Py_ssize_t n = PySequence_Fast_GET_SIZE(seq);
        bool ok = n >= 1 && n <= N_SPLITS;
        for (Py_ssize_t i = 0; i < N_SPLITS; i++) {
            ratio[i] = ok && i < n ? PyFloat_AsDouble(PySequence_Fast_GET_ITEM(seq, i)) : 0;
            ok = ok && !PyErr_Occurred() && ratio[i] >= 0;
            sum += ratio[i];
        }
        Py_DECREF(seq);
        if (!ok || !(sum <= 1 + 1e-9)) {
            PyErr_Clear();
            PyErr_Format(PyExc_ValueError,
                         "DataLoader: split_ratio=%R is not allowed: one to three numbers of at "
                         "least 0 and of a sum of at most 1 are",
                         a->ratio);
            return false;
        }
    }
    if (ratio[a->split] <= 0) {
        static const char *const names[N_SPLITS] = {"train", "valid", "test"};
        char shares[96];
        snprintf(shares, sizeof shares, "(%g, %g, %g)", ratio[0], ratio[1], ratio[2]);
        PyErr_Format(PyExc_ValueError,
                     "DataLoader: split='%s' has no share: split_ratio, of train, valid and test, "
                     "is %s",
                     names[a->split], shares);
        return false;
    }
    for (int i = 0; i < a->split; i++) a->config.split_start += ratio[i];
    a->config.split_stop = a->config.split_start + ratio[a->split];
    if (a->config.split_stop > 1) a->config.split_stop = 1;
    return true;
}

static PyObject *loader_new(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    loader_args a = {0};
    if (!fm_options_parse(&loader_options, args, kwargs, &a)) return NULL;
    if (!PyObject_TypeCheck(a.data, &fm_dataset_type))
        return PyErr_Format(PyExc_TypeError,
                            "DataLoader: data=%R (%s) is of the wrong type: a dataset is wanted",
                            a.data, fm_type_name(a.data));
    if (!read_split(&a)) return NULL;
    py_loader *self = (py_loader *)type->tp_alloc(type, 0);
    if (!self) return NULL;
    fm_the_host.live++;
    self->dataset = Py_NewRef(a.data);
    self->mesh = fm_py_mesh_or_default(a.mesh, "DataLoader");
    self->split = a.split;
    if (!self->mesh) goto fail;
    a.config.dp = fm_mesh_of(self->mesh)->at.dp;
    a.config.dp_rank = fm_mesh_of(self->mesh)->at.dp_rank;
    a.config.shuffle = a.split == 0;
    self->config = a.config;
    fm_call c;
    if (!fm_call_begin(&c)) goto fail;
    fm_status s = fm_loader_new(c.ctx, fm_dataset_of(a.data), &a.config, &self->loader);
    if (!fm_call_end(&c, s)) goto fail;
    size_t n = (size_t)(fm_loader_rows(self->loader) * a.config.seq_len);
    self->tokens = malloc(n * sizeof *self->tokens);
    self->targets = malloc(n * sizeof *self->targets);
    if (self->tokens && self->targets) return (PyObject *)self;
    PyErr_Format(PyExc_MemoryError,
                 "DataLoader: no memory for batches of %lld sequences of %lld tokens",
                 (long long)fm_loader_rows(self->loader), (long long)a.config.seq_len);
fail:
    Py_DECREF(self);
    return NULL;
}

static void loader_dealloc(PyObject *o) {
    py_loader *self = (py_loader *)o;
    fm_loader_free(self->loader);
    free(self->tokens);
    free(self->targets);
    fm_the_host.live--;
    Py_XDECREF(self->dataset);
    Py_XDECREF(self->mesh);
    Py_TYPE(o)->tp_free(o);
}

static PyObject *loader_next(PyObject *o) {
    py_loader *self = (py_loader *)o;
    fm_tensor *tokens = NULL, *targets = NULL;
    int64_t valid = 0, shape[] = {fm_loader_rows(self->loader), self->config.seq_len};
    fm_call c;
    if (!fm_call_begin(&c)) return NULL;
    fm_status s = fm_loader_next(c.ctx, self->loader, self->tokens, self->targets, &valid);
    self->valid = valid;
    bool end = s == FM_OK && valid == 0 && !self->config.shuffle;
    if (s == FM_OK && !end) {
        s = fm_tensor_from_host(c.ctx, &tokens, FM_I32, 2, shape, self->tokens);
        if (s == FM_OK) s = fm_tensor_from_host(c.ctx, &targets, FM_I32, 2, shape, self->targets);
        if (s != FM_OK) fm_tensor_free(tokens);
    }
    if (!fm_call_end(&c, s) || end) return NULL; /* no exception: the iteration is over */
    return Py_BuildValue("(NN)", fm_py_tensor_new(tokens), fm_py_tensor_new(targets));
}

static PyObject *loader_reset(PyObject *o, PyObject *unused) {
    (void)unused;
    fm_loader_reset(((py_loader *)o)->loader);
    Py_RETURN_NONE;
}

/* Numbers that the loader computes: the closure is the function. */
static PyObject *loader_number(PyObject *o, void *closure) {
    int64_t (*number)(const fm_loader *) = *(int64_t(**)(const fm_loader *))closure;
    return PyLong_FromLongLong(number(((py_loader *)o)->loader));
}
static int64_t (*const position)(const fm_loader *) = fm_loader_position;
static int64_t (*const epoch)(const fm_loader *) = fm_loader_epoch;
static int64_t (*const samples)(const fm_loader *) = fm_loader_samples;
static int64_t (*const rows_of)(const fm_loader *) = fm_loader_rows;

static int set_position(PyObject *o, PyObject *v, void *unused) {
    (void)unused;
    int64_t at = v && PyLong_Check(v) ? PyLong_AsLongLong(v) : -1;
    if (at < 0) {
        PyErr_Clear();
        PyErr_Format(PyExc_ValueError,
                     "DataLoader: position=%R is not allowed: an int of at least 0 is",
                     v ? v : Py_None);
        return -1;
    }
    fm_call c;
    if (!fm_call_begin(&c)) return -1;
    fm_status s = fm_loader_seek(c.ctx, ((py_loader *)o)->loader, at);
    return fm_call_end(&c, s) ? 0 : -1;
}

static PyObject *get_valid(PyObject *o, void *unused) {
    (void)unused;
    return PyLong_FromLongLong(((py_loader *)o)->valid);
}

static PyObject *get_row(PyObject *o, void *row) {
    const py_loader *self = (const py_loader *)o;
    loader_args a = {.split = self->split, .config = self->config};
    return fm_option_get(row, &a);
}
static PyObject *get_share(PyObject *o, void *unused) {
    (void)unused;
    const fm_loader_config *c = &((py_loader *)o)->config;
    return Py_BuildValue("(dd)", c->split_start, c->split_stop);
}
static PyObject *get_object(PyObject *o, void *offset) {
    return Py_NewRef(*(PyObject **)((char *)o + (size_t)offset));
}

#define CLOSURE(x) (void *)(uintptr_t)(x)
static PyGetSetDef loader_getset[] = {
    {"position", loader_number, set_position,
     "Samples taken since the start, over all ranks and epochs; setting it goes there.",
     CLOSURE(&position)},
    {"epoch", loader_number, NULL, "Times that all samples were taken.", CLOSURE(&epoch)},
    {"num_samples", loader_number, NULL, "Sequences in one epoch, over all ranks.",
     CLOSURE(&samples)},
    {"rows", loader_number, NULL, "Sequences of one micro-batch on this rank.", CLOSURE(&rows_of)},
    {"valid", get_valid, NULL,
     "Sequences in the micro-batch that next() gave last, over all ranks; the last one of a split "
     "may be filled up with targets of -1.",
     NULL},
    {"batch_size", get_row, NULL, "Sequences of one step.", CLOSURE(&loader_rows[1])},
    {"seq_len", get_row, NULL, "Tokens of a sequence.", CLOSURE(&loader_rows[2])},
    {"split", get_row, NULL, "'train', 'valid' or 'test'.", CLOSURE(&loader_rows[3])},
    {"share", get_share, NULL, "(from, to): the part of the dataset that it reads, in [0, 1].",
     NULL},
    {"seed", get_row, NULL, "Of the order of samples.", CLOSURE(&loader_rows[5])},
    {"micro_batches", get_row, NULL, "Parts of a batch.", CLOSURE(&loader_rows[7])},
    {"dataset", get_object, NULL, "What it reads.", (void *)offsetof(py_loader, dataset)},
    {"mesh", get_object, NULL, "How the ranks are folded.", (void *)offsetof(py_loader, mesh)},
    {NULL, NULL, NULL, NULL, NULL},
};
static PyMethodDef loader_methods[] = {
    {"reset", loader_reset, METH_NOARGS, "reset($self)\n--\n\nBack to the first sample."},
    {NULL, NULL, 0, NULL},
};
static PyTypeObject loader_type = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "fmoe.DataLoader",
    .tp_basicsize = sizeof(py_loader),
    .tp_flags = Py_TPFLAGS_DEFAULT,
    .tp_new = loader_new,
    .tp_dealloc = loader_dealloc,
    .tp_iter = PyObject_SelfIter,
    .tp_iternext = loader_next,
    .tp_methods = loader_methods,
    .tp_getset = loader_getset,
};

int fm_add_loader(PyObject *module) {
    loader_type.tp_doc = fm_options_doc(&loader_options);
    if (!loader_type.tp_doc) return -1;
    return fm_add_type(module, &loader_type);
}
