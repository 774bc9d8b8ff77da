/* Sizes of tiles and chunks. The same for every instruction set. */
#ifndef FM_TENSOR_CPU_TILE_H
#define FM_TENSOR_CPU_TILE_H

/* A size of tile or chunk; --config=hostile takes small odd ones, so that small tests cross them. */
#ifdef FM_HOSTILE
#define FM_TILE(size, hostile) (hostile)
#else
#define FM_TILE(size, hostile) (size)
#endif

#endif
