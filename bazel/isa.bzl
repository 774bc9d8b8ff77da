"""isa_library: one source compiled once per instruction set.

Each compilation sees FM_ISA=v2, v3 or v4 (x86-64-v2, v3, v4), or generic where the
processor is no x86-64, and builds its symbols from it; the caller picks a variant
when the program starts. Nothing in such a source may have external linkage without
FM_ISA in its name: the linker would keep one copy, maybe the one that this
processor cannot run. So `static inline` in headers, never plain `inline`.
"""

load("@rules_cc//cc:defs.bzl", "cc_library")
load("//bazel:copts.bzl", "FM_COPTS", "FM_LINKOPTS")

_ISAS = {
    "generic": [],
    "v2": ["-march=x86-64-v2"],
    "v3": ["-march=x86-64-v3"],
    # gcc and clang prefer 256 bits by themselves, for processors of 2017.
    "v4": ["-march=x86-64-v4", "-mprefer-vector-width=512"],
}

def isa_library(name, srcs, hdrs = [], deps = [], copts = [], local_defines = [], tags = [], **kwargs):
    """A cc_library whose sources are compiled for every instruction set.

    Args:
      name: of the library; its variants are name_v2, name_v3, name_v4, name_generic
      srcs: compiled once per variant
      hdrs: public headers
      deps: of every variant
      copts: beside FM_COPTS
      local_defines: beside FM_ISA
      tags: of every target
      **kwargs: of every cc_library
    """
    for isa, march in _ISAS.items():
        cc_library(
            name = name + "_" + isa,
            srcs = srcs,
            hdrs = hdrs,
            copts = FM_COPTS + march + select({
                "//bazel:opt": ["-O3"],
                "//conditions:default": [],
            }) + copts,
            linkopts = FM_LINKOPTS,
            local_defines = ["FM_ISA=" + isa] + local_defines,
            # Built through `name`, which knows the processor.
            tags = tags + ["manual"],
            deps = deps,
            **kwargs
        )
    cc_library(
        name = name,
        hdrs = hdrs,
        tags = tags,
        deps = select({
            "//bazel:x86_64": [name + "_v2", name + "_v3", name + "_v4"],
            # aarch64 and the rest: never built by us so far.
            "//conditions:default": [name + "_generic"],
        }) + deps,
        **kwargs
    )
