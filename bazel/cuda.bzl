"""cuda_library: .cu files through nvcc, linked like any cc_library.

The sandbox holds only declared headers; of those, nvcc's -MD list says which
were read, and a change to the others does not rebuild the object.
"""

load("@bazel_tools//tools/cpp:toolchain_utils.bzl", "find_cpp_toolchain")
load("@cuda//:defs.bzl", "CUDA_CODES", "CUDA_FOUND", "CUDA_NOTE")
load("//bazel:old_bazel.bzl", "if_compatible", "select_compatible")

StringSetting = provider(fields = ["value"])

def _string_setting_impl(ctx):
    if ctx.attr.values and ctx.build_setting_value not in ctx.attr.values:
        fail("%s: %s is not one of %s" % (ctx.label, ctx.build_setting_value, ctx.attr.values))
    return [StringSetting(value = ctx.build_setting_value)]

string_setting = rule(
    implementation = _string_setting_impl,
    build_setting = config.string(flag = True),
    attrs = {"values": attr.string_list()},
)

def _arch_flags(archs):
    """80,90a,100a+ptx -> -gencode for each; '+ptx' adds PTX for later GPUs."""
    flags = []
    for arch in archs.split(","):
        sm, _, ptx = arch.partition("+")
        code = "sm_" + sm.rstrip("af")  # nvcc lists the families without their letters
        if CUDA_CODES and code not in CUDA_CODES:
            fail("--//bazel:cuda_archs=%s: this nvcc (%s) does not know %s; it knows %s" % (archs, CUDA_NOTE, code, ", ".join(CUDA_CODES)))
        flags += ["-gencode", "arch=compute_%s,code=sm_%s" % (sm, sm)]
        if ptx == "ptx":
            flags += ["-gencode", "arch=compute_%s,code=compute_%s" % (sm, sm)]
    return flags

def _cuda_library_impl(ctx):
    if not CUDA_FOUND:
        fail("%s needs the CUDA toolkit, and none was found (CUDA_HOME, /usr/local/cuda, nvcc in PATH)" % ctx.label)
    toolchain = find_cpp_toolchain(ctx)
    features = cc_common.configure_features(
        ctx = ctx,
        cc_toolchain = toolchain,
        requested_features = ctx.features,
        unsupported_features = ctx.disabled_features,
    )
    merged = cc_common.merge_cc_infos(cc_infos = [d[CcInfo] for d in ctx.attr.deps])
    cc = merged.compilation_context
    archs = ctx.attr._archs[StringSetting].value
    mode = ctx.var["COMPILATION_MODE"]
    objects = []
    for src in ctx.files.srcs:
        stem = "_cuda/%s/%s" % (ctx.label.name, src.basename)
        obj = ctx.actions.declare_file(stem + ".pic.o")
        unused = ctx.actions.declare_file(stem + ".unused")
        headers = depset(ctx.files.hdrs + ctx.files.textual_hdrs, transitive = [cc.headers])

        listing = ctx.actions.args()
        listing.add_all(headers)
        listing.use_param_file("%s", use_always = True)
        listing.set_param_file_format("multiline")

        args = ctx.actions.args()
        args.add("-x", "cu")
        args.add("-c", src)
        args.add("-o", obj)
        args.add("-std=c++17")
        args.add_all({"opt": ["-O3", "-DNDEBUG"], "dbg": ["-g", "-lineinfo"], "fastbuild": ["-O1"]}[mode])
        args.add_all(_arch_flags(archs))
        args.add("-t", "0" if mode == "opt" else "1")
        args.add("-ccbin", toolchain.compiler_executable)
        args.add("-Xcompiler", "-fPIC,-fvisibility=hidden,-Wall,-Wno-unused-function")
        if ctx.attr._werror[StringSetting].value == "on":
            args.add("-Werror", "all-warnings")

        # --config=hostile defines something by --copt.
        args.add_all([c for c in ctx.fragments.cpp.copts if c.startswith("-D")])
        args.add_all(ctx.attr.copts)
        args.add_all(cc.defines, format_each = "-D%s")
        args.add_all(ctx.attr.local_defines, format_each = "-D%s")
        args.add("-I.")
        args.add("-I" + ctx.bin_dir.path)
        args.add_all(cc.includes, format_each = "-I%s")
        args.add_all(cc.system_includes, before_each = "-isystem")
        ctx.actions.run(
            executable = ctx.executable._wrapper,
            arguments = [unused.path, ctx.file._nvcc.path, listing, args],
            inputs = depset([src, ctx.file._nvcc, ctx.file._version], transitive = [headers, toolchain.all_files]),
            outputs = [obj, unused],
            unused_inputs_list = unused,
            mnemonic = "CudaCompile",
            progress_message = "Compiling %s with nvcc (%s)" % (src.short_path, archs),
            env = {"PATH": "/usr/bin:/bin", "TMPDIR": "/tmp"},
        )
        objects.append(obj)

    linking, outputs = cc_common.create_linking_context_from_compilation_outputs(
        actions = ctx.actions,
        name = ctx.label.name,
        feature_configuration = features,
        cc_toolchain = toolchain,
        compilation_outputs = cc_common.create_compilation_outputs(
            objects = depset(objects),
            pic_objects = depset(objects),
        ),
        linking_contexts = [d[CcInfo].linking_context for d in ctx.attr.deps],
        disallow_dynamic_library = True,
    )
    own = CcInfo(
        compilation_context = cc_common.create_compilation_context(
            headers = depset(ctx.files.hdrs),
            # For C that says which GPUs it was built for.
            defines = depset(["FM_CUDA_ARCHS=" + archs]),
        ),
        linking_context = linking,
    )
    return [
        DefaultInfo(files = depset(objects)),
        OutputGroupInfo(compilation_outputs = depset(objects)),
        cc_common.merge_cc_infos(direct_cc_infos = [own], cc_infos = [d[CcInfo] for d in ctx.attr.deps]),
    ]

_cuda_library = rule(
    implementation = _cuda_library_impl,
    attrs = {
        "srcs": attr.label_list(allow_files = [".cu"]),
        "hdrs": attr.label_list(allow_files = [".h", ".cuh"]),
        "textual_hdrs": attr.label_list(allow_files = True),
        "deps": attr.label_list(providers = [CcInfo]),
        "copts": attr.string_list(),
        "local_defines": attr.string_list(),
        "_archs": attr.label(default = "//bazel:cuda_archs"),
        "_werror": attr.label(default = "//bazel:werror"),
        "_nvcc": attr.label(default = "@cuda//:nvcc.sh", allow_single_file = True),
        "_version": attr.label(default = "@cuda//:version.txt", allow_single_file = True),
        "_wrapper": attr.label(default = "//bazel:nvcc_action.sh", allow_single_file = True, executable = True, cfg = "exec"),
        "_cc_toolchain": attr.label(default = "@bazel_tools//tools/cpp:current_cc_toolchain"),
    },
    fragments = ["cpp"],
    toolchains = ["@bazel_tools//tools/cpp:toolchain_type"],
)

def cuda_library(name, **kwargs):
    _cuda_library(name = name, **if_compatible(**kwargs))

def _branches(yes, no):
    return {
        "//bazel:cuda_off": no,
        "//bazel:cuda_on": yes,
        "//conditions:default": yes if CUDA_FOUND else no,
    }

def if_cuda(yes, no = []):
    """yes where CUDA is used: found and not turned off, or asked for."""
    return select(_branches(yes, no))

def needs_cuda():
    """For target_compatible_with: the target is skipped where CUDA is not used."""
    return select_compatible(_branches([], ["//bazel:never"]))
