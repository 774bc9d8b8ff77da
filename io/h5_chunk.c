/* Chunks past HDF5's filter pipeline, which costs more than the disk: an array is cut into chunks and
 * their checksums are computed here, and HDF5 is handed what belongs on the disk. */
#include "io/fletcher.h"
#include "io/h5_internal.h"

#include <fcntl.h>
#include <stdlib.h>

/* Chunk number i, row-major, of a grid; cut: its part inside the array. */
static void nth_chunk(const fm_chunking *g, hsize_t i, fm_box *chunk, fm_box *cut) {
    *chunk = *cut = (fm_box){0};
    for (int d = g->rank - 1; d >= 0; d--) {
        hsize_t n = (g->dims[d] + g->chunk[d] - 1) / g->chunk[d];
        chunk->start[d] = cut->start[d] = (int64_t)(i % n * g->chunk[d]);
        chunk->stop[d] = chunk->start[d] + (int64_t)g->chunk[d];
        cut->stop[d] = chunk->stop[d] < (int64_t)g->dims[d] ? chunk->stop[d] : (int64_t)g->dims[d];
        i /= n;
    }
}

/* Room for one chunk and its checksum, kept with the file. */
static float *room_for(fm_h5 *h, size_t bytes) {
    if (h->room < bytes) {
        free(h->chunk);
        h->chunk = malloc(bytes);
        h->room = h->chunk ? bytes : 0;
    }
    return h->chunk;
}

static void coordinates(int rank, const fm_box *b, hsize_t *start) {
    for (int d = 0; d < rank; d++) start[d] = (hsize_t)b->start[d];
}

/* The disk writes while the next chunks are made; otherwise it would begin when all are. */
static void start_disk(fm_h5 *h, size_t bytes) {
    enum { ENOUGH = 32 << 20 };
    void *fd = NULL;
    h->unsent += bytes;
    if (h->unsent < ENOUGH) return;
    h->unsent = 0;
    if (H5Fget_vfd_handle(h->file, H5P_DEFAULT, &fd) >= 0 && fd)
        (void)sync_file_range(*(int *)fd, 0, 0, SYNC_FILE_RANGE_WRITE); /* a hint; fsync comes */
}

/* A chunk's elements, zeros beyond the array; their checksum. */
static uint32_t fill(const fm_chunking *g, float *room, const float *data, const fm_box *whole,
                     const fm_box *chunk, const fm_box *cut) {
    int64_t n = fm_box_numel(g->rank, chunk), from = fm_box_run(g->rank, whole, cut);
    size_t bytes = (size_t)n * sizeof *room;
    bool full = fm_box_numel(g->rank, cut) == n;
    if (full && from >= 0) return fm_fletcher32_copy(room, data + from, bytes);
    if (!full) memset(room, 0, bytes);
    fm_box_copy(g->rank, room, chunk, data, whole, cut);
    return fm_fletcher32(room, bytes);
}

bool fm_h5_write_chunks(fm_h5 *h, hid_t dataset, const fm_chunking *g, const float *data) {
    fm_box whole = {0}, chunk, cut;
    hsize_t n = 1, start[FM_MAX_DIMS];
    for (int d = 0; d < g->rank; d++) {
        whole.stop[d] = (int64_t)g->dims[d];
        n *= (g->dims[d] + g->chunk[d] - 1) / g->chunk[d];
    }
    for (hsize_t i = 0; i < n; i++) {
        nth_chunk(g, i, &chunk, &cut);
        size_t bytes = (size_t)fm_box_numel(g->rank, &chunk) * sizeof(float);
        float *room = room_for(h, bytes + sizeof(uint32_t));
        if (!room || fm_io_fails(h->env)) return false;
        uint32_t sum = fill(g, room, data, &whole, &chunk, &cut);
        memcpy((char *)room + bytes, &sum, sizeof sum);
        coordinates(g->rank, &chunk, start);
        if (H5Dwrite_chunk(dataset, H5P_DEFAULT, 0, start, bytes + sizeof sum, room) < 0)
            return false;
        start_disk(h, bytes);
    }
    return true;
}

/* The grid of a dataset whose only filter is fletcher32. */
static bool plain_grid(hid_t dataset, fm_chunking *g) {
    hid_t list = H5Dget_create_plist(dataset), space = H5Dget_space(dataset);
    unsigned flags, config;
    size_t none = 0;
    bool plain = false;
    g->rank = space >= 0 ? H5Sget_simple_extent_ndims(space) : 0;
    if (list >= 0 && g->rank >= 1 && g->rank <= FM_MAX_DIMS && H5Pget_nfilters(list) == 1 &&
        H5Pget_filter2(list, 0, &flags, &none, NULL, 0, NULL, &config) == H5Z_FILTER_FLETCHER32)
        plain = H5Sget_simple_extent_dims(space, g->dims, NULL) == g->rank &&
                H5Pget_chunk(list, g->rank, g->chunk) == g->rank;
    if (space >= 0) H5Sclose(space);
    if (list >= 0) H5Pclose(list);
    return plain;
}

bool fm_h5_read_chunks(fm_h5 *h, hid_t dataset, const fm_box *slab, float *out) {
    fm_chunking g;
    if (__BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__ || !plain_grid(dataset, &g)) return false;
    fm_box chunk, cut, part;
    hsize_t first[FM_MAX_DIMS], count[FM_MAX_DIMS], n = 1, start[FM_MAX_DIMS];
    for (int d = 0; d < g.rank; d++) {
        first[d] = (hsize_t)slab->start[d] / g.chunk[d];
        count[d] = ((hsize_t)slab->stop[d] + g.chunk[d] - 1) / g.chunk[d] - first[d];
        n *= count[d];
    }
    for (hsize_t i = 0; i < n; i++) {
        hsize_t number = 0, rest = i, place[FM_MAX_DIMS];
        for (int d = g.rank - 1; d >= 0; d--)
            place[d] = first[d] + rest % count[d], rest /= count[d];
        for (int d = 0; d < g.rank; d++)
            number = number * ((g.dims[d] + g.chunk[d] - 1) / g.chunk[d]) + place[d];
        nth_chunk(&g, number, &chunk, &cut);
        if (!fm_box_intersect(g.rank, &cut, slab, &part)) continue;
        size_t bytes = (size_t)fm_box_numel(g.rank, &chunk) * sizeof(float);
        float *room = room_for(h, bytes + sizeof(uint32_t));
        uint32_t filters = 1, sum;
        hsize_t stored = 0;
        coordinates(g.rank, &chunk, start);
        if (!room || H5Dget_chunk_storage_size(dataset, start, &stored) < 0 ||
            stored != bytes + sizeof sum ||
            H5Dread_chunk(dataset, H5P_DEFAULT, start, &filters, room) < 0 || filters != 0)
            return false;
        memcpy(&sum, (char *)room + bytes, sizeof sum);
        if (sum != fm_fletcher32(room, bytes)) return false;
        fm_box_copy(g.rank, out, slab, room, &chunk, &part);
    }
    return true;
}
