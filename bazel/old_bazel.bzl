"""What Bazel 3.5, Ubuntu 22.04's package, lacks of 4.2; all that knows of it is here.

The rules below are those of rules_cc and rules_shell, and with 4.2 or later nothing
else. Bazel 3.5 has neither `env` nor `target_compatible_with`, so there

- a test is a sh_test that sets the environment and starts the program;
- a test that this host cannot run, or that is disabled, is a sh_test that says so
  (`SKIP: reason`), and is counted like any other skip;
- any other target that this host cannot build is tagged manual: //... leaves it out.

That is decided when BUILD files load, without --config=cuda or cpu: where a toolkit is,
what needs CUDA is built and run.
"""

load("@rules_cc//cc:defs.bzl", _cc_binary = "cc_binary", _cc_test = "cc_test")
load("@rules_shell//shell:sh_test.bzl", _sh_test = "sh_test")

# Neither package reports its version to BUILD files: ask for a function that came between.
_OLD = not hasattr(cc_common, "create_debug_context")

# What a cc_test has beside a cc_binary; args and data aside.
_OF_TESTS = ["env", "flaky", "local", "shard_count", "size", "tags", "target_compatible_with", "timeout", "visibility"]

def select_compatible(branches):
    """select() for target_compatible_with; for 3.5 its default, known when BUILD files load."""
    return branches["//conditions:default"] if _OLD else select(branches)

def if_compatible(**kwargs):
    """A rule's arguments, as the Bazel at hand takes them."""
    if _OLD and kwargs.pop("target_compatible_with", None):
        kwargs["tags"] = kwargs.get("tags", []) + ["manual"]
    return kwargs

def _quoted(word):
    """As one of a test's args, which Bazel splits like a shell. $(rootpath) is still expanded."""
    return "'%s'" % word.replace("'", "'\\''")

def _start(name, command, env, data, tags, target_compatible_with, **kwargs):
    """A test that runs command, or says why not."""
    reasons = [tag for tag in tags if tag.startswith("disabled: ")] + ["not for this machine (`needs` in its BUILD file)"]
    skip = ["echo", _quoted("SKIP: " + reasons[0].replace("$", "$$"))]
    command = [_quoted("%s=%s" % (key, value)) for key, value in env.items()] + command
    if "//bazel:disabled" in target_compatible_with:
        command = select({"//bazel:run_disabled_tests": command, "//conditions:default": skip})
    if "//bazel:never" in target_compatible_with:
        command, data = skip, []
    _sh_test(name = name, srcs = ["//bazel:run_with_env.sh"], args = command, data = data, tags = tags, **kwargs)

def _old_sh_test(srcs, args = [], data = [], **kwargs):
    _start(command = ["$(rootpath %s)" % srcs[0]] + args, data = srcs + data, **kwargs)

def _old_cc_test(name, args = [], data = [], **kwargs):
    program = name + "_program"
    of_test = {key: value for key, value in kwargs.items() if key in _OF_TESTS}
    of_program = {key: value for key, value in kwargs.items() if key not in _OF_TESTS}
    _cc_binary(name = program, data = data, tags = ["manual"], testonly = True, **of_program)
    _start(name, ["$(rootpath :%s)" % program] + args, data = [":" + program] + data, **of_test)

cc_test = _old_cc_test if _OLD else _cc_test
sh_test = _old_sh_test if _OLD else _sh_test
