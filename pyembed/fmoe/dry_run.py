"""`train --dry-run`: what a rank holds and sends in a step.

The script runs on a device that computes nothing, among ranks that are not there, and ends with the
first step of an optimiser.
"""

from __future__ import annotations

import atexit
from typing import Any, NoReturn

import _fmoe
from _fmoe import Optimizer

_reported = False


def begin() -> None:
    """Called when fmoe is imported in a dry run."""
    atexit.register(_at_exit)


def after_step(optimizer: Optimizer) -> NoReturn:
    """The report of the first step; SystemExit."""
    _report(optimizer)
    raise SystemExit(0)


def _at_exit() -> None:
    if not _reported and _fmoe.meshes():
        _report(None)


def _report(optimizer: Optimizer | None) -> None:
    global _reported
    _reported = True
    rank, size = _fmoe.rank(), _fmoe.world_size()
    print(f"\nDry run: rank {rank} of {size}. Nothing was computed; routing is taken as even.")
    for mesh in _fmoe.meshes():
        print(f"mesh: {mesh!r} zero={mesh.zero}")
    print("\nmemory of this rank")
    for name, number in memory(optimizer).items():
        print(f"  {name:<48}{_size(number):>15}")
    sent = rows()
    if size > 1:
        what = "before its end" if optimizer is None else "with what came before it"
        print(f"\nsent by this rank in the {'script' if optimizer is None else 'step'}, {what}")
        print(f"  {'group':<16}{'ranks':>6}  {'collective':<16}{'calls':>8}{'bytes':>15}")
    for row in sent:
        print(
            f"  {row['group']:<16}{row['ranks']:>6}  {row['kind']:<16}{row['calls']:>8}"
            f"{_size(row['bytes']):>15}"
        )
    if size > 1:
        print(f"  {'total':<48}{_size(sum(row['bytes'] for row in sent)):>15}")
    if optimizer is None:
        print("\nThe script ended without a step of an optimiser.")


def memory(optimizer: Optimizer | None) -> dict[str, int]:
    """Bytes by role; the last is the most at one time, in which the others are."""
    held: dict[str, int] = {} if optimizer is None else optimizer.memory()
    peak = _fmoe.memory()["peak"]
    rest = {"activations and all else, at most": peak - sum(held.values()), "in all, at most": peak}
    return {**held, **rest}


def rows() -> list[dict[str, Any]]:
    """What was sent; the world's groups are one, whatever the mesh."""
    found: list[dict[str, Any]] = []
    for i, mesh in enumerate(_fmoe.meshes()):
        found += [row for row in mesh.comm_stats() if i == 0 or row["group"] != "world"]
    return found


def _size(n: int) -> str:
    if n < 10 * 1024:
        return f"{n} B"
    unit, power = ("MiB", 20) if n < 10 * 2**30 else ("GiB", 30)
    return f"{n / 2**power:,.2f} {unit}"
