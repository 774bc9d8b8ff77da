/* Arguments -> structure, by the table. */
#include "pyembed/options.h"
#include "pyembed/tensor_type.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum { MAX_OPTIONS = 48 };

/* What a row allows, in words: "a number in [0, 1)", "one of position, score". */
static const char *allowed(const fm_option *r, char *buf, size_t n) {
    const char *none = "";
    switch (r->kind) {
    case FM_OPT_INT_OR_NONE:
    case FM_OPT_FLOAT_OR_NONE:
        none = "None or ";
        break;
    case FM_OPT_BOOL:
        return "True or False";
    case FM_OPT_TEXT:
        return "a str";
    case FM_OPT_TEXT_OR_NONE:
        return "None or a str";
    case FM_OPT_PATH:
        return "a str or a path";
    case FM_OPT_TENSOR:
        return "an fmoe.Tensor";
    case FM_OPT_TENSOR_OR_NONE:
        return "None or an fmoe.Tensor";
    case FM_OPT_OBJECT:
        return r->type;
    case FM_OPT_SEED:
        return "an int from 0 to 2**64 - 1";
    case FM_OPT_CHOICE:
    case FM_OPT_SWITCH: {
        size_t used = (size_t)snprintf(buf, n, "one of ");
        for (const char *c = r->choices; *c && used < n; c++)
            used += (size_t)snprintf(buf + used, n - used, "%s%.1s", *c == '|' ? "," : "",
                                     *c == '|' ? (c[1] ? " " : "") : c);
        size_t length = strlen(buf);
        if (length && buf[length - 1] == ',') buf[length - 1] = 0;
        return buf;
    }
    default:
        break;
    }
    const char *what = r->kind == FM_OPT_FLOAT || r->kind == FM_OPT_FLOAT_OR_NONE ? "a number"
                                                                                  : "an int";
    if (r->low >= r->high)
        snprintf(buf, n, "%s%s", none, what);
    else if (isinf(r->high))
        snprintf(buf, n, "%s%s %s %g", none, what, r->open & FM_OPEN_LOW ? "above" : "of at least",
                 r->low);
    else
        snprintf(buf, n, "%s%s in %c%.10g, %.10g%c", none, what, r->open & FM_OPEN_LOW ? '(' : '[',
                 r->low, r->high, r->open & FM_OPEN_HIGH ? ')' : ']');
    return buf;
}

static bool refuse(const fm_options *o, const fm_option *r, PyObject *v, PyObject *type) {
    char buf[256];
    PyErr_Clear();
    if (type == PyExc_TypeError)
        PyErr_Format(type, "%s: %s=%R (%s) is of the wrong type: %s is wanted", o->owner, r->name,
                     v, fm_type_name(v), allowed(r, buf, sizeof buf));
    else
        PyErr_Format(type, "%s: %s=%R is not allowed: %s is", o->owner, r->name, v,
                     allowed(r, buf, sizeof buf));
    return false;
}

static bool in_range(const fm_option *r, double x) {
    if (isnan(x) || (isinf(x) && !(r->open & FM_ALLOW_INFINITY))) return false;
    if (r->low >= r->high) return true;
    return (r->open & FM_OPEN_LOW ? x > r->low : x >= r->low) &&
           (r->open & FM_OPEN_HIGH ? x < r->high : x <= r->high);
}

static bool set_int(const fm_options *o, const fm_option *r, PyObject *v, void *field) {
    if (v == Py_None && r->kind == FM_OPT_INT_OR_NONE) {
        *(int64_t *)field = 0;
        return true;
    }
    PyObject *index = PyBool_Check(v) ? NULL : PyNumber_Index(v);
    if (!index) return refuse(o, r, v, PyExc_TypeError);
    if (r->kind == FM_OPT_SEED) {
        uint64_t seed = PyLong_AsUnsignedLongLong(index);
        Py_DECREF(index);
        if (PyErr_Occurred()) return refuse(o, r, v, PyExc_ValueError);
        *(uint64_t *)field = seed;
        return true;
    }
    int overflow;
    int64_t x = PyLong_AsLongLongAndOverflow(index, &overflow);
    Py_DECREF(index);
    if (overflow || !in_range(r, (double)x)) return refuse(o, r, v, PyExc_ValueError);
    if (r->kind == FM_OPT_INT32) {
        if (x != (int)x) return refuse(o, r, v, PyExc_ValueError);
        *(int *)field = (int)x;
    } else {
        *(int64_t *)field = x;
    }
    return true;
}

static bool set_float(const fm_options *o, const fm_option *r, PyObject *v, void *field) {
    if (v == Py_None && r->kind == FM_OPT_FLOAT_OR_NONE) {
        *(double *)field = 0;
        return true;
    }
    double x = PyBool_Check(v) || fm_is_tensor(v) ? -1 : PyFloat_AsDouble(v);
    if (PyBool_Check(v) || fm_is_tensor(v) || PyErr_Occurred())
        return refuse(o, r, v, PyExc_TypeError);
    if (!in_range(r, x)) return refuse(o, r, v, PyExc_ValueError);
    *(double *)field = x;
    return true;
}

static bool set_choice(const fm_options *o, const fm_option *r, PyObject *v, void *field) {
    const char *text = PyUnicode_Check(v) ? PyUnicode_AsUTF8(v) : NULL;
    if (!text) return refuse(o, r, v, PyExc_TypeError);
    size_t length = strlen(text);
    int i = 0;
    for (const char *c = r->choices; *c; i++) {
        size_t width = strcspn(c, "|");
        if (width == length && !memcmp(c, text, width)) {
            if (r->kind == FM_OPT_SWITCH)
                *(bool *)field = i != 0;
            else
                *(int *)field = i;
            return true;
        }
        c += width + (c[width] == '|');
    }
    return refuse(o, r, v, PyExc_ValueError);
}

static bool set_text(const fm_options *o, const fm_option *r, PyObject *v, void *field) {
    if (v == Py_None && r->kind == FM_OPT_TEXT_OR_NONE) {
        *(const char **)field = NULL;
        return true;
    }
    const char *text = PyUnicode_Check(v) ? PyUnicode_AsUTF8(v) : NULL;
    if (!text) return refuse(o, r, v, PyExc_TypeError);
    *(const char **)field = text;
    return true;
}

static bool set_tensor(const fm_options *o, const fm_option *r, PyObject *v, void *field) {
    if (v == Py_None && r->kind == FM_OPT_TENSOR_OR_NONE) {
        *(fm_tensor **)field = NULL;
        return true;
    }
    if (!fm_is_tensor(v)) return refuse(o, r, v, PyExc_TypeError);
    *(fm_tensor **)field = fm_tensor_of(v);
    return true;
}

static bool set_one(const fm_options *o, const fm_option *r, PyObject *v, void *out) {
    void *field = (char *)out + r->field;
    switch (r->kind) {
    case FM_OPT_INT:
    case FM_OPT_INT32:
    case FM_OPT_INT_OR_NONE:
    case FM_OPT_SEED:
        return set_int(o, r, v, field);
    case FM_OPT_FLOAT:
    case FM_OPT_FLOAT_OR_NONE:
        return set_float(o, r, v, field);
    case FM_OPT_BOOL:
        if (!PyBool_Check(v)) return refuse(o, r, v, PyExc_TypeError);
        *(bool *)field = v == Py_True;
        return true;
    case FM_OPT_CHOICE:
    case FM_OPT_SWITCH:
        return set_choice(o, r, v, field);
    case FM_OPT_TEXT:
    case FM_OPT_TEXT_OR_NONE:
        return set_text(o, r, v, field);
    case FM_OPT_PATH:
        if (!PyUnicode_FSConverter(v, field)) {
            *(PyObject **)field = NULL;
            return PyErr_ExceptionMatches(PyExc_TypeError) ? refuse(o, r, v, PyExc_TypeError)
                                                           : false;
        }
        return true;
    case FM_OPT_TENSOR:
    case FM_OPT_TENSOR_OR_NONE:
        return set_tensor(o, r, v, field);
    case FM_OPT_OBJECT:
        *(PyObject **)field = v;
        return true;
    }
    return false;
}

/* The defaults are written as Python writes them, so that the table's text is the value. */
static bool set_default(const fm_options *o, const fm_option *r, void *out) {
    void *field = (char *)out + r->field;
    const char *text = r->initial;
    bool none = !strcmp(text, "None");
    PyObject *v = NULL;
    switch (r->kind) {
    case FM_OPT_OBJECT:
        *(PyObject **)field = NULL;
        return true;
    case FM_OPT_TENSOR_OR_NONE:
        *(fm_tensor **)field = NULL;
        return true;
    case FM_OPT_BOOL:
        *(bool *)field = !strcmp(text, "True");
        return true;
    case FM_OPT_TEXT_OR_NONE:
        if (none) {
            *(const char **)field = NULL;
            return true;
        }
        break;
    case FM_OPT_CHOICE:
    case FM_OPT_SWITCH: /* "'gelu'" */
        v = PyUnicode_FromStringAndSize(text + 1, (Py_ssize_t)strlen(text) - 2);
        break;
    case FM_OPT_FLOAT:
    case FM_OPT_FLOAT_OR_NONE:
        *(double *)field = none ? 0 : strtod(text, NULL);
        return true;
    default:
        v = none ? Py_NewRef(Py_None) : PyLong_FromString(text, NULL, 10);
        break;
    }
    if (!v) {
        if (!PyErr_Occurred())
            PyErr_Format(PyExc_SystemError, "%s: %s has no usable default", o->owner, r->name);
        return false;
    }
    bool ok = set_one(o, r, v, out);
    Py_DECREF(v);
    return ok;
}

static int count_rows(const fm_options *o) {
    int n = 0;
    while (o->rows[n].name) n++;
    return n;
}

static bool take(const fm_options *o, int i, PyObject *v, void *out, bool *given) {
    if (given[i]) {
        PyErr_Format(PyExc_TypeError, "%s: %s is given twice", o->owner, o->rows[i].name);
        return false;
    }
    given[i] = true;
    return set_one(o, &o->rows[i], v, out);
}

static bool take_named(const fm_options *o, int n, PyObject *key, PyObject *v, void *out,
                       bool *given) {
    for (int i = 0; i < n; i++)
        if (PyUnicode_CompareWithASCIIString(key, o->rows[i].name) == 0)
            return take(o, i, v, out, given);
    char known[1024];
    size_t used = 0;
    known[0] = 0;
    for (int i = 0; i < n && used < sizeof known; i++)
        used += (size_t)snprintf(known + used, sizeof known - used, "%s%s", i ? ", " : "",
                                 o->rows[i].name);
    PyErr_Format(PyExc_TypeError, "%s: there is no argument %R: %s are", o->owner, key, known);
    return false;
}

static bool finish(const fm_options *o, int n, void *out, const bool *given) {
    for (int i = 0; i < n; i++) {
        if (given[i]) continue;
        if (!o->rows[i].initial) {
            char buf[256];
            PyErr_Format(PyExc_TypeError, "%s: %s is missing: %s is wanted", o->owner,
                         o->rows[i].name, allowed(&o->rows[i], buf, sizeof buf));
            return false;
        }
        if (!set_default(o, &o->rows[i], out)) return false;
    }
    return true;
}

static bool too_many(const fm_options *o, Py_ssize_t n) {
    if (n <= o->positional) return false;
    PyErr_Format(PyExc_TypeError, "%s: %zd arguments without a name, at most %d are allowed",
                 o->owner, n, o->positional);
    return true;
}

static void clear_paths(const fm_options *o, void *out) {
    for (const fm_option *r = o->rows; r->name; r++)
        if (r->kind == FM_OPT_PATH) *(PyObject **)((char *)out + r->field) = NULL;
}

void fm_options_release(const fm_options *o, void *out) {
    for (const fm_option *r = o->rows; r->name; r++)
        if (r->kind == FM_OPT_PATH) Py_CLEAR(*(PyObject **)((char *)out + r->field));
}

bool fm_options_parse_fast(const fm_options *o, PyObject *const *args, Py_ssize_t nargs,
                           PyObject *names, void *out) {
    bool given[MAX_OPTIONS] = {false};
    int n = count_rows(o);
    clear_paths(o, out);
    bool ok = !too_many(o, nargs);
    for (Py_ssize_t i = 0; ok && i < nargs; i++) ok = take(o, (int)i, args[i], out, given);
    for (Py_ssize_t i = 0; ok && names && i < PyTuple_GET_SIZE(names); i++)
        ok = take_named(o, n, PyTuple_GET_ITEM(names, i), args[nargs + i], out, given);
    ok = ok && finish(o, n, out, given);
    if (!ok) fm_options_release(o, out);
    return ok;
}

bool fm_options_parse(const fm_options *o, PyObject *args, PyObject *kwargs, void *out) {
    bool given[MAX_OPTIONS] = {false};
    int n = count_rows(o);
    clear_paths(o, out);
    bool ok = !too_many(o, PyTuple_GET_SIZE(args));
    for (Py_ssize_t i = 0; ok && i < PyTuple_GET_SIZE(args); i++)
        ok = take(o, (int)i, PyTuple_GET_ITEM(args, i), out, given);
    PyObject *key, *value;
    Py_ssize_t at = 0;
    while (ok && kwargs && PyDict_Next(kwargs, &at, &key, &value))
        ok = take_named(o, n, key, value, out, given);
    ok = ok && finish(o, n, out, given);
    if (!ok) fm_options_release(o, out);
    return ok;
}
