"""@cuda and @nccl: the CUDA toolkit and NCCL; empty where they are not there.

  @cuda//:headers :cudart :cublas :cuda_driver    cudart is linked statically
  @cuda//:defs.bzl   CUDA_FOUND, CUDA_NOTE (the version), CUDA_CODES (sm_80, ...)
  @nccl              defines FM_HAVE_NCCL=1 where it is there
  @nccl//:defs.bzl   NCCL_FOUND, NCCL_NOTE
"""

load("//bazel/host:probe.bzl", "BUILD_HEAD", "NO_FLAGS", "SYSTEM_INCLUDE", "env", "flags", "found", "host_rule", "library", "pkg_config", "prefix", "say")

_EXPORTS = 'exports_files(["nvcc.sh", "version.txt"])\n'
_LIBRARIES = ["headers", "cudart", "cublas", "cuda_driver"]

def _cuda_home(rctx):
    asked = env(rctx, "CUDA_HOME")
    if asked == "none":
        return ""
    if asked and not rctx.path(asked + "/bin/nvcc").exists:
        fail("@cuda: CUDA_HOME=%s holds no bin/nvcc; give a toolkit's directory, or none" % asked)
    for home in [asked, env(rctx, "CUDA_PATH"), "/usr/local/cuda"]:
        if home and rctx.path(home + "/bin/nvcc").exists:
            return str(rctx.path(home).realpath)
    nvcc = rctx.which("nvcc")
    return str(nvcc.realpath.dirname.dirname) if nvcc else ""

def _link_only(dirs, libs):
    return struct(inc = [], dirs = dirs, libs = libs, defs = [])

def _cuda_impl(rctx):
    home = _cuda_home(rctx)
    version = say(rctx, [home + "/bin/nvcc", "--version"]) if home else None
    if not version:
        rctx.file("defs.bzl", "# Written by //bazel/host.\nCUDA_FOUND = False\nCUDA_NOTE = \"no nvcc, CPU only\"\nCUDA_CODES = []\n")
        rctx.file("nvcc.sh", "#!/bin/sh\necho 'no CUDA toolkit on this host (CUDA_HOME, /usr/local/cuda, nvcc in PATH)' >&2\nexit 1\n", executable = True)
        rctx.file("version.txt", "none\n")
        rctx.file("BUILD.bazel", BUILD_HEAD + _EXPORTS + "".join([library(rctx, n, NO_FLAGS) for n in _LIBRARIES]))
        return
    version = [line for line in version.split("\n") if "release" in line][0]
    codes = (say(rctx, [home + "/bin/nvcc", "--list-gpu-code"]) or "").split("\n")
    lib = home + "/lib64" if rctx.path(home + "/lib64").exists else home + "/lib"
    rctx.file("version.txt", version + "\n")
    rctx.file("defs.bzl", "# Written by //bazel/host.\nCUDA_FOUND = True\nCUDA_NOTE = \"%s\"\nCUDA_CODES = %s\n" % (version, codes))

    # nvcc finds its own parts by its path, so it is called by that path; the
    # version file above is an input of every call and stands for the toolkit.
    rctx.file("nvcc.sh", "#!/bin/sh\nexec \"%s/bin/nvcc\" \"$@\"\n" % home, executable = True)
    headers = struct(inc = [home + "/include", home + "/include/cccl"], dirs = [], libs = [], defs = [])

    # cudart is linked statically: it opens libcuda.so.1 itself, when called.
    if rctx.path(lib + "/libcudart_static.a").exists:
        cudart = ["-l:libcudart_static.a", "-ldl", "-lrt", "-lpthread"]
    else:
        cudart = ["-lcudart"]
    rctx.file("BUILD.bazel", BUILD_HEAD + _EXPORTS +
                             library(rctx, "headers", headers, globs = ["*.h", "*.hpp", "crt/*.h", "crt/*.hpp", "nv/**"], tag = "cuda") +
                             library(rctx, "cudart", _link_only([lib], cudart), deps = [":headers"]) +
                             library(rctx, "cublas", _link_only([lib], ["-lcublas", "-lcublasLt"]), deps = [":headers"]) +
                             library(rctx, "cuda_driver", _link_only([], ["-L" + lib + "/stubs", "-lcuda"]), deps = [":headers"]))

cuda_repository = host_rule(_cuda_impl, ["CUDA_HOME", "CUDA_PATH"])

def _nccl_flags(rctx, home):
    f = prefix(rctx, "NCCL_HOME", "nccl.h", "nccl") or pkg_config(rctx, ["nccl"])
    if not f and rctx.path(home + "/include/nccl.h").exists:
        f = flags("-L%s/lib64 -lnccl" % home)
    for include in SYSTEM_INCLUDE:
        if not f and rctx.path(include + "/nccl.h").exists:
            f = flags("-lnccl")
    return f

def _nccl_impl(rctx):
    home = _cuda_home(rctx)
    f = _nccl_flags(rctx, home) if home and env(rctx, "NCCL_HOME") != "none" else None
    if not f:
        found(rctx, "NCCL", False, "no NCCL, one GPU only; install libnccl-dev")
        rctx.file("BUILD.bazel", BUILD_HEAD + library(rctx, "nccl", NO_FLAGS))
        return
    found(rctx, "NCCL", True, "nccl")
    rctx.file("BUILD.bazel", BUILD_HEAD + library(rctx, "nccl", f, defines = ["FM_HAVE_NCCL=1"], globs = ["nccl*.h"], deps = ["@cuda//:headers"]))

nccl_repository = host_rule(_nccl_impl, ["NCCL_HOME", "CUDA_HOME", "CUDA_PATH"])
