"""The host's repositories for MODULE.bazel (Bazel 7 and later; not tested)."""

load("//bazel:host.bzl", "host_repositories")

def _host_impl(_mctx):
    host_repositories()

host = module_extension(implementation = _host_impl)
