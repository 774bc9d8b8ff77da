#ifndef FM_PYEMBED_MESH_TYPE_H
#define FM_PYEMBED_MESH_TYPE_H
#include "parallel/mesh.h"
#include "pyembed/module.h"

typedef struct fm_py_mesh {
    PyObject_HEAD fm_mesh_config config; /* as asked */
    fm_mesh *mesh;                       /* the host's */
} fm_py_mesh;

extern PyTypeObject fm_mesh_type;

/* A new reference to `mesh`, or to a mesh of defaults for NULL and None. `what` begins errors. */
PyObject *fm_py_mesh_or_default(PyObject *mesh, const char *what);
fm_mesh *fm_py_default_mesh(void); /* all ranks data-parallel; NULL with an exception */
/* At the end of the program, when nothing is left that uses them. */
void fm_py_free_meshes(void);
/* mesh.comm_stats(), comm_stats.c. */
PyObject *fm_py_comm_stats(PyObject *mesh, PyObject *const *args, Py_ssize_t n, PyObject *names);
static inline fm_mesh *fm_mesh_of(PyObject *o) { return ((fm_py_mesh *)o)->mesh; }

#endif
