#ifndef FM_PYEMBED_MESH_TYPE_H
#define FM_PYEMBED_MESH_TYPE_H
#include "parallel/mesh.h"
#include "pyembed/module.h"

typedef struct fm_py_mesh {
    PyObject_HEAD fm_mesh_config config; /* as asked */
    fm_mesh *mesh;
} fm_py_mesh;

extern PyTypeObject fm_mesh_type;

/* A new reference to `mesh`, or to a mesh of defaults for NULL and None. `what` begins errors. */
PyObject *fm_py_mesh_or_default(PyObject *mesh, const char *what);
static inline fm_mesh *fm_mesh_of(PyObject *o) { return ((fm_py_mesh *)o)->mesh; }

#endif
