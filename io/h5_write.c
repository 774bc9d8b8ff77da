#include "io/h5_internal.h"

#include <stdio.h>
#include <stdlib.h>

/* Large enough to stream, small enough that reading a slice does not read much more. */
enum { CHUNK_ELEMENTS = 1 << 18 };

/* The dataset's shape: see fm_h5_write. */
static int dataset_shape(const fm_region *r, hsize_t *dims) {
    if (!fm_boxes_stack(r->ndim, r->boxes, r->n_boxes)) {
        dims[0] = (hsize_t)fm_region_numel(r);
        return 1;
    }
    dims[0] = 0;
    for (int64_t i = 0; i < r->n_boxes; i++)
        dims[0] += (hsize_t)(r->boxes[i].stop[0] - r->boxes[i].start[0]);
    for (int d = 1; d < r->ndim; d++)
        dims[d] = (hsize_t)(r->boxes[0].stop[d] - r->boxes[0].start[d]);
    return r->ndim;
}

/* Whole trailing dimensions, as many as fit; then a part of the next. */
static void chunk_shape(int rank, const hsize_t *dims, hsize_t *chunk) {
    hsize_t elements = 1; /* of a chunk so far */
    for (int d = rank - 1; d >= 0; d--) {
        hsize_t size = dims[d] > 0 ? dims[d] : 1, room = CHUNK_ELEMENTS / elements;
        chunk[d] = size < room ? size : room;
        if (chunk[d] == 0) chunk[d] = 1;
        elements *= chunk[d];
    }
}

static bool write_attribute(hid_t on, const char *name, int rank, const hsize_t *dims,
                            const int64_t *values) {
    hid_t space = H5Screate_simple(rank, dims, NULL);
    hid_t attr = H5Acreate2(on, name, H5T_STD_I64LE, space, H5P_DEFAULT, H5P_DEFAULT);
    bool good = attr >= 0 && H5Awrite(attr, H5T_NATIVE_INT64, values) >= 0;
    if (attr >= 0) H5Aclose(attr);
    if (space >= 0) H5Sclose(space);
    return good;
}

static bool write_dtype(hid_t on) {
    static const char text[] = "float32";
    hid_t type = H5Tcopy(H5T_C_S1), space = H5Screate(H5S_SCALAR), attr = -1;
    if (type >= 0 && H5Tset_size(type, sizeof text) >= 0 && H5Tset_cset(type, H5T_CSET_UTF8) >= 0)
        attr = H5Acreate2(on, "dtype", type, space, H5P_DEFAULT, H5P_DEFAULT);
    bool good = attr >= 0 && H5Awrite(attr, type, text) >= 0;
    if (attr >= 0) H5Aclose(attr);
    if (space >= 0) H5Sclose(space);
    if (type >= 0) H5Tclose(type);
    return good;
}

static bool write_attributes(hid_t dataset, const fm_region *r) {
    int64_t *boxes = malloc((size_t)r->n_boxes * 2 * (size_t)r->ndim * sizeof *boxes);
    if (!boxes) return false;
    int64_t n = 0;
    for (int64_t i = 0; i < r->n_boxes; i++) {
        for (int d = 0; d < r->ndim; d++) boxes[n++] = r->boxes[i].start[d];
        for (int d = 0; d < r->ndim; d++) boxes[n++] = r->boxes[i].stop[d];
    }
    hsize_t ndim = (hsize_t)r->ndim, dims[] = {(hsize_t)r->n_boxes, 2, ndim};
    bool good = write_attribute(dataset, "global_shape", 1, &ndim, r->global_shape) &&
                write_attribute(dataset, "boxes", 3, dims, boxes) && write_dtype(dataset);
    free(boxes);
    return good;
}

static hid_t creation_list(const fm_chunking *g, int compression) {
    hid_t list = H5Pcreate(H5P_DATASET_CREATE);
    bool good = list >= 0 && H5Pset_chunk(list, g->rank, g->chunk) >= 0;
    if (compression > 0)
        good = good && H5Pset_shuffle(list) >= 0 &&
               H5Pset_deflate(list, (unsigned)compression) >= 0;
    /* No times, so that equal contents give equal files. */
    good = good && H5Pset_fletcher32(list) >= 0 && H5Pset_obj_track_times(list, false) >= 0;
    if (good) return list;
    if (list >= 0) H5Pclose(list);
    return -1;
}

/* The groups in a dataset's name, where they are not there yet. */
static bool make_groups(hid_t file, const char *name) {
    hid_t list = H5Pcreate(H5P_GROUP_CREATE);
    bool good = list >= 0 && fm_h5_plain_group(list);
    for (const char *slash = name; good && (slash = strchr(slash, '/')); slash++) {
        char group[256];
        int n = snprintf(group, sizeof group, "%.*s", (int)(slash - name), name);
        htri_t there = n > 0 && n < (int)sizeof group ? H5Lexists(file, group, H5P_DEFAULT) : -1;
        hid_t made = there == 0 ? H5Gcreate2(file, group, H5P_DEFAULT, list, H5P_DEFAULT) : -1;
        good = there > 0 || made >= 0;
        if (made >= 0) H5Gclose(made);
    }
    if (list >= 0) H5Pclose(list);
    return good;
}

static bool write_data(fm_h5 *h, hid_t dataset, const fm_chunking *g, const float *data,
                       int compression) {
    /* the disk's format is little-endian, the processor's here as well */
    if (compression == 0 && __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__)
        return fm_h5_write_chunks(h, dataset, g, data);
    return !fm_io_fails(h->env) &&
           H5Dwrite(dataset, H5T_NATIVE_FLOAT, H5S_ALL, H5S_ALL, H5P_DEFAULT, data) >= 0;
}

fm_status fm_h5_write(fm_error *err, fm_h5 *h, const char *name, const fm_region *r,
                      const float *data, int compression) {
    fm_chunking g = {0};
    FM_REQUIRE(err, r->n_boxes >= 1 && r->n_boxes * 2 * r->ndim <= FM_H5_BOX_NUMBERS, FM_ERR_VALUE,
               "%s: dataset %s: %lld boxes of %d dimensions; 1 to %d are allowed", h->path, name,
               (long long)r->n_boxes, r->ndim, FM_H5_BOX_NUMBERS / 2 / r->ndim);
    g.rank = dataset_shape(r, g.dims);
    chunk_shape(g.rank, g.dims, g.chunk);
    fm_status status = FM_OK;
    fm_h5_enter();
    hid_t space = H5Screate_simple(g.rank, g.dims, NULL);
    hid_t create = creation_list(&g, compression), dataset = -1;
    if (!fm_io_fails(h->env) && create >= 0 && make_groups(h->file, name))
        dataset = H5Dcreate2(h->file, name, H5T_IEEE_F32LE, space, H5P_DEFAULT, create,
                             H5P_DEFAULT);
    if (dataset < 0)
        status = fm_h5_failed(err, FM_ERR_IO, h, name, "cannot be created");
    else if (!write_data(h, dataset, &g, data, compression))
        status = fm_h5_failed(err, FM_ERR_IO, h, name, "cannot be written");
    else if (!write_attributes(dataset, r))
        status = fm_h5_failed(err, FM_ERR_IO, h, name, "its attributes cannot be written");
    if (dataset >= 0 && H5Dclose(dataset) < 0 && status == FM_OK)
        status = fm_h5_failed(err, FM_ERR_IO, h, name, "cannot be closed");
    if (create >= 0) H5Pclose(create);
    if (space >= 0) H5Sclose(space);
    fm_h5_leave();
    return status;
}

fm_status fm_h5_write_text(fm_error *err, fm_h5 *h, const char *name, const char *text) {
    fm_status status = FM_OK;
    fm_h5_enter();
    hid_t type = H5Tcopy(H5T_C_S1), space = H5Screate(H5S_SCALAR), dataset = -1;
    hid_t create = H5Pcreate(H5P_DATASET_CREATE);
    if (create >= 0) H5Pset_obj_track_times(create, false);
    if (!fm_io_fails(h->env) && type >= 0 && H5Tset_size(type, strlen(text) + 1) >= 0 &&
        H5Tset_cset(type, H5T_CSET_UTF8) >= 0)
        dataset = H5Dcreate2(h->file, name, type, space, H5P_DEFAULT, create, H5P_DEFAULT);
    if (dataset < 0 || H5Dwrite(dataset, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, text) < 0)
        status = fm_h5_failed(err, FM_ERR_IO, h, name, "cannot be written");
    if (dataset >= 0) H5Dclose(dataset);
    if (create >= 0) H5Pclose(create);
    if (space >= 0) H5Sclose(space);
    if (type >= 0) H5Tclose(type);
    fm_h5_leave();
    return status;
}
