"""./dev check: what should hold before a commit, in under two minutes once built.

Layout (clang-format, ruff), text (line endings, blanks), layers (who includes whom),
then everything is built with warnings as errors, and the tests tagged "fast" are run
(every small one is). Exit status: 0 good, 1 bad, 125 where it cannot be built (git bisect
run then skips the revision).
"""

import argparse
import time

import test_summary
from dev import layers, layout, text
from dev.common import BAZEL_OPTIONS, CANNOT_BUILD, EVENTS, ROOT, bazel, tracked


def static_checks() -> bool:
    """Everything that needs no build; prints what is wrong."""
    names = tracked()
    checks = {
        "C layout": lambda: layout.check_c(tracked(*layout.C_PATTERNS)),
        "Python lint": lambda: layout.check_python(layout.python_files()),
        "text": lambda: (text.check(ROOT, names), ""),
        "layers": lambda: (layers.check(ROOT, names), ""),
    }
    good = True
    for what, run in checks.items():
        found, skipped = run()
        print(f"{what}: {f'skipped: {skipped}' if skipped else f'{len(found)} problems'}")
        for message in found:
            print(f"  {message}")
        good = good and not found
    return good


def build_and_test() -> int:
    if bazel("build", *BAZEL_OPTIONS, "--config=quiet", "//...") != 0:
        return CANNOT_BUILD
    options = [*BAZEL_OPTIONS, "--config=quiet", "--keep_going", "--test_tag_filters=fast"]
    status = bazel("test", *options, "//...")
    return max(status, test_summary.report(EVENTS))


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="./dev check", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--no-build", action="store_true", help="layout, text and layers alone")
    options = parser.parse_args(argv)
    begin = time.monotonic()
    good = static_checks()
    status = 0 if options.no_build else build_and_test()
    verdict = "good" if good and status == 0 else "bad"
    if status == CANNOT_BUILD:
        verdict = "cannot be built"
    print(f"check: {verdict}, {time.monotonic() - begin:.0f} s")
    if status == CANNOT_BUILD:
        return status
    return 0 if verdict == "good" else 1
