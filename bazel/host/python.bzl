"""@python: the CPython that `train` embeds.

  @python            headers and libpython, for a program that embeds
  @python//:headers  headers alone
  @python//:where    host_python.h: FM_PYTHON_EXECUTABLE, FM_PYTHON_LINK
  @python//:python3.sh  runs that Python; for tests that are plain scripts
  @python//:defs.bzl    PYTHON_VERSION, PYTHON_MODULES (which of numpy, h5py import)
"""

load("//bazel/host:probe.bzl", "BUILD_HEAD", "env", "host_rule", "library")

_ASK = """
import sys, sysconfig
v = sysconfig.get_config_var
has = []
for module in ("numpy", "h5py"):
    try:
        __import__(module)
        has.append(module)
    except Exception:
        pass
for k, x in [("exe", sys.executable), ("version", "%d.%d" % sys.version_info[:2]),
             ("include", sysconfig.get_path("include")), ("shared", int(bool(v("Py_ENABLE_SHARED")))),
             ("libdir", v("LIBDIR")), ("libpl", v("LIBPL")), ("ldversion", v("LDVERSION")),
             ("modules", ",".join(has)),
             ("extra", " ".join(v(n) or "" for n in ("LIBS", "SYSLIBS", "MODLIBS")))]:
    print("%s=%s" % (k, x))
"""

def _ask(rctx):
    """What the chosen Python says about itself, as a dict."""
    asked = env(rctx, "PYTHON") or "python3"

    # A version manager looks for its .python-version at the top of the tree.
    top = rctx.path(Label("//bazel/host:python.bzl")).dirname.dirname.dirname
    if "/" not in asked:
        prog = rctx.which(asked)
    else:
        prog = rctx.path(asked if asked.startswith("/") else str(top) + "/" + asked)
    if not prog or not prog.exists:
        fail("@python: %s is not there; install python3-dev, or choose with --repo_env=PYTHON=/path/to/python3 (tools/setup.sh pins one in user.bazelrc)" % asked)
    res = rctx.execute([str(prog), "-c", _ASK], working_directory = str(top))
    if res.return_code != 0:
        fail("@python: %s does not run: %s" % (prog, res.stderr))
    py = {}
    for line in res.stdout.strip().split("\n"):
        key, _, value = line.partition("=")
        py[key] = value
    if not rctx.path(py["include"] + "/Python.h").exists:
        fail("@python: %s has no Python.h in %s; install python3-dev, or choose another with --repo_env=PYTHON=/path/to/python3" % (py["exe"], py["include"]))
    return py

def _python_impl(rctx):
    py = _ask(rctx)
    how = env(rctx, "PYTHON_LINK") or ("shared" if py["shared"] == "1" else "static")
    head = struct(inc = [py["include"]], dirs = [], libs = [], defs = [])
    if how == "shared":
        lib = "python" + py["ldversion"]
        if not rctx.path(py["libdir"] + "/lib" + lib + ".so").exists:
            fail("@python: %s was built shared, yet %s/lib%s.so is missing; install libpython3-dev" % (py["exe"], py["libdir"], lib))
        link = struct(inc = [], dirs = [py["libdir"]], libs = ["-l" + lib], defs = [])
        body = library(rctx, "python", link, deps = [":headers", ":where"])
    elif how == "static":
        plain = py["libpl"] + "/libpython" + py["ldversion"] + ".a"
        pic = plain[:-2] + "-pic.a"  # Debian: the plain one does not go into a PIE
        archive = pic if rctx.path(pic).exists else plain
        if not rctx.path(archive).exists:
            fail("@python: %s has neither a shared libpython nor %s; choose another with --repo_env=PYTHON=/path/to/python3" % (py["exe"], archive))
        rctx.symlink(archive, "libpython_embed.a")

        # The whole archive, exported: extension modules call into it.
        extra = [t for t in py["extra"].split(" ") if t.startswith("-l")]
        link = struct(inc = [], dirs = [], libs = ["-Wl,--export-dynamic"] + extra, defs = [])
        body = """
cc_import(
    name = "archive",
    static_library = "libpython_embed.a",
    alwayslink = True,
)
""" + library(rctx, "python", link, deps = [":headers", ":where", ":archive"])
    else:
        fail("@python: PYTHON_LINK=%s is not one of shared, static" % how)

    modules = [m for m in py["modules"].split(",") if m]
    rctx.file("defs.bzl", "# Written by //bazel/host.\nPYTHON_VERSION = \"%s\"\nPYTHON_MODULES = %s\n" % (py["version"], modules))
    rctx.file("python3.sh", "#!/bin/sh\nexec \"%s\" \"$@\"\n" % py["exe"], executable = True)
    rctx.file("where/host_python.h", """#pragma once
#define FM_PYTHON_EXECUTABLE "%s"
#define FM_PYTHON_LINK "%s"
""" % (py["exe"], how))
    rctx.file("BUILD.bazel", BUILD_HEAD.replace('"cc_library"', '"cc_import", "cc_library"') + """
exports_files(["python3.sh"])

cc_library(
    name = "where",
    hdrs = ["where/host_python.h"],
    includes = ["where"],
)
""" + library(rctx, "headers", head) + body)

python_repository = host_rule(_python_impl, ["PYTHON", "PYTHON_LINK", "PYENV_ROOT", "PYENV_VERSION", "VIRTUAL_ENV"])
