"""Tests that are Python scripts: run by //:train itself, or by the host's Python."""

load("//bazel:old_bazel.bzl", "sh_test")
load("//bazel:skip.bzl", "skipped_where", "test_tags")

def train_test(name, script, ranks = 1, omp_threads = 1, needs = [], disabled = None, args = [], data = [], env = {}, tags = [], size = "small", **kwargs):
    """Runs `train script args`, under mpirun where ranks > 1 (skipped without MPI).

    Args:
      name: of the test
      script: the Python script
      ranks: processes
      omp_threads: OpenMP threads of each
      needs: what the host must have: any of cuda, mpi, nccl, numpy, h5py
      disabled: why the test is not run; it then counts as skipped
      args: of the script
      data: files that it reads
      env: beside OMP_NUM_THREADS
      tags: beside those of test_tags
      size: small (60 s), medium (180 s), large (600 s)
      **kwargs: of sh_test
    """
    sh_test(
        name = name,
        size = size,
        srcs = ["//bazel:run_train_test.sh"],
        args = [str(ranks), "$(rootpath //bazel:mpirun)", "$(rootpath //:train)", "$(rootpath %s)" % script] + args,
        data = ["//bazel:mpirun", "//:train", script] + data,
        env = dict(env, OMP_NUM_THREADS = str(omp_threads)),
        tags = test_tags(tags, size, ranks * omp_threads, omp_threads, disabled),
        target_compatible_with = skipped_where(needs + (["mpi"] if ranks > 1 else []), disabled),
        **kwargs
    )

def mpi_cc_test(name, binary, ranks, omp_threads = 1, needs = [], disabled = None, args = [], data = [], env = {}, tags = [], size = "small", **kwargs):
    """Runs a C program (an fm_cc_binary) under mpirun; arguments as train_test."""
    sh_test(
        name = name,
        size = size,
        srcs = ["//bazel:run_train_test.sh"],
        args = [str(ranks), "$(rootpath //bazel:mpirun)", "$(rootpath %s)" % binary] + args,
        data = ["//bazel:mpirun", binary] + data,
        env = dict(env, OMP_NUM_THREADS = str(omp_threads)),
        tags = test_tags(tags, size, ranks * omp_threads, omp_threads, disabled),
        target_compatible_with = skipped_where(needs + (["mpi"] if ranks > 1 else []), disabled),
        **kwargs
    )

def python_test(name, script, needs = [], disabled = None, args = [], data = [], env = {}, tags = [], size = "small", **kwargs):
    """Runs a plain Python script, without `train`, by the Python that fmoe embeds."""
    sh_test(
        name = name,
        size = size,
        srcs = ["//bazel:run_python_test.sh"],
        args = ["$(rootpath @python//:python3.sh)", "$(rootpath %s)" % script] + args,
        data = ["@python//:python3.sh", script] + data,
        env = dict(env, OMP_NUM_THREADS = "1"),
        tags = test_tags(tags, size, 1, 1, disabled),
        target_compatible_with = skipped_where(needs, disabled),
        **kwargs
    )
