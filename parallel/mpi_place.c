/* Who is where: this rank's place in the job and on its node. */
#ifdef FM_HAVE_MPI
#include "parallel/mpi_internal.h"

fm_status fm_mpi_look_around(fm_mpi *m, fm_error *err) {
    fm_mpi_place *p = &m->place;
    FM_TRY(fm_mpi_check(err, MPI_Comm_dup(MPI_COMM_WORLD, &m->world), "start"));
    MPI_Comm_rank(m->world, &p->rank);
    MPI_Comm_size(m->world, &p->size);
    FM_TRY(fm_mpi_check(
        err, MPI_Comm_split_type(m->world, MPI_COMM_TYPE_SHARED, p->rank, MPI_INFO_NULL, &m->node),
        "start"));
    MPI_Comm_rank(m->node, &p->node_rank);
    MPI_Comm_size(m->node, &p->node_size);
    return FM_OK;
}

fm_mpi_place fm_mpi_find_place(const fm_mpi *m) { return m->place; }

fm_status fm_mpi_gather_node(fm_mpi *m, fm_error *err, const void *mine, size_t bytes, void *all) {
    pthread_mutex_lock(&m->lock);
    int n = (int)bytes;
    int code = MPI_Allgather(mine, n, MPI_BYTE, all, n, MPI_BYTE, m->node);
    pthread_mutex_unlock(&m->lock);
    return fm_mpi_check(err, code, "start");
}
#endif
