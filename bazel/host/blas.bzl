"""@blas: OpenBLAS (its OpenMP build), by cblas.h. @dnnl: oneDNN, by dnnl.h."""

load("//bazel/host:probe.bzl", "BUILD_HEAD", "SYSTEM_INCLUDE", "flags", "host_rule", "library", "pkg_config", "prefix", "say")

def _openblas(rctx):
    f = prefix(rctx, "BLAS_HOME", "cblas.h", "openblas")
    if f:
        return f

    # Debian keeps the OpenMP build in a directory of its own; what pkg-config and
    # the loader say follows the alternatives, where the pthreads build wins.
    for triple in ["x86_64-linux-gnu", "aarch64-linux-gnu"]:
        include = "/usr/include/%s/openblas-openmp" % triple
        lib = "/usr/lib/%s/openblas-openmp" % triple
        if rctx.path(include + "/cblas.h").exists and rctx.path(lib + "/libopenblas.so").exists:
            return flags("-I%s -L%s -lopenblas" % (include, lib))
    f = pkg_config(rctx, ["openblas-openmp", "openblas"])
    config = say(rctx, ["pkg-config", "--variable=openblas_config", "openblas"]) or ""
    if f and config and "USE_OPENMP=1" not in config:
        fail("@blas: the OpenBLAS found has a thread pool of its own, which fights OpenMP's (openblas_config:%s); install libopenblas-openmp-dev (openblas-openmp), or give --repo_env=BLAS_HOME=/prefix" % config)
    return f

def _blas_impl(rctx):
    f = _openblas(rctx)
    if not f:
        fail("@blas: OpenBLAS is not found; install libopenblas-openmp-dev (openblas-devel), or give --repo_env=BLAS_HOME=/prefix")
    rctx.file("BUILD.bazel", BUILD_HEAD + library(rctx, "blas", f))

blas_repository = host_rule(_blas_impl, ["BLAS_HOME"])

def _dnnl_impl(rctx):
    f = prefix(rctx, "DNNL_HOME", "dnnl.h", "dnnl") or pkg_config(rctx, ["dnnl"])
    if not f:  # Debian and Ubuntu ship no dnnl.pc
        for include in SYSTEM_INCLUDE:
            if rctx.path(include + "/dnnl.h").exists:
                f = flags("-ldnnl")
    if not f:
        fail("@dnnl: oneDNN is not found; install libdnnl-dev (onednn-devel), or give --repo_env=DNNL_HOME=/prefix")
    rctx.file("BUILD.bazel", BUILD_HEAD + library(rctx, "dnnl", f, globs = ["dnnl*.h", "oneapi/**/*.h"]))

dnnl_repository = host_rule(_dnnl_impl, ["DNNL_HOME"])
