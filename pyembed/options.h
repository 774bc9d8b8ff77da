/* One table says what a call or a configuration takes: name, field, kind, range, default, doc.
 * From it come the parsing of Python's arguments, the errors, the defaults, the signatures in the
 * docstrings, the attributes, and the command line of examples/pretrain_gpt.py.
 */
#ifndef FM_PYEMBED_OPTIONS_H
#define FM_PYEMBED_OPTIONS_H
#include "pyembed/module.h"

typedef enum fm_option_kind {
    FM_OPT_INT,           /* int64_t */
    FM_OPT_INT32,         /* int */
    FM_OPT_INT_OR_NONE,   /* int64_t; None is 0 */
    FM_OPT_SEED,          /* uint64_t */
    FM_OPT_FLOAT,         /* double */
    FM_OPT_FLOAT_OR_NONE, /* double; None is 0 */
    FM_OPT_BOOL,          /* bool */
    FM_OPT_CHOICE,        /* an enum (int): the position among the choices */
    FM_OPT_SWITCH,        /* bool: the position among two choices */
    FM_OPT_TEXT,          /* const char *, borrowed from the argument */
    FM_OPT_TEXT_OR_NONE,
    FM_OPT_PATH,   /* const char *: str or os.PathLike; freed by fm_options_release */
    FM_OPT_TENSOR, /* fm_tensor *, borrowed from the argument */
    FM_OPT_TENSOR_OR_NONE,
    FM_OPT_OBJECT /* PyObject *, borrowed from the argument; NULL where left out */
} fm_option_kind;

/* Whether the ends of the range belong to it. */
enum { FM_OPEN_LOW = 1, FM_OPEN_HIGH = 2 };
/* Infinity itself, where it says something ("no limit"). */
enum { FM_ALLOW_INFINITY = 4 };

typedef struct fm_option {
    const char *name;
    size_t field; /* offset in the structure that is filled */
    fm_option_kind kind;
    double low, high; /* numbers: the range; low == high: any */
    int open;
    const char *choices; /* "position|score" */
    const char *initial; /* the default, as Python writes it; NULL: must be given */
    const char *doc;     /* with units and shapes */
    const char *type;    /* FM_OPT_OBJECT: its type in signatures ("Mesh | None") */
} fm_option;

/* Ends with a row without name. The first `positional` may be given by position. */
typedef struct fm_options {
    const char *owner; /* "GPT", "linear" */
    const fm_option *rows;
    int positional;
    const char *doc; /* of the whole */
} fm_options;

/* Fills `out` from a call's arguments. False with TypeError (missing, unknown, wrong type) or
 * ValueError (not allowed; names owner, argument, value and what is allowed). Paths are NULL then. */
bool fm_options_parse(const fm_options *o, PyObject *args, PyObject *kwargs, void *out);
/* The same for METH_FASTCALL | METH_KEYWORDS. */
bool fm_options_parse_fast(const fm_options *o, PyObject *const *args, Py_ssize_t n,
                           PyObject *names, void *out);
void fm_options_release(const fm_options *o, void *out);

/* One field as a Python object. */
PyObject *fm_option_get(const fm_option *row, const void *from);

/* "GPT(vocab_size, n_layer, ..., dropout=0.0)\n--\n\ndoc\n\nArguments: ..." ; lives as long as the
 * program (types and functions keep the pointer). NULL with an exception set. */
const char *fm_options_doc(const fm_options *o);

/* A tuple of dicts: name, kind, default, low, high, choices, doc. */
PyObject *fm_options_describe(const fm_options *o);

/* Getters for a type whose objects hold the structure at `offset`: rows of kinds that can be read
 * back. The array lives as long as the program; NULL with an exception set. `more` (may be NULL)
 * comes behind. */
PyGetSetDef *fm_options_getset(const fm_options *o, size_t offset, const PyGetSetDef *more);

/* Adds functions whose arguments tables describe; `functions` ends with a row without options. */
typedef struct fm_function {
    const fm_options *options;
    PyObject *(*call)(PyObject *module, PyObject *const *args, Py_ssize_t n, PyObject *names);
} fm_function;
int fm_add_functions(PyObject *module, const fm_function *functions);

#endif
