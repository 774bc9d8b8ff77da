"""./dev test [BAZEL ARGUMENTS]: every test, or those named, and one line that sums up."""

import test_summary
from dev.common import BAZEL_OPTIONS, EVENTS, bazel


def main(argv: list[str]) -> int:
    if argv and argv[0] in ("-h", "--help"):
        print(__doc__)
        return 0
    named = any(not argument.startswith("-") for argument in argv)
    targets = argv if named else [*argv, "//..."]
    status = bazel("test", *BAZEL_OPTIONS, "--keep_going", *targets)
    counted = test_summary.report(EVENTS)
    return status or counted
