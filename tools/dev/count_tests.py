"""./dev count-tests: how many test targets each folder has, and how many are disabled."""

import argparse
from collections import Counter

from dev.common import test_targets


def main(argv: list[str]) -> int:
    argparse.ArgumentParser(prog="./dev count-tests", description=__doc__).parse_args(argv)
    tests = test_targets("tests(//...)")
    disabled = set(test_targets("attr(tags, 'disabled: ', tests(//...))"))
    folders = Counter(label.split(":")[0][2:] or "." for label in tests)
    for folder, count in sorted(folders.items()):
        print(f"{count:5}  {folder}")
    print(f"{len(tests):5}  targets, {len(disabled)} of them disabled")
    return 0
