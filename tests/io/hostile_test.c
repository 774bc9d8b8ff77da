/* Files that HDF5 finds in order and that lie: refused when opened, by name, before memory of the
 * claimed size is taken. */
#include "io/commit.h"
#include "io/h5.h"
#include "tests/io/check.h"
#include "tests/io/content.h"

#include <hdf5.h>

enum { FLETCHER = 1, CONTIGUOUS = 2, HALF_WRITTEN = 4, INTEGERS = 8, NBIT = 16, REAL_BOXES = 32 };

/* One dataset "w" of a forged file; its boxes are rows of 2 * ndim numbers. */
typedef struct forged {
    const char *label, *words; /* what the message has to say */
    int flags;
    int rank;
    hsize_t dims[2], chunk[2];
    int ndim;
    int64_t shape[2];
    int n_boxes;
    int64_t boxes[12];
} forged;

static const forged ONE_FILE[] = {
    {"good", NULL, FLETCHER, 2, {4, 4}, {2, 4}, 2, {4, 4}, 1, {0, 0, 4, 4}},
    {"contiguous", "not stored in chunks", CONTIGUOUS, 2, {4, 4}, {0}, 2, {4, 4}, 1, {0, 0, 4, 4}},
    {"no checksums", "no checksums", 0, 2, {4, 4}, {2, 4}, 2, {4, 4}, 1, {0, 0, 4, 4}},
    {"filter", "a filter", FLETCHER | NBIT, 2, {4, 4}, {2, 4}, 2, {4, 4}, 1, {0, 0, 4, 4}},
    {"integers", "float32", FLETCHER | INTEGERS, 2, {4, 4}, {2, 4}, 2, {4, 4}, 1, {0, 0, 4, 4}},
    {"hole",
     "lacks a part",
     FLETCHER | HALF_WRITTEN,
     2,
     {4, 4},
     {2, 4},
     2,
     {4, 4},
     1,
     {0, 0, 4, 4}},
    {"terabytes",
     "lacks a part",
     FLETCHER | HALF_WRITTEN,
     2,
     {1l << 40, 4},
     {2, 4},
     2,
     {1l << 40, 4},
     1,
     {0, 0, 1l << 40, 4}},
    {"huge chunks",
     "beyond 64 MiB",
     FLETCHER | HALF_WRITTEN,
     2,
     {1l << 40, 4},
     {1 << 28, 1},
     2,
     {1l << 40, 4},
     1,
     {0, 0, 1l << 40, 4}},
    {"other numel", "number of elements", FLETCHER, 2, {4, 4}, {2, 4}, 2, {4, 3}, 1, {0, 0, 4, 3}},
    {"other shape",
     "shape than its boxes",
     FLETCHER,
     2,
     {2, 8},
     {2, 4},
     2,
     {4, 4},
     1,
     {0, 0, 4, 4}},
    {"other rank", "rank than its boxes", FLETCHER, 1, {16}, {8}, 2, {4, 4}, 1, {0, 0, 4, 4}},
    {"outside", "outside of global_shape", FLETCHER, 2, {4, 4}, {2, 4}, 2, {4, 4}, 1, {1, 0, 5, 4}},
    {"negative",
     "outside of global_shape",
     FLETCHER,
     2,
     {4, 4},
     {2, 4},
     2,
     {4, 4},
     1,
     {-1, 0, 3, 4}},
    {"reversed",
     "outside of global_shape",
     FLETCHER,
     2,
     {4, 4},
     {2, 4},
     2,
     {4, 4},
     1,
     {4, 4, 0, 0}},
    {"sum wraps",
     "outside of global_shape",
     FLETCHER,
     1,
     {4},
     {4},
     2,
     {1l << 62, 1},
     2,
     {0, 0, 1l << 62, 1, 0, 0, 1l << 62, 1}},
    {"shape wraps", "not a shape", FLETCHER, 1, {4}, {4}, 2, {1l << 62, 1l << 62}, 1, {0, 0, 2, 2}},
    {"negative shape", "not a shape", FLETCHER, 1, {4}, {4}, 2, {-4, -4}, 1, {0, 0, 2, 2}},
    {"real boxes",
     "boxes is missing or wrong",
     FLETCHER | REAL_BOXES,
     2,
     {4, 4},
     {2, 4},
     2,
     {4, 4},
     1,
     {0, 0, 4, 4}},
    {"gap",
     "[1, 2] is in no file",
     FLETCHER,
     1,
     {10},
     {10},
     2,
     {4, 4},
     2,
     {0, 0, 1, 4, 1, 0, 4, 2}},
    {"gap at the end",
     "[3, 3] is in no file",
     FLETCHER,
     1,
     {15},
     {15},
     2,
     {4, 4},
     2,
     {0, 0, 3, 4, 3, 0, 4, 3}},
    {"twice",
     "[2, 1] is there twice",
     FLETCHER,
     1,
     {14},
     {14},
     2,
     {4, 4},
     2,
     {0, 0, 4, 2, 2, 1, 4, 4}},
};

static bool attribute(hid_t on, const char *name, hid_t type, int rank, const hsize_t *dims,
                      const int64_t *values) {
    hid_t space = H5Screate_simple(rank, dims, NULL);
    hid_t a = H5Acreate2(on, name, type, space, H5P_DEFAULT, H5P_DEFAULT);
    bool good = a >= 0 && H5Awrite(a, H5T_NATIVE_INT64, values) >= 0;
    H5Aclose(a), H5Sclose(space);
    return good;
}

static bool forge(const char *path, const forged *f) {
    hid_t file = H5Fcreate(path, H5F_ACC_TRUNC, H5P_DEFAULT, H5P_DEFAULT);
    hid_t list = H5Pcreate(H5P_DATASET_CREATE), space = H5Screate_simple(f->rank, f->dims, NULL);
    if (!(f->flags & CONTIGUOUS)) H5Pset_chunk(list, f->rank, f->chunk);
    if (f->flags & NBIT) H5Pset_nbit(list);
    if (f->flags & FLETCHER) H5Pset_fletcher32(list);
    hid_t w = H5Dcreate2(file, "w", f->flags & INTEGERS ? H5T_STD_I32LE : H5T_IEEE_F32LE, space,
                         H5P_DEFAULT, list, H5P_DEFAULT);
    static const float data[64];
    bool good;
    if (f->flags & HALF_WRITTEN) {
        hsize_t zero[2] = {0}, one[2] = {f->flags & CONTIGUOUS ? 1 : f->dims[0] > 4 ? 0 : 1, 1};
        hid_t memory = H5Screate_simple(2, one, NULL);
        H5Sselect_hyperslab(space, H5S_SELECT_SET, zero, NULL, one, NULL);
        good = one[0] == 0 || H5Dwrite(w, H5T_NATIVE_FLOAT, memory, space, H5P_DEFAULT, data) >= 0;
        H5Sclose(memory);
    } else {
        good = H5Dwrite(w, H5T_NATIVE_FLOAT, H5S_ALL, H5S_ALL, H5P_DEFAULT, data) >= 0;
    }
    hsize_t ndim = (hsize_t)f->ndim, dims[] = {(hsize_t)f->n_boxes, 2, ndim};
    good = good && attribute(w, "global_shape", H5T_STD_I64LE, 1, &ndim, f->shape) &&
           attribute(w, "boxes", f->flags & REAL_BOXES ? H5T_IEEE_F64LE : H5T_STD_I64LE, 3, dims,
                     f->boxes);
    H5Dclose(w), H5Sclose(space), H5Pclose(list);
    return H5Fclose(file) >= 0 && good;
}

/* A committed checkpoint of `n` dense files and a state; what write_state makes of state.h5. */
static char folder[FM_PATH];
static bool write_good_state(const char *path) {
    fm_error err = {0};
    fm_h5 *h;
    return fm_h5_create(&err, NULL, path, &h) == FM_OK &&
           fm_h5_write_text(&err, h, "state", "{}") == FM_OK && fm_h5_close(&err, h) == FM_OK;
}
static bool commit(const forged *files, int n, bool (*write_state)(const char *)) {
    char root[512], tmp[FM_PATH], path[FM_PATH + 64];
    fm_error err = {0};
    fm_notes notes = {0};
    snprintf(root, sizeof root, "%s/hostile", test_folder());
    snprintf(folder, sizeof folder, "%s/step_00000001", root);
    fm_manifest m = {.step = 1, .world_size = n, .dp = 1, .layout = {n, 1, 1, 1, 1}};
    m.files = calloc((size_t)n + 1, sizeof *m.files);
    if (!m.files || fm_commit_begin(&err, NULL, root, 1, tmp) != FM_OK) return false;
    for (int i = 0; i <= n; i++) {
        char *name = m.files[m.n_files++].name;
        snprintf(name, 64, i < n ? "dense-pp00-tp%02d.h5" : "state.h5", i);
        snprintf(path, sizeof path, "%s/%s", tmp, name);
        if (!(i < n ? forge(path, &files[i]) : write_state(path))) return false;
    }
    bool good = fm_commit_seal(&err, NULL, root, &m) == FM_OK &&
                fm_commit_end(&err, NULL, root, &m, &(fm_commit_plan){1, -1, -1}, &notes) == FM_OK;
    fm_manifest_free(&m);
    return good;
}

static void lying_datasets(fm_ctx *ctx) {
    for (size_t i = 0; i < sizeof ONE_FILE / sizeof *ONE_FILE; i++) {
        const forged *f = &ONE_FILE[i];
        CHECK(commit(f, 1, write_good_state), "%s: cannot be forged", f->label);
        fm_ckpt_reader *r;
        if (f->words) {
            CHECK_FAILS(fm_ckpt_open(ctx, folder, &r), FM_ERR_CHECKPOINT, "dense-pp00-tp00.h5",
                        "dataset w", f->words);
            CHECK(!r, "%s: a reader after an error", f->label);
        } else {
            CHECK_OK(fm_ckpt_open(ctx, folder, &r));
            fm_ckpt_close(r);
        }
    }
}

/* Two files, each in order by itself. The first pair's numbers of elements add up. */
static void lying_ranks(fm_ctx *ctx) {
    static const struct {
        const char *words;
        forged files[2];
    } pairs[] = {
        {"[0, 0] is there twice",
         {{"", "", FLETCHER, 2, {2, 4}, {2, 4}, 2, {4, 4}, 1, {0, 0, 2, 4}},
          {"", "", FLETCHER, 2, {2, 4}, {2, 4}, 2, {4, 4}, 1, {0, 0, 2, 4}}}},
        {"dense-pp00-tp00.h5 and dense-pp00-tp01.h5 differ in its global_shape",
         {{"", "", FLETCHER, 2, {2, 4}, {2, 4}, 2, {4, 4}, 1, {0, 0, 2, 4}},
          {"", "", FLETCHER, 2, {2, 4}, {2, 4}, 2, {5, 4}, 1, {2, 0, 4, 4}}}},
        {"[2, 3] is in no file",
         {{"", "", FLETCHER, 2, {2, 4}, {2, 4}, 2, {4, 4}, 1, {0, 0, 2, 4}},
          {"", "", FLETCHER, 2, {2, 3}, {2, 3}, 2, {4, 4}, 1, {2, 0, 4, 3}}}},
    };
    for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i++) {
        CHECK(commit(pairs[i].files, 2, write_good_state), "pair %zu cannot be forged", i);
        fm_ckpt_reader *r;
        CHECK_FAILS(fm_ckpt_open(ctx, folder, &r), FM_ERR_CHECKPOINT, "dataset w", pairs[i].words);
    }
}

static bool state_of_type(const char *path, hid_t type, hsize_t n) {
    hid_t file = H5Fcreate(path, H5F_ACC_TRUNC, H5P_DEFAULT, H5P_DEFAULT);
    hid_t space = H5Screate_simple(1, &n, NULL);
    hid_t d = H5Dcreate2(file, "state", type, space, H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT);
    bool good = d >= 0;
    H5Dclose(d), H5Sclose(space);
    return H5Fclose(file) >= 0 && good;
}
static bool write_integers(const char *path) { return state_of_type(path, H5T_STD_I8LE, 9); }
static bool write_variable(const char *path) {
    hid_t type = H5Tcopy(H5T_C_S1);
    H5Tset_size(type, H5T_VARIABLE);
    bool good = state_of_type(path, type, 1);
    H5Tclose(type);
    return good;
}
static bool write_long(const char *path) {
    hid_t type = H5Tcopy(H5T_C_S1);
    H5Tset_size(type, 1u << 30);
    bool good = state_of_type(path, type, 1);
    H5Tclose(type);
    return good;
}
static bool write_nothing(const char *path) {
    hid_t file = H5Fcreate(path, H5F_ACC_TRUNC, H5P_DEFAULT, H5P_DEFAULT);
    return H5Fclose(file) >= 0;
}
static bool write_link(const char *path) {
    hid_t file = H5Fcreate(path, H5F_ACC_TRUNC, H5P_DEFAULT, H5P_DEFAULT);
    bool good = H5Lcreate_external("other.h5", "/state", file, "state", H5P_DEFAULT, H5P_DEFAULT) >=
                0;
    return H5Fclose(file) >= 0 && good;
}

static void lying_states(fm_ctx *ctx) {
    static const struct {
        const char *words;
        bool (*write)(const char *);
    } states[] = {{"not a string", write_integers},
                  {"not a string", write_variable},
                  {"1073741824 bytes", write_long},
                  {"missing", write_nothing},
                  {"missing", write_link}};
    for (size_t i = 0; i < sizeof states / sizeof *states; i++) {
        CHECK(commit(ONE_FILE, 1, states[i].write), "state %zu cannot be forged", i);
        fm_ckpt_reader *r;
        CHECK_FAILS(fm_ckpt_open(ctx, folder, &r), FM_ERR_CHECKPOINT, "state.h5", "dataset state",
                    states[i].words);
    }
}

/* Every single bit of the manifest, and of the state's text. */
static void flipped_text(fm_ctx *ctx) {
    CHECK(commit(ONE_FILE, 1, write_good_state), "cannot be made");
    static const char *const names[] = {"manifest.json", "state.h5"};
    for (int f = 0; f < 2; f++) {
        char path[FM_PATH + 64];
        static char good[1 << 16];
        snprintf(path, sizeof path, "%s/%s", folder, names[f]);
        FILE *file = fopen(path, "rb");
        CHECK(file, "%s", path);
        size_t n = fread(good, 1, sizeof good, file), from = 0, to = n;
        fclose(file);
        if (f == 1) {
            while (from + 3 <= n && memcmp(good + from, "{}", 3) != 0) from++;
            CHECK(from + 3 <= n, "no state in %s", path);
            to = from + 2;
        }
        for (size_t bit = 8 * from; bit < 8 * to; bit++) {
            good[bit / 8] = (char)(good[bit / 8] ^ (1 << bit % 8));
            test_write_file(path, good, n);
            good[bit / 8] = (char)(good[bit / 8] ^ (1 << bit % 8));
            fm_ckpt_reader *r;
            CHECK_FAILS(fm_ckpt_open(ctx, folder, &r), FM_ERR_CHECKPOINT, "step_00000001/");
        }
        test_write_file(path, good, n);
        fm_ckpt_reader *r;
        CHECK_OK(fm_ckpt_open(ctx, folder, &r));
        fm_ckpt_close(r);
    }
}

static const test_case cases[] = {{"lying_datasets", lying_datasets},
                                  {"lying_ranks", lying_ranks},
                                  {"lying_states", lying_states},
                                  {"flipped_text", flipped_text}};
TEST_MAIN(cases)
