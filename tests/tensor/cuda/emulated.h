/* The emulated CUDA backend, linked in, with a stand-in for each slot that it has not. */
#ifndef FM_TESTS_TENSOR_CUDA_EMULATED_H
#define FM_TESTS_TENSOR_CUDA_EMULATED_H
#include "tensor/backend.h"

/* A missing slot returns FM_ERR_UNSUPPORTED instead of being NULL. One at a time. */
fm_status emulated_open(fm_error *err, fm_device **out);
void emulated_close(fm_device *dev);

#endif
