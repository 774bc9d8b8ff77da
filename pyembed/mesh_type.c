#include "pyembed/mesh_type.h"
#include "pyembed/options.h"

#include <stdlib.h>
#include <string.h>

#define ROW(field) #field, offsetof(fm_mesh_config, field)
static const fm_option rows[] = {
    {ROW(tp), FM_OPT_INT32, 1, 65536, 0, NULL, "1", "ranks that split each layer's width", NULL},
    {ROW(pp), FM_OPT_INT32, 1, 65536, 0, NULL, "1", "pipeline stages", NULL},
    {ROW(ep), FM_OPT_INT32, 1, 65536, 0, NULL, "1", "ranks that share out the experts", NULL},
    {ROW(etp), FM_OPT_INT32, 1, 65536, 0, NULL, "1", "ranks that split each expert's width", NULL},
    {ROW(zero), FM_OPT_INT32, 0, 1, 0, NULL, "1", "1: optimiser state is sharded over dp; 0: not",
     NULL},
    {NULL, 0, 0, 0, 0, 0, NULL, NULL, NULL, NULL},
};
#undef ROW
static const fm_options options = {
    "Mesh", rows, 0,
    "How the ranks are folded: world = tp*pp*dp for dense parameters, world = pp*ep*etp*edp for "
    "experts; dp and edp follow. All ranks make the same meshes, in the same order."};

/* The meshes of the program, each made once: equal ones share their communicators, which live until the
 * end: Python frees objects when each rank likes, and MPI's communicators can only be freed together. */
static struct made {
    fm_mesh *mesh;
    struct made *next;
} * meshes;

static fm_mesh *shared_mesh(const fm_mesh_config *config) {
    for (struct made *m = meshes; m; m = m->next)
        if (memcmp(&m->mesh->config, config, sizeof *config) == 0) return m->mesh;
    struct made *made = malloc(sizeof *made);
    if (!made) return (fm_mesh *)PyErr_NoMemory();
    fm_call c;
    if (!fm_call_begin(&c)) {
        free(made);
        return NULL;
    }
    fm_status s = fm_mesh_new(c.ctx, config, fm_the_host.world, &made->mesh);
    if (!fm_call_end(&c, s)) {
        free(made);
        return NULL;
    }
    made->next = meshes;
    meshes = made;
    return made->mesh;
}

fm_mesh *fm_py_default_mesh(void) {
    fm_mesh_config config = fm_mesh_config_default();
    return shared_mesh(&config);
}

void fm_py_free_meshes(void) {
    while (meshes) {
        struct made *m = meshes;
        meshes = m->next;
        fm_mesh_free(m->mesh);
        free(m);
    }
}

static PyObject *wrap(PyTypeObject *type, fm_mesh *mesh) {
    fm_py_mesh *self = mesh ? (fm_py_mesh *)type->tp_alloc(type, 0) : NULL;
    if (!self) return NULL;
    self->config = mesh->config;
    self->mesh = mesh;
    return (PyObject *)self;
}

static PyObject *new (PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    fm_mesh_config config = fm_mesh_config_default();
    if (!fm_options_parse(&options, args, kwargs, &config)) return NULL;
    return wrap(type, shared_mesh(&config));
}

static PyObject *list_meshes(PyObject *module, PyObject *unused) {
    (void)module, (void)unused;
    PyObject *list = PyList_New(0);
    for (struct made *m = meshes; list && m; m = m->next) {
        PyObject *mesh = wrap(&fm_mesh_type, m->mesh);
        int failed = mesh ? PyList_Append(list, mesh) : -1;
        Py_XDECREF(mesh);
        if (failed) Py_CLEAR(list);
    }
    return list;
}

static PyMethodDef functions[] = {
    {"meshes", list_meshes, METH_NOARGS,
     "meshes()\n--\n\nThe meshes that the program made, the newest first; equal ones are one."},
    {NULL, NULL, 0, NULL},
};

/* Numbers that follow from the configuration: their place in fm_mesh is the closure. */
static PyObject *get_number(PyObject *o, void *offset) {
    return PyLong_FromLong(*(const int *)((const char *)fm_mesh_of(o) + (size_t)offset));
}

#define NUMBER(field, doc)                                                                         \
    { #field, get_number, NULL, doc, (void *)offsetof(fm_mesh, at.field) }
static const PyGetSetDef numbers[] = {
    NUMBER(rank, "this rank's number in the world"),
    NUMBER(world_size, "ranks of the job"),
    NUMBER(dp, "data-parallel ranks: world / (tp*pp)"),
    NUMBER(edp, "ranks with the same experts: world / (pp*ep*etp)"),
    NUMBER(tp_rank, "this rank's number along tp"),
    NUMBER(dp_rank, "this rank's number along dp"),
    NUMBER(pp_rank, "this rank's number along pp"),
    NUMBER(ep_rank, "this rank's number along ep"),
    NUMBER(etp_rank, "this rank's number along etp"),
    NUMBER(edp_rank, "this rank's number along edp"),
    {NULL, NULL, NULL, NULL, NULL},
};

static PyObject *repr(PyObject *o) {
    const fm_mesh *m = fm_mesh_of(o);
    return PyUnicode_FromFormat("<fmoe.Mesh tp=%d pp=%d dp=%d ep=%d etp=%d edp=%d>", m->config.tp,
                                m->config.pp, m->at.dp, m->config.ep, m->config.etp, m->at.edp);
}

static PyMethodDef methods[] = {
    {"comm_stats", (PyCFunction)(void (*)(void))fm_py_comm_stats, METH_FASTCALL | METH_KEYWORDS,
     "comm_stats($self, *, reset=False)\n--\n\nWhat this rank sent in the groups of the mesh so "
     "far: a list of dicts, one for each group and kind\nof collective that was used. group "
     "('world', 'dp', 'tp', 'stage', 'expert', ...), ranks of it,\nkind ('all_reduce', ...), "
     "calls, "
     "bytes that this rank sent (docs/scaling.md has the formulas), waited:\nseconds in which it "
     "did "
     "nothing but wait. reset: counts from 0 again afterwards. Meshes of equal sizes\nare one and "
     "count together; 'world' counts for all meshes. A local call."},
    {NULL, NULL, 0, NULL},
};

PyTypeObject fm_mesh_type = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "fmoe.Mesh",
    .tp_basicsize = sizeof(fm_py_mesh),
    .tp_flags = Py_TPFLAGS_DEFAULT,
    .tp_new = new,
    .tp_repr = repr,
    .tp_methods = methods,
};

PyObject *fm_py_mesh_or_default(PyObject *mesh, const char *what) {
    if (!mesh || mesh == Py_None) return PyObject_CallNoArgs((PyObject *)&fm_mesh_type);
    if (PyObject_TypeCheck(mesh, &fm_mesh_type)) return Py_NewRef(mesh);
    return PyErr_Format(PyExc_TypeError, "%s: mesh is a %s: None or an fmoe.Mesh is wanted", what,
                        fm_type_name(mesh));
}

int fm_add_mesh(PyObject *module) {
    fm_mesh_type.tp_doc = fm_options_doc(&options);
    fm_mesh_type.tp_getset = fm_options_getset(&options, offsetof(fm_py_mesh, config), numbers);
    if (!fm_mesh_type.tp_doc || !fm_mesh_type.tp_getset) return -1;
    if (PyModule_AddFunctions(module, functions) < 0) return -1;
    return fm_add_type(module, &fm_mesh_type);
}
