/* The table read backwards: signatures, docstrings, attributes, descriptions, functions. */
#include "pyembed/options.h"
#include "pyembed/tensor_type.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The i-th of "a|b|c"; NULL behind the last. */
static PyObject *choice_at(const char *choices, int i) {
    const char *c = choices;
    for (; i > 0 && *c; i--) {
        c += strcspn(c, "|");
        c += *c == '|';
    }
    return PyUnicode_FromStringAndSize(c, (Py_ssize_t)strcspn(c, "|"));
}

PyObject *fm_option_get(const fm_option *r, const void *from) {
    const void *f = (const char *)from + r->field;
    switch (r->kind) {
    case FM_OPT_INT32:
        return PyLong_FromLong(*(const int *)f);
    case FM_OPT_INT_OR_NONE:
        if (*(const int64_t *)f == 0) Py_RETURN_NONE;
        return PyLong_FromLongLong(*(const int64_t *)f);
    case FM_OPT_INT:
        return PyLong_FromLongLong(*(const int64_t *)f);
    case FM_OPT_SEED:
        return PyLong_FromUnsignedLongLong(*(const uint64_t *)f);
    case FM_OPT_FLOAT_OR_NONE:
        if (*(const double *)f == 0) Py_RETURN_NONE;
        return PyFloat_FromDouble(*(const double *)f);
    case FM_OPT_FLOAT:
        return PyFloat_FromDouble(*(const double *)f);
    case FM_OPT_BOOL:
        return PyBool_FromLong(*(const bool *)f);
    case FM_OPT_SWITCH:
        return choice_at(r->choices, *(const bool *)f);
    case FM_OPT_CHOICE:
        return choice_at(r->choices, *(const int *)f);
    default:
        Py_RETURN_NONE;
    }
}

static bool readable(const fm_option *r) { return r->kind <= FM_OPT_SWITCH; }

static const char *type_text(const fm_option *r) {
    switch (r->kind) {
    case FM_OPT_INT:
    case FM_OPT_INT32:
    case FM_OPT_SEED:
        return "int";
    case FM_OPT_INT_OR_NONE:
        return "int | None";
    case FM_OPT_FLOAT:
        return "float";
    case FM_OPT_FLOAT_OR_NONE:
        return "float | None";
    case FM_OPT_BOOL:
        return "bool";
    case FM_OPT_CHOICE:
    case FM_OPT_SWITCH:
    case FM_OPT_TEXT:
        return "str";
    case FM_OPT_TEXT_OR_NONE:
        return "str | None";
    case FM_OPT_PATH:
        return "str | PathLike";
    case FM_OPT_TENSOR:
        return "Tensor";
    case FM_OPT_TENSOR_OR_NONE:
        return "Tensor | None";
    case FM_OPT_OBJECT:
        return r->type;
    }
    return "object";
}

static void print_signature(FILE *f, const fm_options *o) {
    fprintf(f, "%s(", o->owner);
    for (int i = 0; o->rows[i].name; i++) {
        const fm_option *r = &o->rows[i];
        fprintf(f, "%s%s%s", i ? ", " : "", i == o->positional ? "*, " : "", r->name);
        if (r->initial) fprintf(f, "=%s", r->initial);
    }
    fprintf(f, ")");
}

static void print_row(FILE *f, const fm_option *r) {
    fprintf(f, "\n  %s (%s", r->name, type_text(r));
    if (r->choices) {
        fprintf(f, ": ");
        for (const char *c = r->choices; *c; c++)
            if (*c != '|')
                fputc(*c, f);
            else if (c[1])
                fputs(" | ", f);
    }
    if (r->low < r->high) {
        fprintf(f, ", %s %g", r->open & FM_OPEN_LOW ? ">" : ">=", r->low);
        if (!isinf(r->high)) fprintf(f, ", %s %.10g", r->open & FM_OPEN_HIGH ? "<" : "<=", r->high);
    }
    fprintf(f, "%s%s): %s", r->initial ? "; default " : "", r->initial ? r->initial : "", r->doc);
}

const char *fm_options_doc(const fm_options *o) {
    char *text = NULL;
    size_t size;
    FILE *f = open_memstream(&text, &size);
    if (!f) {
        PyErr_NoMemory();
        return NULL;
    }
    print_signature(f, o);
    fprintf(f, "\n--\n\n%s\n", o->doc);
    if (o->rows[0].name) fprintf(f, "\nArguments:");
    for (const fm_option *r = o->rows; r->name; r++) print_row(f, r);
    if (fclose(f) != 0) {
        free(text);
        PyErr_NoMemory();
        return NULL;
    }
    return text;
}

static PyObject *default_of(const fm_option *r) {
    const char *t = r->initial;
    if (!t || !strcmp(t, "None")) Py_RETURN_NONE;
    if (*t == '\'') return PyUnicode_FromStringAndSize(t + 1, (Py_ssize_t)strlen(t) - 2);
    if (!strcmp(t, "True") || !strcmp(t, "False")) return PyBool_FromLong(*t == 'T');
    if (r->kind == FM_OPT_FLOAT || r->kind == FM_OPT_FLOAT_OR_NONE)
        return PyFloat_FromDouble(strtod(t, NULL));
    if (r->kind == FM_OPT_OBJECT) return PyUnicode_FromString(t);
    return PyLong_FromString(t, NULL, 10);
}

static PyObject *choices_of(const fm_option *r) {
    PyObject *list = PyList_New(0);
    for (int i = 0; list && r->choices; i++) {
        PyObject *c = choice_at(r->choices, i);
        bool end = c && PyUnicode_GET_LENGTH(c) == 0;
        if (!c || end || PyList_Append(list, c) < 0) {
            Py_XDECREF(c);
            if (!end) Py_CLEAR(list);
            break;
        }
        Py_DECREF(c);
    }
    if (!list) return NULL;
    PyObject *tuple = PyList_AsTuple(list);
    Py_DECREF(list);
    return tuple;
}

static PyObject *describe_row(const fm_option *r) {
    PyObject *low = r->low < r->high ? PyFloat_FromDouble(r->low) : Py_NewRef(Py_None);
    PyObject *high = r->low < r->high && !isinf(r->high) ? PyFloat_FromDouble(r->high)
                                                         : Py_NewRef(Py_None);
    return Py_BuildValue("{s:s, s:s, s:O, s:N, s:N, s:N, s:N, s:s}", "name", r->name, "type",
                         type_text(r), "required", r->initial ? Py_False : Py_True, "default",
                         default_of(r), "low", low, "high", high, "choices", choices_of(r), "doc",
                         r->doc);
}

PyObject *fm_options_describe(const fm_options *o) {
    PyObject *list = PyList_New(0);
    for (const fm_option *r = o->rows; list && r->name; r++) {
        PyObject *d = describe_row(r);
        if (!d || PyList_Append(list, d) < 0) Py_CLEAR(list);
        Py_XDECREF(d);
    }
    PyObject *tuple = list ? PyList_AsTuple(list) : NULL;
    Py_XDECREF(list);
    return tuple;
}

typedef struct attribute {
    const fm_option *row;
    size_t offset;
} attribute;

static PyObject *get_attribute(PyObject *self, void *closure) {
    const attribute *a = closure;
    return fm_option_get(a->row, (const char *)self + a->offset);
}

PyGetSetDef *fm_options_getset(const fm_options *o, size_t offset, const PyGetSetDef *more) {
    size_t n = 0, m = 0;
    while (o->rows[n].name) n++;
    while (more && more[m].name) m++;
    PyGetSetDef *all = calloc(n + m + 1, sizeof *all);
    attribute *attributes = calloc(n + 1, sizeof *attributes);
    if (!all || !attributes) {
        free(all);
        free(attributes);
        PyErr_NoMemory();
        return NULL;
    }
    size_t used = 0;
    for (size_t i = 0; i < n; i++) {
        if (!readable(&o->rows[i])) continue;
        attributes[i] = (attribute){&o->rows[i], offset};
        all[used++] = (PyGetSetDef){o->rows[i].name, get_attribute, NULL, o->rows[i].doc,
                                    &attributes[i]};
    }
    if (used == 0) free(attributes);
    for (size_t i = 0; i < m; i++) all[used++] = more[i];
    return all;
}

/* The function objects point into these for as long as the interpreter lives. */
typedef struct kept {
    struct kept *next;
    PyMethodDef defs[];
} kept;
static kept *all_kept;

int fm_add_functions(PyObject *module, const fm_function *functions) {
    size_t n = 0;
    while (functions[n].options) n++;
    kept *k = calloc(1, sizeof *k + (n + 1) * sizeof *k->defs);
    if (!k) {
        PyErr_NoMemory();
        return -1;
    }
    k->next = all_kept;
    all_kept = k;
    for (size_t i = 0; i < n; i++) {
        const char *doc = fm_options_doc(functions[i].options);
        if (!doc) return -1;
        k->defs[i] = (PyMethodDef){functions[i].options->owner,
                                   (PyCFunction)(void (*)(void))functions[i].call,
                                   METH_FASTCALL | METH_KEYWORDS, doc};
    }
    return PyModule_AddFunctions(module, k->defs);
}
