/* The operations that models are made of, as functions of the module. */
#include "pyembed/ops.h"
#include "pyembed/optim_type.h"

#include <string.h>

#define X_ANY FM_ARG("x", x, FM_OPT_TENSOR, NULL, "[..., d], float")

static const fm_option add_rows[] = {FM_ARG("a", x, FM_OPT_TENSOR, NULL, "float"),
                                     FM_ARG("b", y, FM_OPT_TENSOR, NULL, "of a's shape and dtype"),
                                     FM_ARGS_END};
static const fm_options add_options = {"add", add_rows, 2, "a + b, element by element."};
FM_OP(add, add_options, fm_add(c.ctx, &y, a.x, a.y))

static const fm_options mul_options = {
    "mul", add_rows, 2, "a * b, element by element (a Tensor times a number: t * 2.0)."};
FM_OP(mul, mul_options, fm_mul(c.ctx, &y, a.x, a.y))

static const fm_option matmul_rows[] = {
    FM_ARG("a", x, FM_OPT_TENSOR, NULL, "[m, k] or [batch, m, k]"),
    FM_ARG("b", y, FM_OPT_TENSOR, NULL, "[k, n] or [batch, k, n]; trans_b: [.., n, k]"),
    FM_ARG("trans_b", flag, FM_OPT_BOOL, "False", "b is given transposed"), FM_ARGS_END};
static const fm_options matmul_options = {"matmul", matmul_rows, 2,
                                          "Matrix product, [m, n] or [batch, m, n]."};
FM_OP(matmul, matmul_options, fm_matmul(c.ctx, &y, a.x, a.y, a.flag))

static const fm_option linear_rows[] = {
    FM_ARG("x", x, FM_OPT_TENSOR, NULL, "[..., in]"),
    FM_ARG("w", w, FM_OPT_TENSOR, NULL, "[out, in]"),
    FM_ARG("b", b, FM_OPT_TENSOR_OR_NONE, "None", "[out]"),
    FM_ARG_CHOICE("activation", FM_ACT_CHOICES, "'none'",
                  "applied to the sum; not swiglu and geglu, see fmoe.activation"),
    FM_ARGS_END};
static const fm_options linear_options = {"linear", linear_rows, 3,
                                          "activation(x wT + b): [..., out]."};
FM_OP(linear, linear_options, fm_linear(c.ctx, &y, a.x, a.w, a.b, (fm_act)a.choice))

static const fm_option activation_rows[] = {
    X_ANY, FM_ARG_CHOICE("kind", FM_ACT_CHOICES, "'gelu'", "gelu is the tanh form"), FM_ARGS_END};
static const fm_options activation_options = {
    "activation", activation_rows, 2,
    "The activation of each element; swiglu and geglu halve the last dimension: act(first half) * "
    "second half."};
FM_OP(activation, activation_options, fm_activation(c.ctx, &y, a.x, (fm_act)a.choice))

static const fm_option layer_norm_rows[] = {
    X_ANY, FM_ARG("w", w, FM_OPT_TENSOR, NULL, "[d], gain"),
    FM_ARG("b", b, FM_OPT_TENSOR_OR_NONE, "None", "[d], bias"),
    FM_ARG_RANGE("eps", p, FM_OPT_FLOAT, 0, 1, FM_OPEN_LOW, "1e-05", "added to the variance"),
    FM_ARGS_END};
static const fm_options layer_norm_options = {
    "layer_norm", layer_norm_rows, 3,
    "(x - mean) / sqrt(variance + eps) * w + b over the last dimension."};
FM_OP(layer_norm, layer_norm_options, fm_layer_norm(c.ctx, &y, a.x, a.w, a.b, (float)a.p))

static const fm_option rms_norm_rows[] = {
    X_ANY, FM_ARG("w", w, FM_OPT_TENSOR, NULL, "[d], gain"),
    FM_ARG_RANGE("eps", p, FM_OPT_FLOAT, 0, 1, FM_OPEN_LOW, "1e-05", "added to the mean square"),
    FM_ARGS_END};
static const fm_options rms_norm_options = {
    "rms_norm", rms_norm_rows, 2, "x / sqrt(mean(x*x) + eps) * w over the last dimension."};
FM_OP(rms_norm, rms_norm_options, fm_rms_norm(c.ctx, &y, a.x, a.w, (float)a.p))

static const fm_option x_rows[] = {X_ANY, FM_ARGS_END};
static const fm_options softmax_options = {"softmax", x_rows, 1,
                                           "Softmax over the last dimension."};
FM_OP(softmax, softmax_options, fm_softmax(c.ctx, &y, a.x))

static const fm_options sum_options = {"sum", x_rows, 1,
                                       "Sum of all elements of a float32 tensor, as [1]."};
FM_OP(sum, sum_options, fm_sum(c.ctx, &y, a.x, 1.0f))

static const fm_option attention_rows[] = {
    FM_ARG("q", x, FM_OPT_TENSOR, NULL, "[B, Sq, n_head * d_head]"),
    FM_ARG("k", y, FM_OPT_TENSOR, NULL, "[B, Skv, n_kv_head * d_head]"),
    FM_ARG("v", w, FM_OPT_TENSOR, NULL, "[B, Skv, n_kv_head * d_head]"),
    FM_ARG_RANGE("n_head", i, FM_OPT_INT, 1, 65536, 0, NULL, "query heads"),
    FM_ARG_RANGE("n_kv_head", j, FM_OPT_INT_OR_NONE, 1, 65536, 0, "None",
                 "key and value heads; None: n_head"),
    FM_ARG("causal", flag, FM_OPT_BOOL, "True",
           "a query sees no later position; the queries are the last Sq"),
    FM_ARG_RANGE("scale", p, FM_OPT_FLOAT_OR_NONE, 0, INFINITY, FM_OPEN_LOW, "None",
                 "of the products; None: 1/sqrt(d_head)"),
    FM_ARGS_END};
static const fm_options attention_options = {
    "attention", attention_rows, 3, "softmax(scale q kT) v per head: [B, Sq, n_head * d_head]."};
FM_OP(attention, attention_options,
      fm_attention(c.ctx, &y, a.x, a.y, a.w, a.i, a.j ? a.j : a.i, a.flag, (float)a.p))

static const fm_option rope_rows[] = {
    FM_ARG("x", x, FM_OPT_TENSOR, NULL, "[B, S, columns], float"),
    FM_ARG_RANGE("heads", i, FM_OPT_INT, 1, 65536, 0, NULL,
                 "how many heads, from column 0, are turned"),
    FM_ARG_RANGE("d_head", j, FM_OPT_INT, 2, 65536, 0, NULL, "columns of a head, even"),
    FM_ARG_RANGE("theta", p, FM_OPT_FLOAT, 0, INFINITY, FM_OPEN_LOW, "10000.0", "base"),
    FM_ARG_RANGE("offset", k, FM_OPT_INT, 0, 2147483647, 0, "0", "position of the first row"),
    FM_ARGS_END};
static const fm_options rope_options = {
    "rope", rope_rows, 3, "Rotary positions: turns the pairs (i, i + d_head/2) of each head."};
FM_OP(rope, rope_options, fm_rope(c.ctx, &y, a.x, a.i, a.j, (float)a.p, a.k))

static fm_status run_embedding(fm_ctx *ctx, fm_tensor **y, const fm_op_args *a) {
    fm_tensor *ids;
    FM_TRY(fm_as_int32(ctx, a->ids, "embedding: ids", &ids));
    fm_status s = fm_embedding(ctx, y, a->w, ids);
    fm_tensor_free(ids);
    return s;
}
static const fm_option embedding_rows[] = {
    FM_ARG("table", w, FM_OPT_TENSOR, NULL, "[V, d]"),
    FM_ARG("ids", ids, FM_OPT_TENSOR, NULL, "[...] integers in [0, V)"), FM_ARGS_END};
static const fm_options embedding_options = {"embedding", embedding_rows, 2,
                                             "The rows of table that ids name: [..., d]."};
FM_OP(embedding, embedding_options, run_embedding(c.ctx, &y, &a))

static fm_status run_cross_entropy(fm_ctx *ctx, fm_tensor **y, const fm_op_args *a) {
    fm_tensor *target;
    FM_TRY(fm_as_int32(ctx, a->ids, "cross_entropy: target", &target));
    fm_status s = fm_cross_entropy(ctx, y, NULL, a->x, target, 0);
    fm_tensor_free(target);
    return s;
}
static const fm_option cross_entropy_rows[] = {
    FM_ARG("logits", x, FM_OPT_TENSOR, NULL, "[..., V]"),
    FM_ARG("target", ids, FM_OPT_TENSOR, NULL, "[...] integers in [0, V); -1 is left out"),
    FM_ARGS_END};
static const fm_options cross_entropy_options = {
    "cross_entropy", cross_entropy_rows, 2,
    "Mean over the targets that are not -1 of -log softmax(logits)[target], in nats: [1] float32."};
FM_OP(cross_entropy, cross_entropy_options, run_cross_entropy(c.ctx, &y, &a))

static fm_status run_dropout(fm_ctx *ctx, fm_tensor **y, const fm_op_args *a) {
    ctx->own_clock = fm_optims_clock();
    fm_rng_key key = fm_rng(ctx, fm_rng_stream(a->text));
    return fm_dropout(ctx, y, a->x, (float)a->p, &key);
}
static const fm_option dropout_rows[] = {
    X_ANY,
    FM_ARG_RANGE("p", p, FM_OPT_FLOAT, 0, 1, FM_OPEN_HIGH, NULL, "probability to drop an element"),
    FM_ARG("name", text, FM_OPT_TEXT, NULL,
           "of this dropout: which elements fall depends on it, the seed, and how many steps and "
           "micro-batches all optimisers have done"),
    FM_ARGS_END};
static const fm_options dropout_options = {
    "dropout", dropout_rows, 2,
    "Zeroes elements and divides the others by 1 - p; call it in training only."};
FM_OP(dropout, dropout_options, run_dropout(c.ctx, &y, &a))

static const fm_option cast_rows[] = {
    FM_ARG("x", x, FM_OPT_TENSOR, NULL, "any"),
    FM_ARG_CHOICE("dtype", "float32|bfloat16|int32|int64", NULL, "float to float, int to int"),
    FM_ARGS_END};
static const fm_options cast_options = {"cast", cast_rows, 2, "The same values in another dtype."};
FM_OP(cast, cast_options, fm_cast(c.ctx, &y, a.x, (fm_dtype)a.choice))

bool fm_py_sizes(PyObject *o, const char *what, int64_t low, int max, int *n, int64_t *sizes) {
    PyObject *seq = PySequence_Fast(o, what);
    if (!seq) return false;
    Py_ssize_t count = PySequence_Fast_GET_SIZE(seq);
    bool ok = count <= max;
    for (Py_ssize_t i = 0; ok && i < count; i++) {
        sizes[i] = PyLong_AsLongLong(PySequence_Fast_GET_ITEM(seq, i));
        ok = !PyErr_Occurred() && sizes[i] >= low;
    }
    *n = (int)count;
    Py_DECREF(seq);
    if (!ok && !PyErr_Occurred())
        PyErr_Format(PyExc_ValueError, "%s=%R is not allowed: at most %d ints of at least %lld are",
                     what, o, max, (long long)low);
    return ok;
}

static const fm_option reshape_rows[] = {
    FM_ARG("x", x, FM_OPT_TENSOR, NULL, "any"),
    FM_ARG_OBJECT("shape", shape, "Sequence[int]", NULL, "of as many elements; one size may be -1"),
    FM_ARGS_END};
static const fm_options reshape_options = {"reshape", reshape_rows, 2,
                                           "The same elements in another shape, without a copy."};
static PyObject *reshape(PyObject *module, PyObject *const *args, Py_ssize_t n, PyObject *names) {
    (void)module;
    fm_op_args a;
    int ndim;
    int64_t shape[FM_MAX_DIMS];
    fm_call c;
    fm_tensor *y = NULL;
    if (!fm_options_parse_fast(&reshape_options, args, n, names, &a) ||
        !fm_py_sizes(a.shape, "reshape: shape", -1, FM_MAX_DIMS, &ndim, shape) ||
        !fm_call_begin(&c))
        return NULL;
    fm_status s = fm_reshape(c.ctx, &y, a.x, ndim, shape);
    return fm_call_end(&c, s) ? fm_py_tensor_new(y) : NULL;
}

enum { MAX_PARTS = 256 };
static const fm_option cat_rows[] = {
    FM_ARG_OBJECT("tensors", object, "Sequence[Tensor]", NULL,
                  "of one dtype, and one shape but for `axis`"),
    FM_ARG_RANGE("axis", i, FM_OPT_INT, 0, FM_MAX_DIMS - 1, 0, "0", "the dimension that grows"),
    FM_ARGS_END};
static const fm_options cat_options = {"cat", cat_rows, 2,
                                       "One tensor after another along `axis`."};
static PyObject *cat(PyObject *module, PyObject *const *args, Py_ssize_t n, PyObject *names) {
    (void)module;
    fm_op_args a;
    if (!fm_options_parse_fast(&cat_options, args, n, names, &a)) return NULL;
    PyObject *seq = PySequence_Fast(a.object, "cat: tensors is a sequence of tensors");
    if (!seq) return NULL;
    fm_tensor *parts[MAX_PARTS];
    Py_ssize_t count = PySequence_Fast_GET_SIZE(seq);
    bool ok = count >= 1 && count <= MAX_PARTS;
    for (Py_ssize_t i = 0; ok && i < count; i++) {
        PyObject *t = PySequence_Fast_GET_ITEM(seq, i);
        ok = fm_is_tensor(t);
        if (ok) parts[i] = fm_tensor_of(t);
    }
    fm_call c;
    fm_tensor *y = NULL;
    if (!ok) {
        PyErr_Format(PyExc_ValueError, "cat: tensors=%R is not allowed: 1 to %d tensors are",
                     a.object, MAX_PARTS);
    } else if (fm_call_begin(&c)) {
        fm_status s = fm_cat(c.ctx, &y, parts, (int)count, (int)a.i);
        if (!fm_call_end(&c, s)) y = NULL;
    }
    Py_DECREF(seq);
    return PyErr_Occurred() ? NULL : fm_py_tensor_new(y);
}

static const fm_option split_rows[] = {
    FM_ARG("x", x, FM_OPT_TENSOR, NULL, "any"),
    FM_ARG_OBJECT("sizes", shape, "Sequence[int]", NULL,
                  "of the parts along `axis`; they sum to its size"),
    FM_ARG_RANGE("axis", i, FM_OPT_INT, 0, FM_MAX_DIMS - 1, 0, "0", "the dimension that is cut"),
    FM_ARGS_END};
static const fm_options split_options = {
    "split", split_rows, 3, "A list of consecutive parts of x; along axis 0 without a copy."};
static PyObject *split(PyObject *module, PyObject *const *args, Py_ssize_t n, PyObject *names) {
    (void)module;
    fm_op_args a;
    int count;
    int64_t sizes[MAX_PARTS], sum = 0, start = 0;
    if (!fm_options_parse_fast(&split_options, args, n, names, &a) ||
        !fm_py_sizes(a.shape, "split: sizes", 0, MAX_PARTS, &count, sizes))
        return NULL;
    bool ok = a.i < a.x->ndim;
    for (int i = 0; ok && i < count; i++) ok = !__builtin_add_overflow(sum, sizes[i], &sum);
    if (!ok || sum != a.x->shape[a.i])
        return PyErr_Format(
            PyExc_ValueError,
            "split: sizes=%R along axis %lld is not allowed: sizes of the sum %lld are", a.shape,
            (long long)a.i, a.i < a.x->ndim ? (long long)a.x->shape[a.i] : 0LL);
    PyObject *list = PyList_New(0);
    for (int i = 0; list && i < count; start += sizes[i++]) {
        fm_call c;
        fm_tensor *y = NULL;
        PyObject *part = NULL;
        if (fm_call_begin(&c)) {
            fm_status s = fm_split(c.ctx, &y, a.x, (int)a.i, start, start + sizes[i]);
            if (fm_call_end(&c, s)) part = fm_py_tensor_new(y);
        }
        if (!part || PyList_Append(list, part) < 0) Py_CLEAR(list);
        Py_XDECREF(part);
    }
    return list;
}

static const fm_option tensor_rows[] = {
    FM_ARG_OBJECT("array", object, "Tensor | Buffer | Sequence", NULL,
                  "numbers: a tensor, NumPy array, array.array, bytes, number or (nested) list"),
    FM_ARG("requires_grad", flag, FM_OPT_BOOL, "False", "backward() gives it a gradient"),
    FM_ARG_CHOICE(
        "dtype", "float32|bfloat16|int32|int64|auto|", "'auto'",
        "auto: float32 of floats; int32 of lists of ints and ints of at most 32 bits; int64"),
    FM_ARGS_END};
static const fm_options tensor_options = {"tensor", tensor_rows, 1,
                                          "A new tensor on the device, with a copy of the values."};
static PyObject *tensor(PyObject *module, PyObject *const *args, Py_ssize_t n, PyObject *names) {
    (void)module;
    fm_op_args a;
    fm_values v;
    if (!fm_options_parse_fast(&tensor_options, args, n, names, &a) ||
        !fm_values_read(a.object, "tensor: array", &v))
        return NULL;
    fm_dtype dtype = a.choice == 4 ? v.dtype : (fm_dtype)a.choice;
    fm_tensor *y = NULL, *wide = NULL;
    fm_call c;
    if (a.flag && !fm_dtype_is_float(dtype))
        PyErr_Format(PyExc_ValueError,
                     "tensor: requires_grad=True is not allowed for %s: float32 "
                     "and bfloat16 are differentiable",
                     fm_dtype_name(dtype));
    else if (fm_values_convert(&v, dtype == FM_BF16 ? FM_F32 : dtype, "tensor: array") &&
             fm_call_begin(&c)) {
        fm_status s = fm_tensor_from_host(c.ctx, &wide, v.dtype, v.ndim, v.shape, v.data);
        if (s == FM_OK) s = fm_cast(c.ctx, &y, wide, dtype);
        if (s == FM_OK) y->requires_grad = a.flag;
        fm_tensor_free(wide);
        if (!fm_call_end(&c, s)) y = NULL;
    }
    fm_values_free(&v);
    return y && !PyErr_Occurred() ? fm_py_tensor_new(y) : NULL;
}

static const fm_function functions[] = {
    {&tensor_options, tensor},
    {&add_options, add},
    {&mul_options, mul},
    {&matmul_options, matmul},
    {&linear_options, linear},
    {&activation_options, activation},
    {&layer_norm_options, layer_norm},
    {&rms_norm_options, rms_norm},
    {&softmax_options, softmax},
    {&sum_options, sum},
    {&attention_options, attention},
    {&rope_options, rope},
    {&embedding_options, embedding},
    {&cross_entropy_options, cross_entropy},
    {&dropout_options, dropout},
    {&cast_options, cast},
    {&reshape_options, reshape},
    {&cat_options, cat},
    {&split_options, split},
    {NULL, NULL},
};

int fm_add_ops(PyObject *module) { return fm_add_functions(module, functions); }
