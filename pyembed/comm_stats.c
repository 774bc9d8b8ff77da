/* What the communicators of a mesh carried: mesh.comm_stats(). */
#include "pyembed/mesh_type.h"
#include "pyembed/options.h"

#include <string.h>

/* The groups of a mesh, by the names that reports and docs/scaling.md use. */
static const struct {
    const char *name;
    size_t comm;
} groups[] = {
    {"world", offsetof(fm_mesh, world_comm)},
    {"dp", offsetof(fm_mesh, dp_comm)},
    {"tp", offsetof(fm_mesh, tp_comm)},
    {"pp", offsetof(fm_mesh, pp_comm)},
    {"stage", offsetof(fm_mesh, stage_comm)},
    {"ep", offsetof(fm_mesh, ep_comm)},
    {"etp", offsetof(fm_mesh, etp_comm)},
    {"edp", offsetof(fm_mesh, edp_comm)},
    {"expert", offsetof(fm_mesh, expert_comm)},
    {"expert_replicas", offsetof(fm_mesh, expert_replicas_comm)},
};

static PyObject *row(const char *group, int ranks, const char *kind, const fm_comm_stats *s) {
    return Py_BuildValue("{s:s,s:i,s:s,s:L,s:L,s:d}", "group", group, "ranks", ranks, "kind", kind,
                         "calls", (long long)s->calls, "bytes", (long long)s->bytes, "waited",
                         s->waited);
}

/* One dict for each kind of collective that the group began. A group of one sends nothing. */
static bool add_rows(PyObject *list, const char *group, const fm_comm *c) {
    for (int kind = 0; c->size > 1 && kind < FM_COLLECTIVE_KINDS; kind++) {
        if (c->stats[kind].calls == 0) continue;
        PyObject *dict = row(group, c->size, fm_collective_name((fm_collective_kind)kind),
                             &c->stats[kind]);
        int failed = dict ? PyList_Append(list, dict) : -1;
        Py_XDECREF(dict);
        if (failed) return false;
    }
    return true;
}

typedef struct stats_args {
    bool reset;
} stats_args;
static const fm_option rows[] = {
    {"reset", offsetof(stats_args, reset), FM_OPT_BOOL, 0, 0, 0, NULL, "False",
     "counts from 0 again afterwards", NULL},
    {NULL, 0, 0, 0, 0, 0, NULL, NULL, NULL, NULL},
};
static const fm_options options = {"comm_stats", rows, 0, ""};

PyObject *fm_py_comm_stats(PyObject *mesh, PyObject *const *args, Py_ssize_t n, PyObject *names) {
    stats_args a;
    fm_call c;
    if (!fm_options_parse_fast(&options, args, n, names, &a)) return NULL;
    /* Another thread may communicate: what is copied here belongs together. */
    enum { GROUPS = sizeof groups / sizeof *groups };
    fm_comm copies[GROUPS];
    if (!fm_call_begin(&c)) return NULL;
    for (int i = 0; i < GROUPS; i++) {
        fm_comm *comm = *(fm_comm **)((char *)fm_mesh_of(mesh) + groups[i].comm);
        copies[i] = *comm;
        if (a.reset) memset(comm->stats, 0, sizeof comm->stats);
    }
    if (!fm_call_end(&c, FM_OK)) return NULL;
    PyObject *list = PyList_New(0);
    for (int i = 0; list && i < GROUPS; i++)
        if (!add_rows(list, groups[i].name, &copies[i])) Py_CLEAR(list);
    return list;
}
