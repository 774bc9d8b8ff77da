#include "tests/io/split.h"
#include "tests/io/content.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct {
    const char *name;
    fm_ckpt_group group;
    int ndim;
    int64_t shape[3]; /* the first is a multiple of 3: blocks of rows */
} kinds[SPLIT_ARRAYS] = {
    {"layers.0.attn.qkv.weight", FM_CKPT_DENSE, 2, {24, 10}},
    {"norm.bias", FM_CKPT_DENSE, 1, {15}},
    {"layers.1.moe.experts.down.weight", FM_CKPT_EXPERT, 3, {6, 5, 12}},
    {"adamw.m/layers.0.attn.qkv.weight", FM_CKPT_OPTIM, 2, {24, 10}},
    {"adamw.v/layers.1.moe.experts.down.weight", FM_CKPT_OPTIM, 3, {6, 5, 12}},
};

static int64_t part_of(int64_t n, int i, int size) { return n * i / size; }

/* What a rank has of an array as boxes; none: n_boxes is 0. */
static void place(fm_placement *p, split_kind kind, int rank, int size) {
    fm_box whole = {0};
    for (int d = 0; d < p->ndim; d++) whole.stop[d] = p->global_shape[d];
    int last = p->ndim - 1;
    p->n_boxes = 0;
    switch (kind) {
    case SPLIT_FIRST:
    case SPLIT_LAST:
        if (rank == (kind == SPLIT_FIRST ? 0 : size - 1)) p->boxes[p->n_boxes++] = whole;
        break;
    case SPLIT_THIRDS:
        for (int block = 0; block < 3; block++) {
            fm_box b = whole;
            int64_t rows = whole.stop[0] / 3;
            b.start[0] = block * rows + part_of(rows, rank, size);
            b.stop[0] = block * rows + part_of(rows, rank + 1, size);
            if (b.start[0] < b.stop[0]) p->boxes[p->n_boxes++] = b;
        }
        break;
    case SPLIT_COLUMNS:
        p->boxes[0] = whole;
        p->boxes[0].start[last] = part_of(whole.stop[last], rank, size);
        p->boxes[0].stop[last] = part_of(whole.stop[last], rank + 1, size);
        p->n_boxes = p->boxes[0].start[last] < p->boxes[0].stop[last];
        break;
    case SPLIT_FRAGMENTS:
        p->boxes[p->n_boxes++] = whole;
        break;
    case SPLIT_COLUMN_FRAGMENTS:
        place(p, SPLIT_COLUMNS, rank / 2, (size + 1) / 2);
        break;
    case SPLIT_KINDS:
        abort();
    }
}

/* Where piece i of n begins among `elements`: anywhere, rising with i; the same on every rank. */
static int64_t cut_at(int64_t elements, int i, int n, int array) {
    if (i == 0 || i == n) return i == 0 ? 0 : elements;
    int64_t room = part_of(elements, i + 1, n) - part_of(elements, i, n);
    uint64_t h = fm_mix64((uint64_t)(i * 1000 + n * 10 + array + 1));
    return part_of(elements, i, n) + (h % 3 == 0 ? 0 : (int64_t)(h % (uint64_t)(room + 1)));
}

static void add(split *s, int array, const fm_region *r) {
    int64_t n = fm_region_numel(r);
    if (n == 0) return;
    fm_ckpt_array *a = &s->arrays[s->checkpoint.n_arrays++];
    *a = (fm_ckpt_array){.group = kinds[array].group, .region = *r};
    snprintf(a->name, sizeof a->name, "%s", kinds[array].name);
    a->data = malloc((size_t)n * sizeof(float));
    if (!a->data) abort();
}

static int number_of(const char *name) {
    int array = 0;
    while (strcmp(kinds[array].name, name) != 0) array++;
    return array;
}

/* Calls `visit` with each element's place and the value that it should have. */
static int64_t compare(const fm_ckpt_array *a, int seed, bool fill) {
    int64_t wrong = 0, at = 0;
    int array = number_of(a->name);
    const fm_region *r = &a->region;
    for (int64_t b = 0; b < r->n_boxes; b++) {
        fm_placement one = {.ndim = r->ndim, .n_boxes = 1};
        memcpy(one.global_shape, r->global_shape, sizeof one.global_shape);
        one.boxes[0] = r->boxes[b];
        int64_t n = fm_placement_numel(&one);
        for (int64_t i = 0; i < n; i++, at++) {
            float want = content_value(array, fm_placement_global_index(&one, i), seed);
            if (fill) ((float *)a->data)[at] = want;
            wrong += ((float *)a->data)[at] != want;
        }
    }
    return wrong;
}

void split_make(split *s, split_kind kind, int rank, int size, int64_t step, int seed,
                int64_t scale) {
    memset(s, 0, sizeof *s);
    for (int array = 0; array < SPLIT_ARRAYS; array++) {
        fm_placement *p = &s->placements[array];
        p->ndim = kinds[array].ndim;
        for (int d = 0; d < p->ndim; d++)
            p->global_shape[d] = kinds[array].shape[d] * (d == 0 ? scale : 1);
        place(p, kind, rank, size);
        fm_region r = fm_region_of(p);
        if (kind != SPLIT_FRAGMENTS && kind != SPLIT_COLUMN_FRAGMENTS) {
            add(s, array, &r);
            continue;
        }
        int64_t n = fm_placement_numel(p);
        bool shared = kind == SPLIT_COLUMN_FRAGMENTS;
        bool pair = rank / 2 * 2 + 1 < size; /* the last of an odd number has its columns alone */
        int sharers = !shared ? size : pair ? 2 : 1, mine = shared ? rank % 2 : rank;
        for (int k = 0; k < 2; k++) {
            int piece = k * sharers + mine;
            r = fm_fragment(p, cut_at(n, piece, 2 * sharers, array),
                            cut_at(n, piece + 1, 2 * sharers, array), s->boxes[2 * array + k]);
            add(s, array, &r);
        }
    }
    s->checkpoint.step = step;
    s->checkpoint.arrays = s->arrays;
    s->checkpoint.state_json = "{\"a\": 1}";
    for (int i = 0; i < s->checkpoint.n_arrays; i++) (void)compare(&s->arrays[i], seed, true);
}

void split_free(split *s) {
    for (int i = 0; i < s->checkpoint.n_arrays; i++) free(s->arrays[i].data);
}

fm_status split_read(fm_ctx *ctx, const char *path, split *s, int seed, int64_t *wrong) {
    fm_ckpt_reader *r;
    *wrong = 0;
    FM_TRY(fm_ckpt_open(ctx, path, &r));
    fm_status status = FM_OK;
    for (int i = 0; status == FM_OK && i < s->checkpoint.n_arrays; i++) {
        fm_ckpt_array *a = &s->arrays[i];
        memset(a->data, 0, (size_t)fm_region_numel(&a->region) * sizeof(float));
        status = fm_ckpt_read(ctx, r, a);
        if (status == FM_OK) *wrong += compare(a, seed, false);
    }
    fm_ckpt_close(r);
    return status;
}
