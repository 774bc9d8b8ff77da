"""fm_cc_library, fm_cc_binary, fm_cc_test: the C rules with fmoe's options."""

load("@rules_cc//cc:defs.bzl", "cc_binary", "cc_library")
load("//bazel:copts.bzl", "FM_COPTS", "FM_LINKOPTS")
load("//bazel:old_bazel.bzl", "cc_test", "if_compatible")
load("//bazel:skip.bzl", "skipped_where", "test_tags")

def fm_cc_library(name, copts = [], linkopts = [], **kwargs):
    cc_library(
        name = name,
        copts = FM_COPTS + copts,
        linkopts = FM_LINKOPTS + linkopts,
        **kwargs
    )

def fm_cc_binary(name, copts = [], linkopts = [], **kwargs):
    cc_binary(
        name = name,
        copts = FM_COPTS + copts,
        linkopts = FM_LINKOPTS + linkopts,
        **if_compatible(**kwargs)
    )

def fm_cc_test(name, omp_threads = 1, disabled = None, needs = [], copts = [], linkopts = [], deps = [], env = {}, tags = [], size = "small", **kwargs):
    """A C test program: its cases are in one process, its last line sums them up.

    Args:
      name: of the test
      omp_threads: OpenMP threads, and processors that Bazel reserves for it
      disabled: why the test is not run; it then counts as skipped
      needs: what the host must have: any of cuda, mpi, nccl, numpy, h5py
      copts: beside FM_COPTS
      linkopts: beside FM_LINKOPTS
      deps: beside //bazel/sanitize
      env: beside OMP_NUM_THREADS
      tags: beside those of test_tags
      size: small (60 s), medium (180 s), large (600 s)
      **kwargs: of cc_test
    """
    cc_test(
        name = name,
        size = size,
        copts = FM_COPTS + copts,
        linkopts = FM_LINKOPTS + linkopts,
        env = dict(env, OMP_NUM_THREADS = str(omp_threads)),
        tags = test_tags(tags, size, omp_threads, omp_threads, disabled),
        target_compatible_with = skipped_where(needs, disabled),
        deps = deps + ["//bazel/sanitize"],
        **kwargs
    )
