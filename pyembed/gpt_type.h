#ifndef FM_PYEMBED_GPT_TYPE_H
#define FM_PYEMBED_GPT_TYPE_H
#include "model/gpt.h"
#include "pyembed/moe_type.h"

/* fmoe.GPT */
typedef struct fm_py_gpt {
    PyObject_HEAD fm_gpt *gpt;
    PyObject *mesh, *moe; /* moe: NULL in dense models */
    fm_py_gate gate;
} fm_py_gpt;

extern PyTypeObject fm_gpt_type;
extern const fm_options fm_gpt_options;
extern PyMethodDef fm_gpt_methods[]; /* gpt_methods.c; ends with an empty row */

/* What the table fills; the rows' offsets are in it. */
typedef struct fm_gpt_args {
    PyObject *moe, *mesh;
    fm_gpt_config config;
} fm_gpt_args;

/* fmoe.GPTOutput of one forward; takes the references in `out`. */
PyObject *fm_py_output_new(fm_gpt_out *out);
int fm_add_output(PyObject *module);

#endif
