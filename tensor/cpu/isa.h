/* Names of what is compiled once per instruction set (bazel/isa.bzl gives FM_ISA). */
#ifndef FM_TENSOR_CPU_ISA_H
#define FM_TENSOR_CPU_ISA_H

#ifndef FM_ISA
#error "FM_ISA is not defined: compile this source through isa_library"
#endif

#define FM_ISA_PASTE2(name, isa) name##_##isa
#define FM_ISA_PASTE(name, isa) FM_ISA_PASTE2(name, isa)
/* FM_ISA_NAME(cpu_add) is cpu_add_v4 in the compilation for x86-64-v4. Everything in these
 * sources that is not static is named so; else the linker would keep one of the copies. */
#define FM_ISA_NAME(name) FM_ISA_PASTE(name, FM_ISA)

#define FM_INLINE static inline __attribute__((always_inline))

#endif
