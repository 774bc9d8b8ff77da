#include "io/h5_internal.h"

#include <stdio.h>
#include <stdlib.h>

/* A hostile file may claim anything; beyond these it is refused. HDF5 takes a chunk's memory at
 * once. */
enum { MAX_CHUNK_BYTES = 64 << 20 };

fm_status fm_h5_read_text(fm_error *err, fm_h5 *h, const char *name, size_t limit, char **out) {
    *out = NULL;
    fm_status status = FM_OK;
    size_t size = 0;
    fm_h5_enter();
    hid_t dataset = H5Dopen2(h->file, name, H5P_DEFAULT);
    hid_t type = dataset >= 0 ? H5Dget_type(dataset) : -1;
    hid_t space = dataset >= 0 ? H5Dget_space(dataset) : -1;
    if (type >= 0 && H5Tget_class(type) == H5T_STRING && H5Tis_variable_str(type) == 0 &&
        space >= 0 && H5Sget_simple_extent_npoints(space) == 1)
        size = H5Tget_size(type);
    if (size == 0)
        status = fm_h5_failed(err, FM_ERR_CHECKPOINT, h, name, "is missing or not a string");
    else if (size > limit)
        status = fm_fail(err, FM_ERR_CHECKPOINT, "%s: dataset %s: %zu bytes; allowed are %zu",
                         h->path, name, size, limit);
    else if (!(*out = calloc(1, size + 1)))
        status = fm_fail(err, FM_ERR_OOM, "out of memory: %zu bytes of %s", size, name);
    else if (H5Dread(dataset, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, *out) < 0)
        status = fm_h5_failed(err, FM_ERR_CHECKPOINT, h, name, "cannot be read");
    if (status != FM_OK) free(*out), *out = NULL;
    if (space >= 0) H5Sclose(space);
    if (type >= 0) H5Tclose(type);
    if (dataset >= 0) H5Dclose(dataset);
    fm_h5_leave();
    return status;
}

/* An int64 attribute of the given rank; its dimensions go to dims. Values, malloc'ed, or NULL. */
static int64_t *read_attribute(hid_t dataset, const char *name, int rank, hsize_t *dims,
                               hsize_t most) {
    int64_t *values = NULL;
    if (H5Aexists(dataset, name) <= 0) return NULL;
    hid_t attr = H5Aopen(dataset, name, H5P_DEFAULT);
    hid_t space = attr >= 0 ? H5Aget_space(attr) : -1;
    hid_t type = attr >= 0 ? H5Aget_type(attr) : -1;
    if (space >= 0 && type >= 0 && H5Tget_class(type) == H5T_INTEGER &&
        H5Sget_simple_extent_ndims(space) == rank) {
        H5Sget_simple_extent_dims(space, dims, NULL);
        hssize_t n = H5Sget_simple_extent_npoints(space);
        if (n > 0 && (hsize_t)n <= most) values = calloc((size_t)n, sizeof *values);
        if (values && H5Aread(attr, H5T_NATIVE_INT64, values) < 0) free(values), values = NULL;
    }
    if (type >= 0) H5Tclose(type);
    if (space >= 0) H5Sclose(space);
    if (attr >= 0) H5Aclose(attr);
    return values;
}

/* Why the dataset is not stored as fm_h5_write does it, or NULL. Every chunk has to be there: one
 * that is missing would read as zeros, and a file of a few bytes could claim terabytes. Other layouts
 * may lead to other files, other filters load code. */
static const char *check_storage(hid_t dataset, int rank, const hsize_t *dims) {
    const char *wrong = NULL;
    hid_t list = H5Dget_create_plist(dataset), space = H5Dget_space(dataset);
    hsize_t chunk[H5S_MAX_RANK], chunks = 1, there = 0, bytes = sizeof(float);
    bool checksums = false;
    if (list < 0 || space < 0 || H5Pget_layout(list) != H5D_CHUNKED ||
        H5Pget_chunk(list, rank, chunk) != rank)
        wrong = "is not stored in chunks";
    int filters = wrong ? 0 : H5Pget_nfilters(list);
    for (int i = 0; i < filters; i++) {
        unsigned flags, config;
        size_t n = 0;
        H5Z_filter_t f = H5Pget_filter2(list, (unsigned)i, &flags, &n, NULL, 0, NULL, &config);
        if (f == H5Z_FILTER_FLETCHER32)
            checksums = true;
        else if (f != H5Z_FILTER_DEFLATE && f != H5Z_FILTER_SHUFFLE)
            wrong = "has a filter other than shuffle, gzip and fletcher32";
    }
    if (!wrong && !checksums) wrong = "has no checksums (fletcher32)";
    for (int d = 0; !wrong && d < rank; d++) {
        if (__builtin_mul_overflow(bytes, chunk[d], &bytes) || bytes > MAX_CHUNK_BYTES)
            wrong = "has chunks beyond 64 MiB";
        else if (__builtin_mul_overflow(chunks, (dims[d] + chunk[d] - 1) / chunk[d], &chunks))
            wrong = "has more chunks than can be counted";
    }
    if (!wrong && chunks > 0 && (H5Dget_num_chunks(dataset, space, &there) < 0 || there != chunks))
        wrong = "lacks a part of its data";
    if (space >= 0) H5Sclose(space);
    if (list >= 0) H5Pclose(list);
    return wrong;
}

/* Why the dataset is not an array as fm_h5_write makes them, or NULL; fills `a`. */
static const char *describe(hid_t dataset, fm_h5_array *a) {
    hsize_t dims[H5S_MAX_RANK], box_dims[3];
    int64_t *shape = read_attribute(dataset, "global_shape", 1, dims, FM_MAX_DIMS);
    if (!shape) return "attribute global_shape is missing or wrong";
    a->ndim = (int)dims[0];
    int64_t whole = 1;
    for (int d = 0; d < a->ndim; d++) {
        a->global_shape[d] = shape[d];
        if (shape[d] < 0 || __builtin_mul_overflow(whole, shape[d], &whole)) whole = -1;
        if (whole < 0) break;
    }
    free(shape);
    if (whole < 0) return "attribute global_shape is not a shape";
    int64_t *flat = read_attribute(dataset, "boxes", 3, box_dims, FM_H5_BOX_NUMBERS);
    if (!flat || box_dims[1] != 2 || box_dims[2] != (hsize_t)a->ndim) {
        free(flat);
        return "attribute boxes is missing or wrong";
    }
    a->n_boxes = (int64_t)box_dims[0];
    a->boxes = calloc((size_t)a->n_boxes, sizeof *a->boxes);
    if (!a->boxes) {
        free(flat);
        return "no memory for its boxes";
    }
    int64_t elements = 0, rows = 0;
    bool inside = true;
    for (int64_t i = 0; i < a->n_boxes; i++) {
        fm_box *b = &a->boxes[i];
        for (int d = 0; d < a->ndim; d++) {
            b->start[d] = flat[(2 * i) * a->ndim + d];
            b->stop[d] = flat[(2 * i + 1) * a->ndim + d];
            inside &= b->start[d] >= 0 && b->start[d] <= b->stop[d] &&
                      b->stop[d] <= a->global_shape[d];
        }
        if (!inside) break;
        inside = !__builtin_add_overflow(elements, fm_box_numel(a->ndim, b), &elements);
        if (!inside) break;
        rows += b->stop[0] - b->start[0];
    }
    free(flat);
    if (!inside) return "its boxes lie outside of global_shape";

    hid_t space = H5Dget_space(dataset), type = H5Dget_type(dataset);
    int rank = space >= 0 ? H5Sget_simple_extent_ndims(space) : -1;
    hssize_t points = space >= 0 ? H5Sget_simple_extent_npoints(space) : -1;
    bool is_float = type >= 0 && H5Tequal(type, H5T_IEEE_F32LE) > 0;
    if (rank >= 0) H5Sget_simple_extent_dims(space, dims, NULL);
    if (type >= 0) H5Tclose(type);
    if (space >= 0) H5Sclose(space);
    if (!is_float) return "is not of little-endian float32";
    if (points != elements) return "has another number of elements than its boxes";
    a->stacked = fm_boxes_stack(a->ndim, a->boxes, a->n_boxes);
    if (rank != (a->stacked ? a->ndim : 1)) return "has another rank than its boxes";
    for (int d = 0; a->stacked && d < a->ndim; d++) {
        int64_t want = d == 0 ? rows : a->boxes[0].stop[d] - a->boxes[0].start[d];
        if ((int64_t)dims[d] != want) return "has another shape than its boxes";
    }
    return check_storage(dataset, rank, dims);
}

typedef struct listing {
    fm_error *err;
    fm_h5 *h;
    fm_status status;
    fm_h5_array *items;
    int64_t n, room;
} listing;

static herr_t visit(hid_t root, const char *name, const H5L_info_t *info, void *user) {
    listing *l = user;
    if (info->type != H5L_TYPE_HARD) { /* soft and external links lead elsewhere */
        l->status = fm_fail(l->err, FM_ERR_CHECKPOINT, "%s: %s is a link", l->h->path, name);
        return 1;
    }
    hid_t object = H5Oopen(root, name, H5P_DEFAULT);
    if (object < 0) {
        l->status = fm_h5_failed(l->err, FM_ERR_CHECKPOINT, l->h, name, "cannot be opened");
        return 1;
    }
    bool is_dataset = H5Iget_type(object) == H5I_DATASET;
    if (is_dataset && H5Aexists(object, "boxes") > 0) {
        fm_h5_array *grown = l->items;
        if (l->n == l->room) {
            l->room = l->room ? 2 * l->room : 64;
            grown = realloc(l->items, (size_t)l->room * sizeof *grown);
        }
        const char *wrong = "no memory for its record";
        if (grown) {
            l->items = grown;
            fm_h5_array *a = &l->items[l->n];
            *a = (fm_h5_array){0};
            l->n++;
            size_t length = strlen(name);
            wrong = "its name is too long";
            if (length < sizeof a->name) {
                memcpy(a->name, name, length + 1);
                wrong = describe(object, a);
            }
        }
        if (wrong)
            l->status = fm_fail(l->err, FM_ERR_CHECKPOINT, "%s: dataset %s: %s", l->h->path, name,
                                wrong);
    }
    H5Oclose(object);
    return l->status == FM_OK ? 0 : 1;
}

fm_status fm_h5_arrays(fm_error *err, fm_h5 *h, fm_h5_array **out, int64_t *n) {
    listing l = {.err = err, .h = h};
    fm_h5_enter();
    if (H5Lvisit(h->file, H5_INDEX_NAME, H5_ITER_INC, visit, &l) < 0 && l.status == FM_OK)
        l.status = fm_h5_failed(err, FM_ERR_CHECKPOINT, h, NULL, "cannot be listed");
    fm_h5_leave();
    if (l.status != FM_OK) {
        fm_h5_arrays_free(l.items, l.n);
        l.items = NULL;
        l.n = 0;
    }
    *out = l.items;
    *n = l.n;
    return l.status;
}

void fm_h5_arrays_free(fm_h5_array *a, int64_t n) {
    for (int64_t i = 0; i < n; i++) free(a[i].boxes);
    free(a);
}

/* [start, start + count) of the dataset into out. */
static bool read_slab(fm_h5 *h, hid_t dataset, int rank, const hsize_t *start, const hsize_t *count,
                      float *out) {
    fm_box slab = {0};
    for (int d = 0; d < rank; d++) {
        slab.start[d] = (int64_t)start[d];
        slab.stop[d] = (int64_t)(start[d] + count[d]);
    }
    if (fm_h5_read_chunks(h, dataset, &slab, out)) return true;
    hid_t file = H5Dget_space(dataset), memory = H5Screate_simple(rank, count, NULL);
    bool good = file >= 0 && memory >= 0 &&
                H5Sselect_hyperslab(file, H5S_SELECT_SET, start, NULL, count, NULL) >= 0 &&
                H5Dread(dataset, H5T_NATIVE_FLOAT, memory, file, H5P_DEFAULT, out) >= 0;
    if (memory >= 0) H5Sclose(memory);
    if (file >= 0) H5Sclose(file);
    return good;
}

static bool read_stacked(fm_h5 *h, hid_t dataset, const fm_h5_array *a, int64_t box,
                         const fm_box *part, float *out) {
    const fm_box *b = &a->boxes[box];
    hsize_t start[FM_MAX_DIMS], count[FM_MAX_DIMS];
    for (int d = 0; d < a->ndim; d++) {
        start[d] = (hsize_t)(part->start[d] - b->start[d]);
        count[d] = (hsize_t)(part->stop[d] - part->start[d]);
    }
    for (int64_t i = 0; i < box; i++)
        start[0] += (hsize_t)(a->boxes[i].stop[0] - a->boxes[i].start[0]);
    return read_slab(h, dataset, a->ndim, start, count, out);
}

/* A flat fragment: of its box the rows (of dimension 0) that the part touches are read, then cut; or
 * no more than the part, where it lies there in one run. */
static bool read_flat(fm_h5 *h, hid_t dataset, const fm_h5_array *a, int64_t box,
                      const fm_box *part, float *out) {
    const fm_box *whole = &a->boxes[box];
    fm_box rows = *whole;
    rows.start[0] = part->start[0];
    rows.stop[0] = part->stop[0];
    int64_t run = fm_box_run(a->ndim, whole, part);
    const fm_box *read = run >= 0 ? part : &rows;
    hsize_t start = (hsize_t)fm_box_run(a->ndim, whole, read);
    hsize_t count = (hsize_t)fm_box_numel(a->ndim, read);
    for (int64_t i = 0; i < box; i++) start += (hsize_t)fm_box_numel(a->ndim, &a->boxes[i]);
    if (run >= 0) return read_slab(h, dataset, 1, &start, &count, out);
    float *piece = malloc((size_t)count * sizeof *piece);
    bool good = piece && read_slab(h, dataset, 1, &start, &count, piece);
    if (good) fm_box_copy(a->ndim, out, part, piece, &rows, part);
    free(piece);
    return good;
}

fm_status fm_h5_read(fm_error *err, fm_h5 *h, const fm_h5_array *a, int64_t box, const fm_box *part,
                     float *out) {
    fm_status status = FM_OK;
    fm_h5_enter();
    hid_t dataset = H5Dopen2(h->file, a->name, H5P_DEFAULT);
    bool good = dataset >= 0 && (a->stacked ? read_stacked(h, dataset, a, box, part, out)
                                            : read_flat(h, dataset, a, box, part, out));
    if (!good) status = fm_h5_failed(err, FM_ERR_CHECKPOINT, h, a->name, "cannot be read");
    if (dataset >= 0) H5Dclose(dataset);
    fm_h5_leave();
    return status;
}
