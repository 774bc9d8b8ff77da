#ifndef FM_PYEMBED_OPTIM_TYPE_H
#define FM_PYEMBED_OPTIM_TYPE_H
#include "model/optim.h"
#include "pyembed/module.h"

/* fmoe.AdamW and fmoe.SGD. */
typedef struct fm_py_optim {
    PyObject_HEAD fm_optim *optim;
    PyObject *parameters; /* [(name, Parameter)]: keeps the sets alive */
    double initial_lr;    /* as it was made with; the script may have set another since */
} fm_py_optim;

extern PyTypeObject fm_optim_type;

/* fmoe.Schedule */
typedef struct fm_py_schedule {
    PyObject_HEAD fm_schedule schedule;
} fm_py_schedule;

extern PyTypeObject fm_schedule_type;
int fm_add_schedule(PyObject *module);

/* dry_run.c: optimizer.memory(), and the end of a dry run: NULL with SystemExit. */
PyObject *fm_py_optim_memory(PyObject *o, PyObject *unused);
PyObject *fm_py_dry_run_end(PyObject *optimizer);

/* The newest optimiser of a parameter set; NULL: it has none. With the host's lock held. */
fm_optim *fm_optim_of_storage(const fm_storage *storage);

/* Counts for what belongs to no model (fmoe.dropout in a Module): the sums over all optimisers, which a
 * resumed program has again, and which rise with each one's steps. With the host's lock held. */
fm_clock fm_optims_clock(void);
/* Waits for reductions that are under way: a script may end between a backward and its step. */
void fm_optims_settle(void);

#endif
