"""@jansson: JSON, by jansson.h. @xxhash: the XXH3 hashes, by xxhash.h."""

load("//bazel/host:probe.bzl", "BUILD_HEAD", "SYSTEM_INCLUDE", "flags", "host_rule", "library", "pkg_config", "prefix")

def _small_library(rctx, variable, header, lib, package, packages):
    f = prefix(rctx, variable, header, lib) or pkg_config(rctx, [package])
    if not f:
        for include in SYSTEM_INCLUDE:
            if rctx.path(include + "/" + header).exists:
                f = flags("-l" + lib)
    if not f:
        fail("@%s: %s is not found; install %s, or give --repo_env=%s=/prefix" % (rctx.name, header, packages, variable))
    rctx.file("BUILD.bazel", BUILD_HEAD + library(rctx, rctx.name, f))

def _jansson_impl(rctx):
    _small_library(rctx, "JANSSON_HOME", "jansson.h", "jansson", "jansson", "libjansson-dev (jansson-devel)")

jansson_repository = host_rule(_jansson_impl, ["JANSSON_HOME"])

def _xxhash_impl(rctx):
    _small_library(rctx, "XXHASH_HOME", "xxhash.h", "xxhash", "libxxhash", "libxxhash-dev (xxhash-devel)")

xxhash_repository = host_rule(_xxhash_impl, ["XXHASH_HOME"])
