/* Fletcher's checksum as HDF5's filter of that name computes it. */
#ifndef FM_IO_FLETCHER_H
#define FM_IO_FLETCHER_H
#include <stddef.h>
#include <stdint.h>

/* Over big-endian 16-bit words w[0] … w[n-1]:
 *   low half  Σ w[i],  high half  Σ (n - i) w[i],  both modulo 65535,
 * where a multiple of 65535 is written 65535 unless all words are 0. bytes must be even. */
uint32_t fm_fletcher32(const void *data, size_t bytes);
/* The same of what it copies, in one pass over the memory. */
uint32_t fm_fletcher32_copy(void *to, const void *from, size_t bytes);

#endif
