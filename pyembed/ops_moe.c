/* Routing: top-k, permutation, grouped products; and the collectives. */
#include "pyembed/mesh_type.h"
#include "pyembed/moe_type.h"
#include "pyembed/ops.h"

#include "parallel/tape_collectives.h"

#include <string.h>

/* fmoe.MoEMap: where the choices of a batch go. */
typedef struct py_map {
    PyObject_HEAD fm_moe_map map;
} py_map;

static void map_dealloc(PyObject *o) {
    fm_moe_map *m = &((py_map *)o)->map;
    fm_py_tensor_free(m->counts);
    fm_py_tensor_free(m->offsets);
    fm_py_tensor_free(m->slot);
    fm_py_tensor_free(m->source);
    fm_the_host.live--;
    Py_TYPE(o)->tp_free(o);
}

static PyObject *map_tensor(PyObject *o, void *offset) {
    fm_tensor *t = *(fm_tensor **)((char *)&((py_map *)o)->map + (size_t)offset);
    return fm_py_tensor_new(fm_tensor_retain(t));
}

#define MAP_TENSOR(field, doc)                                                                     \
    { #field, map_tensor, NULL, doc, (void *)offsetof(fm_moe_map, field) }
static PyGetSetDef map_getset[] = {
    MAP_TENSOR(counts, "int32 [E]: choices of each expert"),
    MAP_TENSOR(offsets, "int32 [E+1]: where each expert's rows begin"),
    MAP_TENSOR(slot, "int32 [T, k]: row of each choice, -1 for the dropped"),
    MAP_TENSOR(source, "int32 [T*k]: t*k + j of each row, -1 behind the last"),
    {NULL, NULL, NULL, NULL, NULL},
};

static PyTypeObject map_type = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "fmoe.MoEMap",
    .tp_basicsize = sizeof(py_map),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .tp_doc = "Where the choices of a batch of tokens go; made by moe_permute.",
    .tp_dealloc = map_dealloc,
    .tp_getset = map_getset,
};

static const fm_option permute_rows[] = {
    FM_ARG("x", x, FM_OPT_TENSOR, NULL, "[T, d], float"),
    FM_ARG("indices", ids, FM_OPT_TENSOR, NULL, "int [T, k]: each token's experts, -1 = dropped"),
    FM_ARG_RANGE("num_experts", i, FM_OPT_INT, 1, 1 << 20, 0, NULL, "E"), FM_ARGS_END};
static const fm_options permute_options = {
    "moe_permute", permute_rows, 3,
    "Copies of the tokens' rows, sorted by expert: ([T*k, d], MoEMap). Rows of one expert keep the "
    "order (token, choice); rows of dropped choices, at the end, are zero."};
static PyObject *moe_permute(PyObject *module, PyObject *const *args, Py_ssize_t n,
                             PyObject *names) {
    (void)module;
    fm_op_args a;
    if (!fm_options_parse_fast(&permute_options, args, n, names, &a)) return NULL;
    py_map *map = PyObject_New(py_map, &map_type);
    if (!map) return NULL;
    map->map = (fm_moe_map){0};
    fm_the_host.live++;
    fm_tensor *ids = NULL, *y = NULL;
    fm_call c;
    if (!fm_call_begin(&c)) goto fail;
    fm_status s = fm_as_int32(c.ctx, a.ids, "moe_permute: indices", &ids);
    if (s == FM_OK) s = fm_moe_map_new(c.ctx, &map->map, ids, a.i);
    if (s == FM_OK) s = fm_moe_permute(c.ctx, &y, a.x, &map->map);
    fm_tensor_free(ids);
    if (!fm_call_end(&c, s)) goto fail;
    PyObject *rows = fm_py_tensor_new(y);
    if (!rows) goto fail;
    return Py_BuildValue("(NN)", rows, map);
fail:
    Py_DECREF(map);
    return NULL;
}

static const fm_option unpermute_rows[] = {
    FM_ARG("z", x, FM_OPT_TENSOR, NULL, "[T*k, d], float, in expert order"),
    FM_ARG_OBJECT("map", object, "MoEMap", NULL, "of the permutation"),
    FM_ARG("scores", w, FM_OPT_TENSOR_OR_NONE, "None", "float32 [T, k]; None: all 1"), FM_ARGS_END};
static const fm_options unpermute_options = {
    "moe_unpermute", unpermute_rows, 3,
    "y[t] = sum over j of scores[t, j] * z[slot[t, j]]: [T, d]."};
static PyObject *moe_unpermute(PyObject *module, PyObject *const *args, Py_ssize_t n,
                               PyObject *names) {
    (void)module;
    fm_op_args a;
    if (!fm_options_parse_fast(&unpermute_options, args, n, names, &a)) return NULL;
    if (!PyObject_TypeCheck(a.object, &map_type))
        return PyErr_Format(PyExc_TypeError, "moe_unpermute: map=%R: an fmoe.MoEMap is wanted",
                            a.object);
    fm_tensor *y = NULL;
    fm_call c;
    if (!fm_call_begin(&c)) return NULL;
    fm_status s = fm_moe_unpermute(c.ctx, &y, a.x, a.w, &((py_map *)a.object)->map);
    return fm_call_end(&c, s) ? fm_py_tensor_new(y) : NULL;
}

static const fm_option grouped_rows[] = {
    FM_ARG("x", x, FM_OPT_TENSOR, NULL, "[N, in], sorted by expert"),
    FM_ARG("w", w, FM_OPT_TENSOR, NULL, "[E, out, in]"),
    FM_ARG("b", b, FM_OPT_TENSOR_OR_NONE, NULL, "[E, out] or None"),
    FM_ARG("offsets", ids, FM_OPT_TENSOR, NULL, "int32 [E+1], rising from 0: MoEMap.offsets"),
    FM_ARG_CHOICE("activation", FM_ACT_CHOICES, "'none'", "not swiglu and geglu"),
    FM_ARGS_END};
static const fm_options grouped_options = {
    "grouped_linear", grouped_rows, 4,
    "activation(x[offsets[e]:offsets[e+1]] w[e]T + b[e]) for every expert e: [N, out]. Rows behind "
    "offsets[E] come out undefined."};
FM_OP(grouped_linear, grouped_options,
      fm_grouped_linear(c.ctx, &y, a.x, a.w, a.b, a.ids, (fm_act)a.choice))

static const fm_option top_k_rows[] = {
    FM_ARG("x", x, FM_OPT_TENSOR, NULL, "[T, n], float32"),
    FM_ARG_RANGE("k", i, FM_OPT_INT, 1, 1 << 20, 0, NULL, "how many of each row, at most n"),
    FM_ARGS_END};
static const fm_options top_k_options = {
    "top_k", top_k_rows, 2,
    "The k largest of each row, falling: (values [T, k], differentiable; indices int32 [T, k]). "
    "Ties go to the lower index."};
static PyObject *top_k(PyObject *module, PyObject *const *args, Py_ssize_t n, PyObject *names) {
    (void)module;
    fm_op_args a;
    fm_tensor *values = NULL, *indices = NULL;
    fm_call c;
    if (!fm_options_parse_fast(&top_k_options, args, n, names, &a) || !fm_call_begin(&c))
        return NULL;
    fm_status s = fm_top_k(c.ctx, &values, &indices, a.x, a.i);
    if (!fm_call_end(&c, s)) return NULL;
    return Py_BuildValue("(NN)", fm_py_tensor_new(values), fm_py_tensor_new(indices));
}

static const fm_option gather_rows[] = {
    FM_ARG("x", x, FM_OPT_TENSOR, NULL, "[T, n], float32"),
    FM_ARG("indices", ids, FM_OPT_TENSOR, NULL, "int32 [T, k] in [0, n), or -1"), FM_ARGS_END};
static const fm_options gather_options = {"gather_cols", gather_rows, 2,
                                          "y[t, j] = x[t, indices[t, j]], 0 where that is -1."};
FM_OP(gather_cols, gather_options, fm_gather_cols(c.ctx, &y, a.x, a.ids))

/* ---- losses of routers */

/* f[e]: the share of the T tokens whose first choice is expert e, float32 [E]. -1 is nobody's. */
static fm_status first_shares(fm_ctx *ctx, fm_tensor *indices, int64_t T, int64_t E,
                              fm_tensor **out) {
    FM_CHECK(indices->ndim == 2 && indices->shape[0] == T && indices->shape[1] > 0, FM_ERR_SHAPE,
             "balance_loss: indices have %d dimensions and %lld elements: [%lld, k] is wanted",
             indices->ndim, (long long)fm_numel(indices), (long long)T);
    int64_t k = indices->shape[1];
    fm_tensor *ids = NULL;
    int32_t *host = NULL;
    float *shares = NULL;
    fm_status status = FM_OK;
    FM_TRY_GOTO(fm_as_int32(ctx, indices, "balance_loss: indices", &ids));
    host = malloc((size_t)(T * k) * sizeof *host + 1);
    shares = calloc((size_t)E, sizeof *shares);
    FM_CHECK_GOTO(host && shares, FM_ERR_OOM, "balance_loss: out of memory: %lld choices",
                  (long long)(T * k));
    FM_TRY_GOTO(fm_tensor_to_host(ctx, ids, host, fm_nbytes(ids)));
    for (int64_t t = 0; t < T; t++) {
        int32_t e = host[t * k];
        FM_CHECK_GOTO(e >= -1 && e < E, FM_ERR_RANGE,
                      "balance_loss: indices[%lld, 0] is %d: -1 to %lld are allowed", (long long)t,
                      (int)e, (long long)E - 1);
        if (e >= 0) shares[e] += 1;
    }
    for (int64_t e = 0; e < E && T > 0; e++) shares[e] /= (float)T;
    FM_TRY_GOTO(fm_tensor_from_host(ctx, out, FM_F32, 1, &E, shares));
out:
    fm_tensor_free(ids);
    free(host);
    free(shares);
    return status;
}

static fm_status run_balance(fm_ctx *ctx, fm_tensor **y, const fm_op_args *a) {
    fm_tensor *f = NULL;
    FM_CHECK(a->x->ndim == 2 && a->x->shape[1] > 0, FM_ERR_SHAPE,
             "balance_loss: probs have %d dimensions: [T, E] is wanted", a->x->ndim);
    FM_TRY(first_shares(ctx, a->ids, a->x->shape[0], a->x->shape[1], &f));
    fm_status s = fm_balance_loss(ctx, y, a->x, f, (float)a->x->shape[1]);
    fm_tensor_free(f);
    return s;
}

static const fm_option balance_rows[] = {
    FM_ARG("probs", x, FM_OPT_TENSOR, NULL, "float32 [T, E], the router's softmax"),
    FM_ARG("indices", ids, FM_OPT_TENSOR, NULL, "int [T, k]: each token's experts"), FM_ARGS_END};
static const fm_options balance_options = {
    "balance_loss", balance_rows, 2,
    "E * sum over e of f[e] * mean over t of probs[t, e], where f[e] is the share of the tokens "
    "whose first choice is e: 1 at perfect balance. What a gate's forward gives as its loss."};
FM_OP(balance_loss, balance_options, run_balance(c.ctx, &y, &a))

static const fm_option z_rows[] = {
    FM_ARG("logits", x, FM_OPT_TENSOR, NULL, "float32 [T, E], the router's"), FM_ARGS_END};
static const fm_options z_options = {"z_loss", z_rows, 1,
                                     "mean over t of logsumexp(logits[t])**2 (ST-MoE)."};
FM_OP(z_loss, z_options, fm_z_loss(c.ctx, &y, a.x, 1.0f))

/* ---- collectives */

#define GROUPS "world|dp|tp|pp|ep|etp|edp"
#define GROUP_ROWS(initial)                                                                        \
    FM_ARG_CHOICE("group", GROUPS, initial, "the ranks that take part"),                           \
        FM_ARG_OBJECT(                                                                             \
            "mesh", object, "Mesh | None", "None",                                                 \
            "whose groups; None: in a gate's forward the gate's, else one in which all ranks are " \
            "dp")

/* The communicator that was chosen; NULL with an exception set. */
static fm_comm *group_of(const fm_op_args *a, const char *what) {
    const fm_mesh *m = a->object && a->object != Py_None ? NULL : fm_py_gate_mesh();
    if (!m) {
        PyObject *o = fm_py_mesh_or_default(a->object, what);
        if (!o) return NULL;
        m = fm_mesh_of(o);
        Py_DECREF(o); /* meshes live until the end */
    }
    fm_comm *const groups[] = {m->world_comm, m->dp_comm,  m->tp_comm, m->pp_comm,
                               m->ep_comm,    m->etp_comm, m->edp_comm};
    return groups[a->choice];
}

#define COLLECTIVE_OP(name, options)                                                               \
    static PyObject *name(PyObject *module, PyObject *const *args, Py_ssize_t n,                   \
                          PyObject *names) {                                                       \
        (void)module;                                                                              \
        fm_op_args a;                                                                              \
        fm_call c;                                                                                 \
        fm_comm *group;                                                                            \
        fm_tensor *y = NULL;                                                                       \
        if (!fm_options_parse_fast(&options, args, n, names, &a) ||                                \
            !(group = group_of(&a, #name)) || !fm_call_begin(&c))                                  \
            return NULL;                                                                           \
        fm_status s = fm_##name(c.ctx, group, &y, a.x);                                            \
        return fm_call_end(&c, s) ? fm_py_tensor_new(y) : NULL;                                    \
    }

static const fm_option all_reduce_rows[] = {
    FM_ARG("x", x, FM_OPT_TENSOR, NULL, "of the same shape on every rank of the group"),
    GROUP_ROWS("'dp'"), FM_ARGS_END};
static const fm_options all_reduce_options = {
    "all_reduce", all_reduce_rows, 2,
    "Sum over the ranks of the group, on each of them. Its gradient is the sum of theirs."};
COLLECTIVE_OP(all_reduce, all_reduce_options)

static const fm_option all_gather_rows[] = {
    FM_ARG("x", x, FM_OPT_TENSOR, NULL, "[n, ...], the same shape on every rank of the group"),
    GROUP_ROWS("'dp'"), FM_ARGS_END};
static const fm_options all_gather_options = {
    "all_gather", all_gather_rows, 2,
    "The ranks' tensors one after another along dimension 0: [size*n, ...]."};
COLLECTIVE_OP(all_gather, all_gather_options)

static const fm_option all_to_all_rows[] = {
    FM_ARG("x", x, FM_OPT_TENSOR, NULL,
           "[n, ...]: rows for rank 0 of the group, then for rank 1, ..."),
    FM_ARG_OBJECT("counts", shape, "Sequence[int]", NULL,
                  "how many rows go to each rank; they sum to n"),
    GROUP_ROWS("'ep'"), FM_ARGS_END};
static const fm_options all_to_all_options = {"all_to_all", all_to_all_rows, 2,
                                              "Sends each rank its rows: (the rows received, in "
                                              "rank order; a list of how many came from each)."};
static PyObject *all_to_all(PyObject *module, PyObject *const *args, Py_ssize_t n,
                            PyObject *names) {
    (void)module;
    enum { MAX_RANKS = 4096 };
    fm_op_args a;
    int count;
    int64_t send[MAX_RANKS], received[MAX_RANKS];
    fm_tensor *y = NULL;
    fm_call c;
    fm_comm *group;
    if (!fm_options_parse_fast(&all_to_all_options, args, n, names, &a) ||
        !fm_py_sizes(a.shape, "all_to_all: counts", 0, MAX_RANKS, &count, send) ||
        !(group = group_of(&a, "all_to_all")) || !fm_call_begin(&c))
        return NULL;
    fm_status s = fm_all_to_all(c.ctx, group, &y, a.x, count, send, received);
    if (!fm_call_end(&c, s)) return NULL;
    PyObject *rows = fm_py_tensor_new(y), *list = PyList_New(0);
    for (int i = 0; list && i < count; i++) {
        PyObject *x = PyLong_FromLongLong(received[i]);
        if (!x || PyList_Append(list, x) < 0) Py_CLEAR(list);
        Py_XDECREF(x);
    }
    return Py_BuildValue("(NN)", rows, list);
}

static const fm_function functions[] = {
    {&permute_options, moe_permute},
    {&unpermute_options, moe_unpermute},
    {&grouped_options, grouped_linear},
    {&top_k_options, top_k},
    {&gather_options, gather_cols},
    {&balance_options, balance_loss},
    {&z_options, z_loss},
    {&all_reduce_options, all_reduce},
    {&all_gather_options, all_gather},
    {&all_to_all_options, all_to_all},
    {NULL, NULL},
};

int fm_add_moe_ops(PyObject *module) {
    if (fm_add_type(module, &map_type) < 0) return -1;
    return fm_add_functions(module, functions);
}
