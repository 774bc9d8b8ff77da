"""Whether a training step fits into memory: said before the first one, not by the kernel."""

from __future__ import annotations

import contextlib
import os
from typing import Any

import _fmoe
from _fmoe import DataLoader, Optimizer


def predicted(model: Any, loader: DataLoader) -> dict[str, int] | None:
    """Bytes of a step by role; None where the model cannot tell."""
    plan = getattr(model, "memory_plan", None)
    return None if plan is None else plan(loader.rows, seq_len=loader.seq_len)


def available() -> int:
    """Bytes of this machine, or of the control group that the program is in."""
    limit = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for path in _limits():
        with contextlib.suppress(OSError, ValueError), open(path, encoding="ascii") as file:
            limit = min(limit, int(file.read()))
    return limit


def _limits() -> list[str]:
    """Files of the limits of the program's control group and of those around it (Slurm and systemd
    make one for a job; in a container the outermost that is seen is its own)."""
    paths = []
    with contextlib.suppress(OSError), open("/proc/self/cgroup", encoding="utf-8") as groups:
        for line in groups:
            _, kinds, folder = line.rstrip("\n").split(":", 2)
            if kinds not in ("", "memory"):
                continue
            root = "/sys/fs/cgroup" + ("/memory" if kinds else "")
            name = "memory.limit_in_bytes" if kinds else "memory.max"
            while True:
                paths.append(f"{root}{folder.rstrip('/')}/{name}")
                if folder in ("/", ""):
                    break
                folder = os.path.dirname(folder)
    return paths


def check(model: Any, loader: DataLoader, optimizer: Optimizer) -> None:
    """MemoryError where a step on the CPU needs more than there is."""
    parts = predicted(model, loader)
    if parts is None or _fmoe.dry_run() or not _fmoe.device().startswith("cpu"):
        return
    parts["moments"] = parts["moments"] * len(optimizer.moments) // 2  # the plan is for AdamW's two
    ranks = _fmoe.device_info()["ranks_on_node"]
    needed, there = sum(parts.values()) * ranks, available()
    if needed > there:
        of = f", of {ranks} ranks on this machine," if ranks > 1 else ""
        raise MemoryError(
            f"a step{of} needs {needed / 2**30:.1f} GiB, this machine has {there / 2**30:.1f}: "
            f"take a smaller batch_size, more micro_batches, or recompute='block' "
            f"({', '.join(f'{name} {n / 2**30:.1f} GiB' for name, n in parts.items())})"
        )
