/* Saving and loading a checkpoint beside the disk itself: write() and fsync of as many bytes, and
 * read() of them, in turns, medians.
 *
 *   checkpoint FOLDER [MiB] [ROUNDS]
 *
 * FOLDER decides which disk. The content is a third weights and two thirds moments, in arrays as a
 * model of d_model 1024 has them. Loading comes from the page cache on both sides where it fits. */
#include "io/checkpoint.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { COLS = 1024, ROWS = 4096, BLOCK = 4 << 20, MAX_ROUNDS = 99, ARRAY_MIB = 16 };

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static int rising(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}
static double median(double *x, int n) {
    qsort(x, (size_t)n, sizeof *x, rising);
    return x[n / 2];
}

/* Seconds of writing (and syncing) or reading `bytes` of one file; negative where it failed. */
static double plain(const char *path, char *block, int64_t bytes, bool writing) {
    double start = now();
    int fd = open(path, writing ? O_WRONLY | O_CREAT | O_TRUNC : O_RDONLY, 0666);
    bool good = fd >= 0;
    for (int64_t at = 0; good && at < bytes; at += BLOCK)
        good = (writing ? write(fd, block, BLOCK) : read(fd, block, BLOCK)) == BLOCK;
    if (good && writing) good = fsync(fd) == 0;
    if (fd >= 0) close(fd);
    return good ? now() - start : -1;
}

static int fail(const fm_error *err) {
    fprintf(stderr, "%s\n", err->message);
    return 1;
}

static fm_status load(fm_ctx *ctx, const char *path, const fm_ckpt_content *c, float *into) {
    fm_ckpt_reader *r;
    FM_TRY(fm_ckpt_open(ctx, path, &r));
    fm_status status = FM_OK;
    for (int i = 0; status == FM_OK && i < c->n_arrays; i++) {
        fm_ckpt_array a = c->arrays[i];
        a.data = into;
        status = fm_ckpt_read(ctx, r, &a);
    }
    fm_ckpt_close(r);
    return status;
}

int main(int argc, char **argv) {
    if (argc < 2) {
        fprintf(stderr, "usage: checkpoint FOLDER [MiB] [ROUNDS]\n");
        return 2;
    }
    int64_t mib = argc > 2 ? strtoll(argv[2], NULL, 10) : 768;
    int rounds = argc > 3 ? (int)strtol(argv[3], NULL, 10) : 5, n = (int)(mib / ARRAY_MIB);
    if (n < 3 || n > 1 << 16 || rounds < 1 || rounds > MAX_ROUNDS) {
        fprintf(stderr, "MiB must be at least %d, ROUNDS in 1..%d\n", 3 * ARRAY_MIB, MAX_ROUNDS);
        return 2;
    }
    fm_error err = {0};
    fm_ctx *ctx;
    fm_mesh *mesh;
    fm_mesh_config mc = fm_mesh_config_default();
    if (fm_ctx_new("cpu", &err, NULL, 0, &ctx) != FM_OK) return fail(&err);
    if (fm_mesh_new(ctx, &mc, NULL, &mesh) != FM_OK) return fail(&ctx->error);

    char root[900], file[1000], step[1000];
    snprintf(root, sizeof root, "%s/bench_checkpoint", argv[1]);
    snprintf(file, sizeof file, "%s/bench_plain", argv[1]);
    snprintf(step, sizeof step, "%s/step_00000001", root);
    fm_placement p = {.ndim = 2, .global_shape = {ROWS, COLS}, .n_boxes = 1};
    p.boxes[0].stop[0] = ROWS, p.boxes[0].stop[1] = COLS;
    fm_ckpt_array *arrays = calloc((size_t)n, sizeof *arrays);
    int64_t bytes = (int64_t)n * ROWS * COLS * 4;
    float *data = malloc((size_t)bytes);
    char *block = malloc(BLOCK);
    if (!arrays || !data || !block) {
        fprintf(stderr, "no memory for %lld MiB\n", (long long)mib);
        return 1;
    }
    for (int64_t i = 0; i < bytes / 4; i++) data[i] = (float)(fm_mix64((uint64_t)i) >> 40);
    memcpy(block, data, BLOCK);
    for (int i = 0; i < n; i++) {
        arrays[i] = (fm_ckpt_array){.group = i % 3 ? FM_CKPT_OPTIM : FM_CKPT_DENSE,
                                    .region = fm_region_of(&p),
                                    .data = data + (int64_t)i * ROWS * COLS};
        snprintf(arrays[i].name, sizeof arrays[i].name, "%slayers.%d.weight",
                 i % 3 == 0   ? ""
                 : i % 3 == 1 ? "adamw.m/"
                              : "adamw.v/",
                 i / 3);
    }
    fm_ckpt_content content = {1, n, arrays, "{}", NULL};
    double save[2][MAX_ROUNDS], stall[MAX_ROUNDS], read_[2][MAX_ROUNDS];
    for (int r = -1; r < rounds; r++) { /* the first round warms up */
        int at = r < 0 ? 0 : r;
        for (int asynchronous = 0; asynchronous < 2; asynchronous++) {
            fm_checkpointer *k;
            fm_ckpt_config cc = {root, 1, asynchronous, 0};
            if (fm_checkpointer_new(ctx, mesh, &cc, &k) != FM_OK) return fail(&ctx->error);
            double start = now();
            if (fm_checkpointer_save(ctx, k, &content) != FM_OK) return fail(&ctx->error);
            (asynchronous ? stall : save[0])[at] = now() - start;
            if (fm_checkpointer_wait(ctx, k) != FM_OK) return fail(&ctx->error);
            fm_checkpointer_free(k);
        }
        save[1][at] = plain(file, block, bytes, true);
        double start = now();
        if (load(ctx, step, &content, data) != FM_OK) return fail(&ctx->error);
        read_[0][at] = now() - start;
        read_[1][at] = plain(file, block, bytes, false);
        if (save[1][at] < 0 || read_[1][at] < 0) {
            perror(file);
            return 1;
        }
        for (int64_t i = 0; i < bytes / 4; i++) data[i] = (float)(fm_mix64((uint64_t)i) >> 40);
    }
    unlink(file);
    double gb = (double)bytes / 1e9, s = median(save[0], rounds), sp = median(save[1], rounds),
           l = median(read_[0], rounds), lp = median(read_[1], rounds), load1 = -1;
    if (getloadavg(&load1, 1) != 1) load1 = -1;
    printf("%.2f GB, medians of %d, load average %.1f\n", gb, rounds, load1);
    printf("save  %6.2f GB/s  write+fsync %6.2f GB/s  ratio %.2f\n", gb / s, gb / sp, sp / s);
    printf("load  %6.2f GB/s  read        %6.2f GB/s  ratio %.2f\n", gb / l, gb / lp, lp / l);
    printf("asynchronous: training stands still for %.3f s of %.3f\n", median(stall, rounds), s);
    free(arrays), free(data), free(block);
    fm_mesh_free(mesh);
    fm_ctx_free(ctx);
    return 0;
}
