/* The emulated runtime: memory is the host's, everything is done when the call returns, and a
 * launch runs its blocks one after another, the threads of a block as fibers.
 *
 * A fiber runs until it waits at a barrier (its block's, or its warp's in a shuffle). Fibers take
 * turns in rising order in even blocks and in falling order in odd ones, so that a missing
 * __syncthreads shows in one of them. A barrier that some thread of its group never reaches ends
 * the program: on a GPU it would be undefined.
 */
#include <cuda_runtime_api.h>

#include <stdio.h>
#include <stdlib.h>
#ifndef __x86_64__
#include <ucontext.h>
#endif

emulated_dim threadIdx, blockIdx, blockDim, gridDim;

#ifdef __x86_64__
/* swapcontext asks the kernel for the signal mask at every switch, which makes it some ten times
 * slower than the switch itself. */
extern "C" void emulated_switch(void **from, void *to);
__asm__(R"(
    .text
    .type emulated_switch, @function
    .hidden emulated_switch
emulated_switch:
    push %rbp
    push %rbx
    push %r12
    push %r13
    push %r14
    push %r15
    mov %rsp, (%rdi)
    mov %rsi, %rsp
    pop %r15
    pop %r14
    pop %r13
    pop %r12
    pop %rbx
    pop %rbp
    ret
    .size emulated_switch, .-emulated_switch
)");
#endif

namespace {

enum { WARP = 32, MAX_THREADS = 1024, STACK = 64 << 10 };

struct barrier {
    unsigned arrived, round;
};

struct fiber {
    char *stack;
    bool ended; /* has run this block's thread; waits for the next block */
#ifdef __x86_64__
    void *context; /* the stack pointer */
#else
    ucontext_t context;
#endif
};

fiber fibers[MAX_THREADS], scheduler;
unsigned current;
barrier block_barrier, warp_barrier[MAX_THREADS / WARP];
uint64_t exchanged[MAX_THREADS];
unsigned long progress; /* barriers passed and fibers ended: does not move in a deadlock */
void (*launched)(void *);
void *launched_arg;

void switch_fiber(fiber *from, fiber *to) {
#ifdef __x86_64__
    emulated_switch(&from->context, to->context);
#else
    if (swapcontext(&from->context, &to->context) != 0) abort();
#endif
}

void wait_at(barrier *b, unsigned group) {
    unsigned round = b->round;
    if (++b->arrived == group) {
        b->arrived = 0;
        b->round++;
        progress++;
        return;
    }
    while (b->round == round) switch_fiber(&fibers[current], &scheduler);
}

/* A fiber lives as long as the program and runs one thread of block after block. */
void fiber_main(void) {
    for (;;) {
        launched(launched_arg);
        fibers[current].ended = true;
        progress++;
        switch_fiber(&fibers[current], &scheduler);
    }
}

void start_fiber(fiber *f) {
    f->ended = false;
    if (f->stack) return;
    f->stack = static_cast<char *>(aligned_alloc(64, STACK));
    if (!f->stack) abort();
#ifdef __x86_64__
    /* What emulated_switch pops: six registers and where to go, 16-byte aligned. */
    void **top = reinterpret_cast<void **>(f->stack + STACK) - 2;
    *top = reinterpret_cast<void *>(fiber_main);
    f->context = memset(top - 6, 0, 6 * sizeof *top);
#else
    if (getcontext(&f->context) != 0) abort();
    f->context.uc_stack.ss_sp = f->stack;
    f->context.uc_stack.ss_size = STACK;
    f->context.uc_link = nullptr;
    makecontext(&f->context, fiber_main, 0);
#endif
}

void run_block(unsigned block) {
    for (unsigned i = 0; i < block; i++) start_fiber(&fibers[i]);
    unsigned long before;
    bool any;
    do {
        before = progress;
        any = false;
        for (unsigned j = 0; j < block; j++) {
            unsigned i = blockIdx.x % 2 ? block - 1 - j : j;
            if (fibers[i].ended) continue;
            any = true;
            current = i;
            threadIdx.x = i;
            switch_fiber(&scheduler, &fibers[i]);
        }
        if (any && progress == before) {
            fprintf(stderr,
                    "emulated kernel: block %u: threads wait at a barrier that others of "
                    "their block or warp never reach\n",
                    blockIdx.x);
            abort();
        }
    } while (any);
    if (block_barrier.arrived != 0) abort();
}

} // namespace

void __syncthreads(void) { wait_at(&block_barrier, blockDim.x); }

uint64_t emulated_exchange(uint64_t mine, unsigned lane) {
    unsigned i = threadIdx.x, warp = i / WARP;
    exchanged[i] = mine;
    wait_at(&warp_barrier[warp], WARP);
    uint64_t theirs = exchanged[warp * WARP + lane];
    wait_at(&warp_barrier[warp], WARP);
    return theirs;
}

void emulated_launch(unsigned grid, unsigned block, void (*body)(void *), void *arg) {
    if (grid == 0 || block == 0 || block > MAX_THREADS || block % WARP != 0) {
        fprintf(stderr, "emulated kernel: a launch of %u blocks of %u threads\n", grid, block);
        abort();
    }
    gridDim = {grid, 1, 1};
    blockDim = {block, 1, 1};
    launched = body;
    launched_arg = arg;
    for (unsigned b = 0; b < grid; b++) {
        blockIdx = {b, 0, 0};
        run_block(block);
    }
}

__attribute__((destructor)) static void free_stacks(void) {
    for (fiber &f : fibers) free(f.stack);
}

cudaError_t cudaGetDeviceCount(int *count) {
    *count = 1;
    return cudaSuccess;
}
cudaError_t cudaSetDevice(int device) { return device == 0 ? cudaSuccess : cudaErrorInvalidDevice; }
cudaError_t cudaGetDeviceProperties(struct cudaDeviceProp *prop, int device) {
    if (device != 0) return cudaErrorInvalidDevice;
    *prop = cudaDeviceProp{"emulated GPU", 0, 0, 1, (size_t)1 << 30};
    return cudaSuccess;
}
cudaError_t cudaFuncGetAttributes(struct cudaFuncAttributes *attributes, const void *function) {
    attributes->maxThreadsPerBlock = MAX_THREADS;
    return function ? cudaSuccess : cudaErrorInvalidValue;
}
cudaError_t cudaGetLastError(void) { return cudaSuccess; }
const char *cudaGetErrorName(cudaError_t e) {
    switch (e) {
    case cudaSuccess:
        return "cudaSuccess";
    case cudaErrorInvalidValue:
        return "cudaErrorInvalidValue";
    case cudaErrorMemoryAllocation:
        return "cudaErrorMemoryAllocation";
    case cudaErrorInvalidDevice:
        return "cudaErrorInvalidDevice";
    }
    return "unknown";
}
const char *cudaGetErrorString(cudaError_t e) { return cudaGetErrorName(e); }

/* 256-byte alignment, as on a GPU, and no byte more than asked for: the address sanitizer sees what
 * reads or writes behind the end. */
cudaError_t cudaMalloc(void **p, size_t bytes) {
    return posix_memalign(p, 256, bytes) == 0 ? cudaSuccess : cudaErrorMemoryAllocation;
}
cudaError_t cudaFree(void *p) {
    free(p);
    return cudaSuccess;
}
cudaError_t cudaMallocHost(void **p, size_t bytes) { return cudaMalloc(p, bytes); }
cudaError_t cudaFreeHost(void *p) { return cudaFree(p); }
cudaError_t cudaMemGetInfo(size_t *available, size_t *total) {
    *available = *total = (size_t)1 << 30;
    return cudaSuccess;
}
cudaError_t cudaMemcpyAsync(void *dst, const void *src, size_t bytes, enum cudaMemcpyKind kind,
                            cudaStream_t s) {
    (void)kind, (void)s;
    memcpy(dst, src, bytes);
    return cudaSuccess;
}
cudaError_t cudaMemsetAsync(void *p, int value, size_t bytes, cudaStream_t s) {
    return cudaMemset2DAsync(p, bytes, value, bytes, 1, s);
}
cudaError_t cudaMemset2DAsync(void *p, size_t pitch, int value, size_t width, size_t height,
                              cudaStream_t s) {
    (void)s;
    if (pitch < width) return cudaErrorInvalidValue;
    for (size_t r = 0; r < height; r++) memset(static_cast<char *>(p) + r * pitch, value, width);
    return cudaSuccess;
}
cudaError_t cudaStreamCreateWithFlags(cudaStream_t *s, unsigned flags) {
    *s = reinterpret_cast<cudaStream_t>(malloc(1));
    return *s && flags == cudaStreamNonBlocking ? cudaSuccess : cudaErrorInvalidValue;
}
cudaError_t cudaStreamSynchronize(cudaStream_t s) {
    return s ? cudaSuccess : cudaErrorInvalidValue;
}
cudaError_t cudaStreamDestroy(cudaStream_t s) {
    free(s);
    return cudaSuccess;
}
