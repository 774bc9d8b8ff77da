"""What the repository rules share: asking the host, and writing a cc_library."""

_TRIPLES = ["x86_64-linux-gnu", "aarch64-linux-gnu"]

# Directories that the compiler and the loader search by themselves: they get no
# -I, no -L and no rpath.
SYSTEM_INCLUDE = ["/usr/include", "/usr/local/include"] + ["/usr/include/" + t for t in _TRIPLES]
SYSTEM_LIB = ["/lib", "/lib64", "/usr/lib", "/usr/lib64"] + ["/usr/lib/" + t for t in _TRIPLES] + ["/lib/" + t for t in _TRIPLES]

NO_FLAGS = struct(inc = [], dirs = [], libs = [], defs = [])

BUILD_HEAD = """load("@rules_cc//cc:defs.bzl", "cc_library")

package(default_visibility = ["//visibility:public"])
"""

def env(rctx, name):
    return rctx.os.environ.get(name, "")

def say(rctx, argv):
    """What argv prints, or None where it is not there or fails."""
    prog = rctx.which(argv[0]) if not argv[0].startswith("/") else rctx.path(argv[0])
    if not prog or not prog.exists:
        return None
    res = rctx.execute([str(prog)] + argv[1:], timeout = 60)
    return res.stdout.strip() if res.return_code == 0 else None

def flags(text):
    """-I, -L, -l and -D of a compiler command line, as a struct."""
    inc, dirs, libs, defs = [], [], [], []
    for tok in text.replace("\n", " ").split(" "):
        if tok.startswith("-I"):
            inc.append(tok[2:])
        elif tok.startswith("-L"):
            dirs.append(tok[2:])
        elif tok.startswith("-l"):
            libs.append(tok)
        elif tok.startswith("-D"):
            defs.append(tok[2:])
    return struct(inc = inc, dirs = dirs, libs = libs, defs = defs)

def pkg_config(rctx, names):
    """Flags of the first package that pkg-config knows, or None."""
    for name in names:
        out = say(rctx, ["pkg-config", "--cflags", "--libs", name])
        if out != None:
            return flags(out)
    return None

def prefix(rctx, variable, header, lib):
    """Flags of a library under the prefix that an environment variable names.

    None where the variable is unset; an error where nothing is at that prefix.
    """
    home = env(rctx, variable)
    if not home or home == "none":
        return None
    if rctx.path(home + "/include/" + header).exists:
        for sub in ["lib64", "lib"] + ["lib/" + t for t in _TRIPLES]:
            stem = home + "/" + sub + "/lib" + lib
            if rctx.path(stem + ".so").exists or rctx.path(stem + ".a").exists:
                return flags("-I%s/include -L%s/%s -l%s" % (home, home, sub, lib))
    fail("@%s: %s=%s holds no include/%s with a lib%s.so or .a beside it" % (rctx.name, variable, home, header, lib))

def _linkopts(dirs, libs):
    opts = []
    for d in dirs:
        d = d.rstrip("/")
        if d not in SYSTEM_LIB:
            opts += ["-L" + d, "-Wl,-rpath," + d]
    return opts + libs

def _quoted(items):
    return "[" + ", ".join(['"%s"' % i for i in items]) + "]"

def library(rctx, name, f, defines = [], globs = ["**/*.h"], srcs = [], deps = [], tag = ""):
    """Text of one cc_library; symlinks its include directories in.

    Args:
      rctx: the repository context
      name: of the cc_library
      f: flags, as flags() gives them
      defines: of the cc_library, beside those in f
      globs: which files below an include directory are its headers
      srcs: archives to link
      deps: of the cc_library
      tag: names the symlinked directories where two libraries would collide
    Returns:
      the text
    """
    includes, hdrs = [], []
    for i, d in enumerate(f.inc):
        d = d.rstrip("/")
        if d in SYSTEM_INCLUDE or not rctx.path(d).exists:
            continue
        inside = "include_%s%d" % (tag or name, i)
        rctx.symlink(d, inside)
        includes.append(inside)
        hdrs += ["%s/%s" % (inside, g) for g in globs]
    return """
cc_library(
    name = "{name}",
    srcs = {srcs},
    hdrs = glob({hdrs}),
    defines = {defines},
    includes = {includes},
    linkopts = {linkopts},
    deps = {deps},
)
""".format(
        name = name,
        srcs = _quoted(srcs),
        hdrs = _quoted(hdrs),
        defines = _quoted(defines + f.defs),
        includes = _quoted(includes),
        linkopts = _quoted(_linkopts(f.dirs, f.libs)),
        deps = _quoted(deps),
    )

def found(rctx, name, is_found, note):
    """defs.bzl of an optional library: NAME_FOUND and NAME_NOTE."""
    rctx.file("defs.bzl", "# Written by //bazel/host.\n%s_FOUND = %s\n%s_NOTE = \"%s\"\n" % (name, is_found, name, note))

def host_rule(impl, names):
    """A repository rule that runs again when one of the named variables changes."""
    return repository_rule(
        implementation = impl,
        local = True,
        configure = True,
        environ = ["PATH", "PKG_CONFIG_PATH", "PKG_CONFIG_LIBDIR", "PKG_CONFIG_SYSROOT_DIR"] + names,
    )
