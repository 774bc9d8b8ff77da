"""Whether a training step fits into memory: said before the first one, not by the kernel."""

from __future__ import annotations

import contextlib
import os
from typing import Any

import _fmoe
from _fmoe import DataLoader


def predicted(model: Any, loader: DataLoader) -> dict[str, int] | None:
    """Bytes of a step by role; None where the model cannot tell."""
    plan = getattr(model, "memory_plan", None)
    return None if plan is None else plan(loader.rows, seq_len=loader.seq_len)


def available() -> int:
    """Bytes of this machine, or of the control group that the program is in."""
    limit = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        with contextlib.suppress(OSError, ValueError), open(path, encoding="ascii") as file:
            limit = min(limit, int(file.read()))
    return limit


def check(model: Any, loader: DataLoader) -> None:
    """MemoryError where a step on the CPU needs more than there is."""
    parts = predicted(model, loader)
    if parts is None or not _fmoe.device().startswith("cpu"):
        return
    needed, there = sum(parts.values()), available()
    if needed > there:
        raise MemoryError(
            f"a step needs {needed / 2**30:.1f} GiB, this machine has {there / 2**30:.1f}: "
            f"take a smaller batch_size, more micro_batches, or recompute='block' "
            f"({', '.join(f'{name} {n / 2**30:.1f} GiB' for name, n in parts.items())})"
        )
