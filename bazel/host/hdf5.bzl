"""@hdf5: HDF5's C library, linked statically where its archive is there."""

load("//bazel/host:probe.bzl", "BUILD_HEAD", "SYSTEM_LIB", "flags", "host_rule", "library", "pkg_config", "prefix", "say")

def _hdf5_impl(rctx):
    f = prefix(rctx, "HDF5_HOME", "hdf5.h", "hdf5") or pkg_config(rctx, ["hdf5-serial", "hdf5"])
    shown = say(rctx, ["h5cc", "-show"])
    if not f and shown:
        g = flags(shown)
        f = struct(inc = g.inc, dirs = g.dirs, libs = ["-lhdf5"], defs = [])
    if not f:
        fail("@hdf5: neither HDF5_HOME, pkg-config nor h5cc knows HDF5; install libhdf5-dev (hdf5-devel)")

    # Static, its symbols hidden: a script may import an h5py that brings an HDF5
    # of its own, and two HDF5s under one set of names break each other.
    for d in f.dirs + SYSTEM_LIB:
        archive = d.rstrip("/") + "/libhdf5.a"
        if rctx.path(archive).exists:
            rctx.symlink(archive, "libhdf5_embed.a")
            link = ["-Wl,--exclude-libs,libhdf5_embed.a"] + _archive_needs(rctx, d.rstrip("/"))
            f = struct(inc = f.inc, dirs = [], libs = link, defs = f.defs)
            rctx.file("BUILD.bazel", BUILD_HEAD + library(rctx, "hdf5", f, srcs = ["libhdf5_embed.a"]))
            return
    rctx.file("BUILD.bazel", BUILD_HEAD + library(rctx, "hdf5", f))

def _archive_needs(rctx, libdir):
    """What libhdf5.a itself links: libhdf5.settings beside it says so."""
    for line in (say(rctx, ["cat", libdir + "/libhdf5.settings"]) or "").split("\n"):
        if "Extra libraries:" in line:
            libs = [t for t in line.split(":")[1].split(" ") if t.startswith("-l")]
            if libs:
                return libs
    return ["-lz", "-ldl", "-lm"]

hdf5_repository = host_rule(_hdf5_impl, ["HDF5_HOME"])
