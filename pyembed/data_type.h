#ifndef FM_PYEMBED_DATA_TYPE_H
#define FM_PYEMBED_DATA_TYPE_H
#include "io/dataset.h"
#include "pyembed/module.h"

/* fmoe.ByteDataset */
typedef struct fm_py_dataset {
    PyObject_HEAD fm_dataset *data;
    PyObject *path;
} fm_py_dataset;

extern PyTypeObject fm_dataset_type;

static inline fm_dataset *fm_dataset_of(PyObject *o) { return ((fm_py_dataset *)o)->data; }

/* fmoe.DataLoader (loader_type.c) */
int fm_add_loader(PyObject *module);

#endif
