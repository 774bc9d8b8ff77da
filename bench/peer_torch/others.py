"""How much of the machine other processes used, from the kernel's counters."""

import os
import pathlib
import time

STAT = pathlib.Path("/proc/stat")
IDLE = (3, 4)  # of user nice system idle iowait irq softirq steal


def busy_seconds() -> float:
    """Of all cores together since boot; what the hypervisor took from us counts as busy."""
    fields = [int(word) for word in STAT.read_text().split("\n", 1)[0].split()[1:9]]
    ticks = sum(value for i, value in enumerate(fields) if i not in IDLE)
    return ticks / os.sysconf("SC_CLK_TCK")


def own_seconds() -> float:
    times = os.times()
    return times.user + times.system


class Others:
    """`cores()`: the average number of cores that others kept busy since the last call."""

    def __init__(self) -> None:
        self.known = STAT.exists()
        self.last = self.now()

    def now(self) -> tuple[float, float]:
        return time.perf_counter(), busy_seconds() - own_seconds() if self.known else 0.0

    def cores(self) -> float:
        before, self.last = self.last, self.now()
        elapsed, used = (b - a for a, b in zip(before, self.last, strict=True))
        return max(0.0, used / elapsed)
