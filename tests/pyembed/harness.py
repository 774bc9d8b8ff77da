"""Runs the cases of a test script: `train api.py [--only NAME]`. The last line sums them up."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable
from typing import Any

TRAIN = os.readlink("/proc/self/exe")
_cases: list[tuple[str, Callable[[], None]]] = []


class Skip(Exception):
    """Raised by a case that cannot run here; its text says what is missing."""


def case(function: Callable[[], None]) -> Callable[[], None]:
    """Registers a function as a case."""
    _cases.append((function.__name__, function))
    return function


def raises(kind: type[BaseException], call: Callable[[], Any], *words: str) -> str:
    """`call` must raise exactly `kind`, with all `words` in its message, which is returned."""
    try:
        result = call()
    except BaseException as error:
        text = str(error)
        assert type(error) is kind, f"{type(error).__name__} instead of {kind.__name__}: {text}"
        missing = [word for word in words if word not in text]
        assert not missing, f"{missing} are not in: {text}"
        return text
    raise AssertionError(f"no {kind.__name__}; the call gave {result!r}")


def close(a: Any, b: Any, tolerance: float) -> None:
    """Nested lists of numbers are equal to a relative (and, below 1, absolute) tolerance."""
    if isinstance(a, (list, tuple)):
        assert len(a) == len(b), f"{len(a)} and {len(b)} elements"
        for x, y in zip(a, b, strict=False):
            close(x, y, tolerance)
    else:
        assert abs(a - b) <= tolerance * max(1.0, abs(a), abs(b)), f"{a!r} and {b!r} differ"


def run(arguments: list[str], timeout: float = 120, **options: Any) -> Any:
    """`train` with these arguments in a process of its own, output captured."""
    return subprocess.run(
        [TRAIN, *arguments],
        capture_output=True,
        text=True,
        timeout=timeout,
        **options,
    )


def scratch() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(dir=os.environ.get("TEST_TMPDIR"))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", metavar="NAME", help="the one case to run")
    only = parser.parse_args().only
    passed = failed = skipped = 0
    for name, function in _cases:
        if only not in (None, name):
            continue
        try:
            function()
            passed += 1
        except Skip as reason:
            skipped += 1
            print(f"SKIP: {name}: {reason}")
        except Exception:
            failed += 1
            traceback.print_exc()
            print(f"FAILED: train {sys.argv[0]} --only {name}")
    if passed + failed + skipped == 0:
        sys.exit(f"there is no case {only!r}")
    print(f"{passed} passed, {failed} failed, {skipped} skipped")
    sys.exit(1 if failed else 0)
