"""Runs the cases of a script on all ranks: `mpirun -n 2 train ranks.py [--only NAME]`.

The first failure ends the job: the other ranks are somewhere inside the case, perhaps waiting for
the one that failed. Rank 0 prints the last line, which sums up.
"""

from __future__ import annotations

import argparse
import sys
import traceback
from collections.abc import Callable

import fmoe

_cases: list[tuple[str, Callable[[], None]]] = []


def case(function: Callable[[], None]) -> Callable[[], None]:
    """Registers a function as a case; all ranks call it."""
    _cases.append((function.__name__, function))
    return function


def gather(number: float) -> list[float]:
    """`number` of each rank, on all ranks."""
    return fmoe.all_gather(fmoe.tensor([float(number)])).tolist()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", metavar="NAME", help="the one case to run")
    only = parser.parse_args().only
    passed = 0
    for name, function in _cases:
        if only not in (None, name):
            continue
        try:
            function()
        except Exception:
            traceback.print_exc()
            print(f"FAILED: mpirun -n {fmoe.world_size()} train {sys.argv[0]} --only {name}")
            print(f"{passed} passed, 1 failed, 0 skipped")
            sys.exit(1)
        passed += 1
    if passed == 0:
        sys.exit(f"there is no case {only!r}")
    if fmoe.rank() == 0:
        print(f"{passed} passed, 0 failed, 0 skipped")
