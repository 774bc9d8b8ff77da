#ifndef FM_PYEMBED_MOE_TYPE_H
#define FM_PYEMBED_MOE_TYPE_H
#include "fmoe/moe.h"
#include "pyembed/options.h"

/* Arguments whose only value so far is their default. */
typedef struct fm_py_moe_later {
    int router_dtype, dispatch;
    bool shadow;
    double bias_update_rate;
    int64_t num_groups, top_groups;
} fm_py_moe_later;

/* fmoe.MoE: the configuration of MoE layers. */
typedef struct fm_py_moe {
    PyObject_HEAD fm_moe_config config;
    fm_py_moe_later later;
    PyObject *gate;   /* str, or a subclass of fmoe.Gate */
    PyObject *every;  /* int, or a tuple of layers */
    int64_t interval; /* every, as a number; 0: `layers` decides */
    int64_t *layers;
    int n_layers;
} fm_py_moe;

extern PyTypeObject fm_moe_type;

/* The layer of a fmoe.MoELayer; NULL: o is none. Borrowed. */
fm_moe *fm_py_layer_moe(PyObject *o);

/* ---- gates written in Python (gate_bridge.c) */

/* A fm_gate that calls Python objects, one for each layer. Must not move. */
typedef struct fm_py_gate {
    fm_gate gate;
    PyObject *instances; /* dict: the layer's name -> its gate */
} fm_py_gate;

/* For a class; `g` is zeroed before. NULL class: false without a change of `g`. */
bool fm_py_gate_init(fm_py_gate *g, PyObject *class_);
/* Makes the gate of layer `name`: class_(d_model, num_experts, top_k), with `mesh` and `layer` (its
 * number in the model, or None) set before. */
bool fm_py_gate_add(fm_py_gate *g, PyObject *class_, const char *name, PyObject *layer,
                    int64_t d_model, const fm_moe_config *config, PyObject *mesh);
/* Of the gate whose forward this thread runs; NULL outside of gates. */
fm_mesh *fm_py_gate_mesh(void);
void fm_py_gate_clear(fm_py_gate *g);
/* Appends (name.gate.X, Parameter) of every gate to `list`; -1 with an exception set. `skip` leading
 * bytes of each layer's name are left out. */
int fm_py_gate_parameters(const fm_py_gate *g, PyObject *list, size_t skip);
/* The class of moe's gate where it is one, else NULL. Borrowed. */
PyObject *fm_py_gate_class(const fm_py_moe *moe);

#endif
