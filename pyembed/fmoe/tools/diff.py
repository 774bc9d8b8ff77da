"""train -m fmoe.tools.diff A B: what differs between two checkpoints, whatever their layouts.

A line for each array that is missing on one side, has another shape, or other values: how many
elements, the largest |a - b|, and the relative difference |a - b| / max(|a|, |b|), Euclidean norms.
Members of the state are compared as well. Exit status: 0 equal, 1 they differ, 2 trouble.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from typing import Any

import _fmoe
from fmoe.tools import folders, run


def differences(a: str, b: str, tolerance: float, arrays_only: bool) -> list[str]:
    """One line for each difference of two step_N folders."""
    one, two = _fmoe.CheckpointReader(a), _fmoe.CheckpointReader(b)
    lines = _arrays(one, two, tolerance)
    return lines if arrays_only else lines + _states(one, two)


def _arrays(
    one: _fmoe.CheckpointReader, two: _fmoe.CheckpointReader, tolerance: float
) -> list[str]:
    first = {a["name"]: a["global_shape"] for a in one.arrays}
    second = {a["name"]: a["global_shape"] for a in two.arrays}
    lines = []
    for name in sorted(first.keys() | second.keys()):
        if name not in second or name not in first:
            lines.append(f"{name}: only in {'A' if name in first else 'B'}")
        elif first[name] != second[name]:
            lines.append(f"{name}: {_shape(first[name])} in A, {_shape(second[name])} in B")
        else:
            unequal, largest, relative = one.compare(two, name)
            if unequal > 0 and not relative <= tolerance:
                lines.append(
                    f"{name}: {unequal} elements, largest difference {largest:.3g}, "
                    f"relative {relative:.3g}"
                )
    return lines


def _states(one: _fmoe.CheckpointReader, two: _fmoe.CheckpointReader) -> list[str]:
    first: dict[str, Any] = json.loads(one.state)
    second: dict[str, Any] = json.loads(two.state)
    missing = object()
    return [
        f"state: {key} is {json.dumps(first.get(key))} in A, {json.dumps(second.get(key))} in B"
        for key in sorted(first.keys() | second.keys())
        if first.get(key, missing) != second.get(key, missing)
    ]


def _shape(shape: tuple[int, ...]) -> str:
    return " x ".join(str(n) for n in shape)


def _pairs(a: str, b: str) -> tuple[list[tuple[str, str]], list[str]]:
    """What is to be compared, and in words the steps that only one of two runs has."""
    is_step = [os.path.exists(os.path.join(path, "manifest.json")) for path in (a, b)]
    if all(is_step):
        return [(a, b)], []
    if any(is_step):
        return [(folders(a)[-1], folders(b)[-1])], []
    first = {os.path.basename(path): path for path in folders(a)}
    second = {os.path.basename(path): path for path in folders(b)}
    both = sorted(first.keys() & second.keys())
    alone = sorted(first.keys() ^ second.keys())
    return (
        [(first[name], second[name]) for name in both],
        [f"{name}: only in {'A' if name in first else 'B'}" for name in alone],
    )


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="train -m fmoe.tools.diff",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("a", metavar="A", help="a step_N folder, or the folder of a run")
    parser.add_argument(
        "b",
        metavar="B",
        help="another; of two runs the steps are compared that both have, of a run and a step the "
        "run's newest",
    )
    parser.add_argument(
        "--tolerance",
        type=float,
        default=0.0,
        metavar="X",
        help="arrays count as equal up to this relative difference (default 0: every bit)",
    )
    parser.add_argument("--arrays-only", action="store_true", help="not the state")
    arguments = parser.parse_args()
    try:
        pairs, lines = _pairs(arguments.a, arguments.b)
        for a, b in pairs:
            found = differences(a, b, arguments.tolerance, arguments.arrays_only)
            prefix = f"{os.path.basename(a)}: " if len(pairs) > 1 else ""
            lines += [prefix + line for line in found]
    except (_fmoe.CheckpointError, OSError) as error:
        print(f"diff: {error}", file=sys.stderr)
        return 2
    for line in lines:
        print(line)
    return 1 if lines else 0


if __name__ == "__main__":
    run(main)
