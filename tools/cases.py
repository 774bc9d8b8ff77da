"""unittest for this tree: reports as our C tests do, so that cases can be summed up."""

import sys
import unittest


def main() -> None:
    """Runs the calling script's test cases; `--only NAME` runs those whose name holds NAME."""
    loader = unittest.TestLoader()
    if len(sys.argv) == 3 and sys.argv[1] == "--only":
        loader.testNamePatterns = [f"*{sys.argv[2]}*"]
    elif len(sys.argv) > 1:
        sys.exit(f"usage: {sys.argv[0]} [--only NAME]")
    suite = loader.loadTestsFromModule(sys.modules["__main__"])
    result = unittest.TextTestRunner(stream=sys.stdout, verbosity=2).run(suite)
    bad = len(result.failures) + len(result.errors) + len(result.unexpectedSuccesses)
    for test, reason in result.skipped:
        print(f"SKIP: {test.id()}: {reason}")
    skipped = len(result.skipped)
    if result.testsRun == 0:
        bad = 1
        print("no test case was found")
    passed = max(result.testsRun - bad - skipped, 0)
    print(f"{passed} passed, {bad} failed, {skipped} skipped")
    sys.exit(1 if bad else 0)
