"""Which tests this host cannot run. Bazel skips them, and the summary counts them."""

load("@mpi//:defs.bzl", "MPI_FOUND")
load("@nccl//:defs.bzl", "NCCL_FOUND")
load("@python//:defs.bzl", "PYTHON_MODULES")
load("//bazel:cuda.bzl", "needs_cuda")
load("//bazel:old_bazel.bzl", "select_compatible")

_HAVE = {
    "h5py": "h5py" in PYTHON_MODULES,
    "mpi": MPI_FOUND,
    "nccl": NCCL_FOUND,
    "numpy": "numpy" in PYTHON_MODULES,
}

def skipped_where(needs, disabled = None):
    """For target_compatible_with.

    Args:
      needs: list of cuda, h5py, mpi, nccl, numpy
      disabled: a reason, or None; --//bazel:disabled_tests=run runs it all the same
    Returns:
      what makes the target incompatible where something is missing
    """
    for need in needs:
        if need != "cuda" and need not in _HAVE:
            fail("needs: %s is not one of cuda, %s" % (need, ", ".join(sorted(_HAVE))))

    # A label may stand in the list only once, whatever is missing.
    if not all([_HAVE[need] for need in needs if need != "cuda"]):
        return ["//bazel:never"]
    result = needs_cuda() if "cuda" in needs else []
    if disabled:
        result = result + select_compatible({
            "//bazel:run_disabled_tests": [],
            "//conditions:default": ["//bazel:disabled"],
        })
    return result

def test_tags(tags, size, cpus, omp_threads, disabled):
    """Tags of a test: what Bazel and ./dev read off them.

    Args:
      tags: the test's own
      size: small ones are "fast", which ./dev check runs
      cpus: processors that Bazel reserves
      omp_threads: more than one is "omp", which --config=tsan leaves out
      disabled: a reason, for the summary
    Returns:
      all of them
    """
    return (tags +
            (["fast"] if size == "small" else []) +
            (["cpu:%d" % cpus] if cpus > 1 else []) +
            (["omp"] if omp_threads > 1 else []) +
            (["disabled: " + disabled] if disabled else []))
