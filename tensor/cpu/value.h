/* One implementation for fp32 and bf16: elements are read as float and written from float, and
 * the dtype is a constant where a loop is compiled.
 *
 * A loop lives in an FM_INLINE function whose dtype argument is handed over by FM_FLOAT_CALL as
 * a constant, so that each dtype gets a loop of its own without a copy of the source. The call
 * stands inside the parallel loop, around one chunk: gcc cuts a parallel region out of its
 * function before it inlines, and a constant from outside would be a variable there.
 */
#ifndef FM_TENSOR_CPU_VALUE_H
#define FM_TENSOR_CPU_VALUE_H
#include "tensor/cpu/isa.h"
#include "tensor/dtype.h"

#include <stdbool.h>

FM_INLINE float fm_get(fm_dtype dt, const void *p, int64_t i) {
    return dt == FM_BF16 ? fm_bf16_to_f32(((const fm_bf16 *)p)[i]) : ((const float *)p)[i];
}

FM_INLINE void fm_put(fm_dtype dt, void *p, int64_t i, float v) {
    if (dt == FM_BF16)
        ((fm_bf16 *)p)[i] = fm_f32_to_bf16(v);
    else
        ((float *)p)[i] = v;
}

/* Puts v, or adds it to what is there. `add` is a constant where a loop is compiled, like dt. */
FM_INLINE void fm_put_or_add(fm_dtype dt, void *p, int64_t i, float v, bool add) {
    fm_put(dt, p, i, add ? fm_get(dt, p, i) + v : v);
}

/* Element i of an array, as an address. */
FM_INLINE const void *fm_at(fm_dtype dt, const void *p, int64_t i) {
    return (const char *)p + i * (dt == FM_BF16 ? 2 : 4);
}
FM_INLINE void *fm_at_mut(fm_dtype dt, void *p, int64_t i) {
    return (char *)p + i * (dt == FM_BF16 ? 2 : 4);
}

/* fn(constant dtype, ...); fn(constant dtype, ..., constant bool). */
#define FM_FLOAT_CALL(dt, fn, ...)                                                                 \
    ((dt) == FM_BF16 ? fn(FM_BF16, __VA_ARGS__) : fn(FM_F32, __VA_ARGS__))
#define FM_FLOAT_ADD_CALL(dt, add, fn, ...)                                                        \
    ((add) ? FM_FLOAT_CALL(dt, fn, __VA_ARGS__, true) : FM_FLOAT_CALL(dt, fn, __VA_ARGS__, false))

#endif
