/* Parameters and their placement: the one record that initialisation, gradient reduction,
 * norms, ZeRO and checkpoints read. A parameter without a placement cannot be made.
 *
 * A fm_param_set owns the parameters of one model: three flat buffers (weights in the
 * model's dtype, fp32 masters where that is not fp32, fp32 gradients), in which every
 * parameter is a tensor that views its slice. shards.h says how they are cut for reduction, and what
 * of the masters and of an optimiser's state is on this rank.
 */
#ifndef FM_PARALLEL_PARAM_H
#define FM_PARALLEL_PARAM_H
#include "parallel/shards.h"
#include "tensor/rng.h"
#include "tensor/tensor.h"

/* A block of a global array: start <= index < stop in each dimension. */
typedef struct fm_box {
    int64_t start[FM_MAX_DIMS], stop[FM_MAX_DIMS];
} fm_box;

enum { FM_MAX_BOXES = 64 };

/* Where this rank's slice lies. Its elements are those of the boxes, one box after another, each
 * row-major (a tensor-parallel slice of qkv is three boxes, one of stacked swiglu experts two an expert). A
 * weight's local array is a tensor: its boxes differ in dimension 0 only, or local_shape says what
 * they are together. */
typedef struct fm_placement {
    int ndim;
    int64_t global_shape[FM_MAX_DIMS];
    int n_boxes;
    fm_box boxes[FM_MAX_BOXES];
    fm_replicas replicas;
    int64_t local_shape[FM_MAX_DIMS]; /* of as many elements; local_shape[0] 0: as the boxes say */
} fm_placement;

/* How a parameter starts: drawn by global element index, so the layout does not matter. */
typedef enum fm_init_kind { FM_INIT_CONSTANT, FM_INIT_NORMAL } fm_init_kind;
typedef struct fm_init {
    fm_init_kind kind;
    float mean; /* the constant, or the normal's mean */
    float std;
} fm_init;

typedef struct fm_param_spec {
    char name[96]; /* global name: "layers.3.attn.qkv.weight" */
    fm_placement placement;
    fm_dtype dtype; /* of the weights: the model's, or fp32 (routers) */
    bool decay;     /* weight decay applies */
    fm_init init;
} fm_param_spec;

typedef struct fm_param {
    fm_param_spec spec;
    fm_tensor *weight; /* local slice, leaf, requires_grad; its grad is set from the start */
    int64_t offset;    /* elements from the start of the flat fp32 buffers */
    int64_t numel;     /* local */
    int order;         /* number by offset; `defined`: by definition, in items */
    int defined;
    int first_bucket, end_bucket; /* those that its elements are in */
    struct fm_param_set *set;
} fm_param;

typedef struct fm_param_set {
    fm_ctx *ctx;
    fm_mesh *mesh;
    int n;
    fm_param **items; /* in order of definition: the order of checkpoints and of named_parameters */
    fm_param **by_offset; /* the same in the order of their offsets */
    int n_buckets;
    fm_bucket *buckets;  /* in the order of their offsets; there when the set is sealed */
    int64_t numel;       /* local elements of all segments, padded */
    int64_t state_numel; /* of which an optimiser on this rank keeps state */
    fm_tensor *grads;    /* fp32 [numel] */
    /* fp32: the weights of fp32 parameters, which come first in the flat buffers, at their offsets; then
     * the masters of bf16 ones, as far as this rank updates them (fm_bucket.master) */
    fm_tensor *masters;
    fm_tensor *models; /* bf16 [numel]; NULL when no parameter is bf16 */
    bool sealed;
    int *by_name; /* hash table for fm_param_find: 1 + a number in items; 0: empty */
    size_t by_name_size;
    fm_clock clock; /* what its optimiser has counted: the model's random numbers are drawn by it */
} fm_param_set;

fm_status fm_param_set_new(fm_ctx *ctx, fm_mesh *mesh, fm_param_set **out); /* mesh: borrowed */
void fm_param_set_free(fm_param_set *s);

/* Adds a parameter; `*out` gets its tensor when the set is sealed. Names are unique: a second one
 * is FM_ERR_VALUE. FM_ERR_STATE after sealing. */
fm_status fm_param_add(fm_param_set *s, const fm_param_spec *spec, fm_tensor **out);

/* The spec of a parameter that is whole on every rank of the stage. */
fm_param_spec fm_param_spec_whole(const char *name, int ndim, const int64_t *shape, fm_dtype dtype,
                                  bool decay, fm_init init);

/* Lays out and allocates the flat buffers, makes the tensors, draws the initial values:
 * normal(mean, std) of element i from Philox(seed, name, i), see fm_rng_normal. */
fm_status fm_param_set_seal(fm_param_set *s);

fm_param *fm_param_find(const fm_param_set *s, const char *name); /* NULL: no such name */

/* Checkpoints and copy_: overwrites a parameter's local fp32 values, the masters that are here and the
 * model copy. All replicas have to do the same. */
fm_status fm_param_set_values(fm_param_set *s, fm_param *p, const float *host, int64_t n);
/* The masters; where another rank has them, the weight, which is bf16 then. */
fm_status fm_param_get_values(fm_param_set *s, const fm_param *p, float *host, int64_t n);

/* A stretch of one parameter that this rank's optimiser updates. */
typedef struct fm_stretch {
    fm_span local;         /* of the parameter's local elements */
    int64_t state, master; /* where it begins in the optimiser's buffers, and in the masters */
} fm_stretch;
/* The first stretch of p in a bucket from number *bucket on, which becomes the next one's. Begin with
 * p->first_bucket; false: there is none left. */
bool fm_param_stretch(const fm_param *p, int *bucket, fm_stretch *out);

/* Elements of a box; 0 where a side is empty. */
int64_t fm_box_numel(int ndim, const fm_box *b);
/* Local elements of a placement; global elements. */
int64_t fm_placement_numel(const fm_placement *p);
int64_t fm_placement_global_numel(const fm_placement *p);
/* Global (flat) element index of local element i. */
int64_t fm_placement_global_index(const fm_placement *p, int64_t i);

void fm_param_zero_grads(fm_param_set *s);
/* Parameters whose gradient was not written since fm_param_zero_grads get zeros. */
fm_status fm_param_complete_grads(fm_param_set *s);

#endif
