#include "pyembed/gpt_type.h"
#include "pyembed/interrupt.h"
#include "pyembed/parameter_type.h"
#include "pyembed/tensor_type.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static fm_gpt *gpt_of(PyObject *o) { return ((fm_py_gpt *)o)->gpt; }

static PyObject *named_parameters(PyObject *o, PyObject *unused) {
    (void)unused;
    PyObject *list = fm_py_named_parameters(gpt_of(o)->params, o, 0);
    if (list && fm_py_gate_parameters(&((fm_py_gpt *)o)->gate, list, 0) < 0) Py_CLEAR(list);
    return list;
}

/* What the Python gates' parameters add to the model's own. */
static PyObject *with_gates(PyObject *o, int64_t own) {
    PyObject *list = named_parameters(o, NULL);
    if (!list) return NULL;
    for (Py_ssize_t i = gpt_of(o)->params->n; i < PyList_GET_SIZE(list); i++)
        own += fm_numel(fm_tensor_of(PyTuple_GET_ITEM(PyList_GET_ITEM(list, i), 1)));
    Py_DECREF(list);
    return PyLong_FromLongLong(own);
}

static PyObject *num_parameters(PyObject *o, PyObject *unused) {
    (void)unused;
    return with_gates(o, fm_gpt_num_parameters(gpt_of(o)));
}

static PyObject *num_active_parameters(PyObject *o, PyObject *unused) {
    (void)unused;
    return with_gates(o, fm_gpt_num_active_parameters(gpt_of(o)));
}

/* ---- modes */

static PyObject *set_mode(PyObject *o, bool training) {
    fm_call c;
    if (!fm_call_begin(&c)) return NULL;
    fm_gpt_train(gpt_of(o), training);
    return fm_call_end(&c, FM_OK) ? Py_NewRef(o) : NULL;
}

static PyObject *train(PyObject *o, PyObject *unused) {
    (void)unused;
    return set_mode(o, true);
}

static PyObject *eval(PyObject *o, PyObject *unused) {
    (void)unused;
    return set_mode(o, false);
}

/* ---- logits and generation */

static PyObject *logits(PyObject *o, PyObject *arg) {
    fm_values v;
    if (!fm_tokens_read(arg, "logits: tokens", 0, gpt_of(o)->config.vocab_size, true, &v))
        return NULL;
    fm_tensor *tokens = NULL, *y = NULL;
    fm_call c;
    if (fm_call_begin(&c)) {
        fm_status s = fm_tensor_from_host(c.ctx, &tokens, FM_I32, v.ndim, v.shape, v.data);
        if (s == FM_OK) s = fm_gpt_logits(gpt_of(o), tokens, &y);
        fm_tensor_free(tokens);
        fm_call_end(&c, s);
    }
    fm_values_free(&v);
    return PyErr_Occurred() ? NULL : fm_py_tensor_new(y);
}

typedef struct generate_args {
    PyObject *tokens;
    int64_t n, top_k;
    double temperature, top_p;
    uint64_t seed;
} generate_args;

#define ARG(field) offsetof(generate_args, field)
static const fm_option generate_rows[] = {
    {"tokens", ARG(tokens), FM_OPT_OBJECT, 0, 0, 0, NULL, NULL,
     "prompts [B, S] or [S], S >= 1; bytes are tokens 0..255", "Buffer | Sequence[int] | bytes"},
    {"max_new_tokens", ARG(n), FM_OPT_INT, 1, 1 << 24, 0, NULL, "100", "tokens to add", NULL},
    {"temperature", ARG(temperature), FM_OPT_FLOAT, 0, INFINITY, 0, NULL, "0.8",
     "0: always the most likely token", NULL},
    {"top_k", ARG(top_k), FM_OPT_INT_OR_NONE, 1, INT32_MAX, 0, NULL, "40",
     "among so many of the most likely; None: all", NULL},
    {"top_p", ARG(top_p), FM_OPT_FLOAT, 0, 1, FM_OPEN_LOW, NULL, "1.0",
     "among the fewest that have this probability together", NULL},
    {"seed", ARG(seed), FM_OPT_SEED, 0, 0, 0, NULL, "0", "of the draws", NULL},
    {NULL, 0, 0, 0, 0, 0, NULL, NULL, NULL, NULL},
};
static const fm_options generate_options = {
    "generate", generate_rows, 2,
    "Continues prompts: bytes for bytes where vocab_size is at most 256, else an int32 Tensor "
    "[B, S + max_new_tokens]. Nothing is "
    "dropped and no noise is drawn, so a text does not depend on its neighbours. Prompts of any "
    "length: the window slides."};

static PyObject *as_tensor(const int32_t *tokens, int64_t B, int64_t S) {
    fm_tensor *t = NULL;
    fm_call c;
    if (!fm_call_begin(&c)) return NULL;
    fm_status s = fm_tensor_from_host(c.ctx, &t, FM_I32, 2, (int64_t[]){B, S}, tokens);
    return fm_call_end(&c, s) ? fm_py_tensor_new(t) : NULL;
}

static PyObject *as_bytes(const int32_t *tokens, int64_t n) {
    PyObject *bytes = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)n);
    for (int64_t i = 0; bytes && i < n; i++) PyBytes_AS_STRING(bytes)[i] = (char)tokens[i];
    return bytes;
}

static PyObject *generate(PyObject *o, PyObject *const *args, Py_ssize_t nargs, PyObject *names) {
    generate_args a;
    fm_values v;
    fm_gpt *gpt = gpt_of(o);
    int64_t vocab = gpt->config.vocab_size;
    if (!fm_options_parse_fast(&generate_options, args, nargs, names, &a) ||
        !fm_tokens_read(a.tokens, "generate: tokens", 0, vocab, true, &v))
        return NULL;
    int64_t B = v.shape[0], S = v.shape[1];
    int32_t *out = malloc((size_t)(B * (S + a.n)) * sizeof *out);
    bool ok = false;
    fm_call c;
    if (!out) {
        PyErr_NoMemory();
    } else if (fm_call_begin(&c)) {
        fm_sampling s = {a.temperature, a.top_k, a.top_p, a.seed};
        fm_interrupt_begin();
        fm_status status = fm_gpt_generate(gpt, v.data, B, S, a.n, &s, fm_interrupted, out);
        fm_interrupt_end();
        ok = fm_call_end(&c, status);
    }
    fm_values_free(&v);
    PyObject *result = NULL;
    if (ok)
        result = PyBytes_Check(a.tokens) && vocab <= 256 ? as_bytes(out, S + a.n)
                                                         : as_tensor(out, B, S + a.n);
    free(out);
    return result;
}

/* ---- numbers about the model */

/* None where a loss is not measured. */
static PyObject *measured(double loss) {
    return isnan(loss) ? Py_NewRef(Py_None) : PyFloat_FromDouble(loss);
}

static PyObject *layer_stats(const fm_gpt *gpt, int64_t layer) {
    const fm_moe *m = gpt->blocks[layer].moe;
    fm_call c;
    /* Another thread's forward replaces them. */
    if (!fm_call_begin(&c)) return NULL;
    fm_tensor *last = fm_tensor_retain(m->last_counts);
    fm_moe_stats stats = m->stats;
    if (!fm_call_end(&c, FM_OK)) return NULL;
    PyObject *t = last ? fm_py_tensor_new(last) : NULL;
    PyObject *counts = t ? PyObject_CallMethod(t, "tolist", NULL) : last ? NULL : PyList_New(0);
    Py_XDECREF(t);
    if (!counts) return NULL;
    const fm_moe_stats *s = &stats;
    return Py_BuildValue("{s:L,s:L,s:N,s:d,s:d,s:d,s:d,s:d,s:N,s:N}", "layer", (long long)layer,
                         "tokens", (long long)s->tokens, "tokens_per_expert", counts,
                         "load_max_over_mean", s->load_max_over_mean, "load_cv", s->load_cv,
                         "not_taken", s->not_taken, "dropped", s->dropped, "entropy", s->entropy,
                         "balance_loss", measured(s->balance), "z_loss", measured(s->z));
}

static PyObject *moe_stats(PyObject *o, PyObject *unused) {
    (void)unused;
    const fm_gpt *gpt = gpt_of(o);
    PyObject *list = PyList_New(0);
    for (int64_t i = 0; list && i < gpt->config.n_layer; i++) {
        if (!gpt->blocks[i].moe) continue;
        PyObject *stats = layer_stats(gpt, i);
        if (!stats || PyList_Append(list, stats) < 0) Py_CLEAR(list);
        Py_XDECREF(stats);
    }
    return list;
}

typedef struct size_args {
    int64_t batch_size, seq_len;
} size_args;
static const fm_option size_rows[] = {
    {"batch_size", offsetof(size_args, batch_size), FM_OPT_INT, 1, INT32_MAX, 0, NULL, NULL,
     "sequences of one micro-batch on this rank", NULL},
    {"seq_len", offsetof(size_args, seq_len), FM_OPT_INT_OR_NONE, 1, INT32_MAX, 0, NULL, "None",
     "tokens of each; None: the model's", NULL},
    {NULL, 0, 0, 0, 0, 0, NULL, NULL, NULL, NULL},
};
static const fm_options plan_options = {
    "memory_plan", size_rows, 1,
    "Predicted bytes of a training step, a dict: parameters, gradients, moments, activations."};

static PyObject *memory_plan(PyObject *o, PyObject *const *args, Py_ssize_t n, PyObject *names) {
    size_args a;
    if (!fm_options_parse_fast(&plan_options, args, n, names, &a)) return NULL;
    const fm_gpt *gpt = gpt_of(o);
    fm_memory_plan p = fm_gpt_memory_plan(gpt, a.batch_size,
                                          a.seq_len ? a.seq_len : gpt->config.seq_len);
    return Py_BuildValue("{s:n,s:n,s:n,s:n}", "parameters", (Py_ssize_t)p.parameters, "gradients",
                         (Py_ssize_t)p.gradients, "moments", (Py_ssize_t)p.moments, "activations",
                         (Py_ssize_t)p.activations);
}

typedef struct flops_args {
    int64_t seq_len;
    bool measured;
} flops_args;
static const fm_option flops_rows[] = {
    {"seq_len", offsetof(flops_args, seq_len), FM_OPT_INT_OR_NONE, 1, INT32_MAX, 0, NULL, "None",
     "tokens of a sequence; None: the model's", NULL},
    {"measured", offsetof(flops_args, measured), FM_OPT_BOOL, 0, 0, 0, NULL, "False",
     "count the experts that the last forward used", NULL},
    {NULL, 0, 0, 0, 0, 0, NULL, NULL, NULL, NULL},
};
static const fm_options flops_options = {
    "flops_per_token", flops_rows, 1,
    "Floating-point operations of one token of a training step: forward and backward, attention "
    "counted causally; with top_k experts or, measured, with as many as computed a token of the "
    "last forward on average."};

static PyObject *flops_per_token(PyObject *o, PyObject *const *args, Py_ssize_t n,
                                 PyObject *names) {
    flops_args a;
    if (!fm_options_parse_fast(&flops_options, args, n, names, &a)) return NULL;
    const fm_gpt *gpt = gpt_of(o);
    return PyFloat_FromDouble(
        fm_gpt_flops_per_token(gpt, a.seq_len ? a.seq_len : gpt->config.seq_len, a.measured));
}

static PyObject *describe(PyObject *type, PyObject *unused) {
    (void)type, (void)unused;
    return fm_options_describe(&fm_gpt_options);
}

#define FAST(f) (PyCFunction)(void (*)(void))(f), METH_FASTCALL | METH_KEYWORDS
PyMethodDef fm_gpt_methods[] = {
    {"named_parameters", named_parameters, METH_NOARGS,
     "named_parameters($self)\n--\n\nA list of (name, Parameter): this rank's shards under their "
     "global names."},
    {"num_parameters", num_parameters, METH_NOARGS,
     "num_parameters($self)\n--\n\nElements of all parameters, over all ranks."},
    {"num_active_parameters", num_active_parameters, METH_NOARGS,
     "num_active_parameters($self)\n--\n\nOf which one token uses."},
    {"train", train, METH_NOARGS,
     "train($self)\n--\n\nDropout, noise and training capacities from now on; returns the model."},
    {"eval", eval, METH_NOARGS,
     "eval($self)\n--\n\nNo dropout and no noise; eval_capacity_factor applies. Returns the "
     "model."},
    {"logits", logits, METH_O,
     "logits($self, tokens, /)\n--\n\nTensor [B, S, vocab_size] of tokens [B, S]."},
    {"generate", FAST(generate),
     "generate($self, tokens, max_new_tokens=100, *, temperature=0.8, top_k=40, top_p=1.0, "
     "seed=0)\n--\n\nContinues prompts [B, S] or [S] by max_new_tokens: an int32 Tensor\n"
     "[B, S + max_new_tokens]; of bytes, and vocab_size up to 256: bytes. temperature 0: always "
     "the most likely token;\n"
     "top_k None: among all. Nothing is dropped and no noise drawn; the window slides."},
    {"moe_stats", moe_stats, METH_NOARGS,
     "moe_stats($self)\n--\n\nOf the last forward, one dict for each MoE layer: layer, tokens,\n"
     "tokens_per_expert (after drops), load_max_over_mean, load_cv (both before drops), not_taken\n"
     "(fraction of the tokens*top_k choices that the gate did not make: gshard's random second),\n"
     "dropped (fraction of those made that capacity dropped), entropy (nats, at most\n"
     "ln num_experts), balance_loss, z_loss (unweighted, whatever their weight; None where not\n"
     "measured: before the first forward, and of a gate in Python z_loss, and balance_loss if it\n"
     "gives none)."},
    {"memory_plan", FAST(memory_plan),
     "memory_plan($self, batch_size, *, seq_len=None)\n--\n\nPredicted bytes of a training step "
     "on this rank, a dict:\nparameters, gradients, moments, activations."},
    {"flops_per_token", FAST(flops_per_token),
     "flops_per_token($self, seq_len=None, *, measured=False)\n--\n\nFloating-point operations of "
     "one token of a training step: forward and backward,\nattention counted causally; with top_k "
     "experts or, measured, with as many as computed\na token of the last forward on average."},
    {"options", describe, METH_NOARGS | METH_CLASS,
     "options($type)\n--\n\nA tuple of dicts, one for each argument: name, type, required, "
     "default, "
     "low, high,\nchoices, doc."},
    {NULL, NULL, 0, NULL},
};
