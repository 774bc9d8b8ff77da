/* What train --version and --info say. */
#include "pyembed/info.h"
#include "pyembed/cores.h"
#include "pyembed/host.h"

#include "io/h5.h"
#include "tensor/cpu/sgemm.h"

#include <Python.h>
#include <host_python.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

int fm_print_version(void) {
    const char *mpi = fm_mpi_library();
    int name = (int)strcspn(mpi, ",");
    printf("fmoe %s (Python %s, MPI: %.*s)\n", FM_VERSION, PY_VERSION, name, mpi);
    return 0;
}

static void line(const char *what, const char *text) { printf("%-10s %s\n", what, text); }

int fm_print_info(void) {
    fm_host *h = &fm_the_host;
    char text[3 * PATH_MAX];
    fm_error err = {0};
    if (h->rank > 0) return fm_host_open(&err) == FM_OK ? 0 : 1; /* rank 0 speaks */
    line("fmoe", FM_VERSION);
    if (fm_host_open(&err) == FM_OK) {
        snprintf(text, sizeof text, "%s: %s", h->ctx->dev->name, h->ctx->dev->model);
        line("device", text);
        if (h->why[0]) line("no GPU", h->why);
    } else {
        snprintf(text, sizeof text, "%s cannot be used: %s", h->device, err.message);
        line("device", text);
    }
    snprintf(text, sizeof text, "%d of %d cores%s", h->threads, fm_host_cores(),
             getenv("OMP_NUM_THREADS") ? " (OMP_NUM_THREADS)" : "");
    line("threads", text);
    line("products", fm_sgemm_library());
    snprintf(text, sizeof text, "%s (linked into train)", fm_h5_version());
    line("HDF5", text);
    line("MPI", fm_mpi_library());
    if (h->mpi) {
        fm_mpi_place at = fm_mpi_find_place(h->mpi);
        snprintf(text, sizeof text, "%d, %d of them on this node", at.size, at.node_size);
        line("ranks", text);
    }
    line("NCCL", "not used: ranks train on CPUs");
    snprintf(text, sizeof text, "%s (%s, %s libpython)", PY_VERSION, FM_PYTHON_EXECUTABLE,
             FM_PYTHON_LINK);
    line("Python", text);
    if (fm_package_dir(text, sizeof text) == 0)
        line("package", text);
    else
        line("package",
             "missing: the Python package fmoe is neither in the runfiles nor beside train");
    return err.status == FM_OK ? 0 : 1;
}
