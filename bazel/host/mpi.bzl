"""@mpi: OpenMPI or MPICH, whichever mpicc belongs to; empty where there is none.

  @mpi            the library; defines FM_HAVE_MPI=1 where it is there
  @mpi//:mpirun.sh   the launcher (//bazel:mpirun copies it)
  @mpi//:defs.bzl    MPI_FOUND, MPI_NOTE (openmpi, mpich, or why there is none)
"""

load("//bazel/host:probe.bzl", "BUILD_HEAD", "NO_FLAGS", "env", "flags", "found", "host_rule", "library", "pkg_config", "say")

def _probe(rctx, wrapper):
    """Flags and flavour of the MPI; None where there is none."""
    compile = say(rctx, [wrapper, "--showme:compile"])
    if compile != None:
        return flags(compile + " " + say(rctx, [wrapper, "--showme:link"])), "openmpi"
    shown = say(rctx, [wrapper, "-show"])
    if shown != None:
        return flags(shown), "mpich"
    if env(rctx, "MPICC"):
        return None, "none"  # asked for, and none: not to be replaced in silence
    for package, flavour in [("ompi-c", "openmpi"), ("ompi", "openmpi"), ("mpich", "mpich")]:
        f = pkg_config(rctx, [package])
        if f:
            return f, flavour
    return None, "none"

def _launcher(rctx, wrapper):
    """mpirun of the same installation as the wrapper, else the one in PATH."""
    prog = rctx.path(wrapper) if wrapper.startswith("/") else rctx.which(wrapper)
    for name in ["mpirun", "mpiexec"]:
        if prog and prog.dirname.get_child(name).exists:
            return prog.dirname.get_child(name)
    return rctx.which("mpirun") or rctx.which("mpiexec")

def _mpi_impl(rctx):
    wrapper = env(rctx, "MPICC") or "mpicc"
    f, flavour, mpirun = None, "none", None
    if wrapper != "none":
        f, flavour = _probe(rctx, wrapper)
        mpirun = _launcher(rctx, wrapper)
    if not f or not mpirun:
        if env(rctx, "MPICC") not in ["", "none"]:
            fail("@mpi: MPICC=%s is no MPI compiler wrapper with an mpirun beside it" % wrapper)
        found(rctx, "MPI", False, "no MPI, one process only; install libopenmpi-dev and openmpi-bin")
        rctx.file("mpirun.sh", "#!/bin/sh\necho 'mpirun: built without MPI; install libopenmpi-dev and openmpi-bin' >&2\nexit 1\n", executable = True)
        rctx.file("BUILD.bazel", BUILD_HEAD + 'exports_files(["mpirun.sh"])\n' + library(rctx, "mpi", NO_FLAGS))
        return

    # The launcher with what a container, root or a small machine needs, so that
    # tests and users name one thing for every MPI.
    environment, options = "", ""
    if flavour == "openmpi":
        environment = "export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1\n"
        options = "--oversubscribe --bind-to none"
    rctx.file("mpirun.sh", """#!/bin/sh
# Written by //bazel/host:mpi.bzl (%s).
%sexport TMPDIR=/tmp HOME="${HOME:-/tmp}"  # short socket paths
exec "%s" %s "$@"
""" % (flavour, environment, mpirun, options), executable = True)
    found(rctx, "MPI", True, flavour)
    rctx.file("BUILD.bazel", BUILD_HEAD + 'exports_files(["mpirun.sh"])\n' + library(rctx, "mpi", f, defines = ["FM_HAVE_MPI=1"]))

mpi_repository = host_rule(_mpi_impl, ["MPICC"])
