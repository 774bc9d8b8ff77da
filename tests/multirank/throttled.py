"""FMOE_THROTTLE makes the network slow: latency and bandwidth are those that it says."""

import os
import time

import multirank
from multirank import case

import fmoe

LATENCY, BANDWIDTH = 5e-3, 50e6  # of the test's FMOE_THROTTLE


def seconds(n: int) -> float:
    """Of an all-reduce of n floats, the shortest of three."""
    x = fmoe.tensor([1.0] * n)
    fmoe.all_reduce(x)
    times = []
    for _ in range(3):
        started = time.perf_counter()
        fmoe.all_reduce(x)
        times.append(time.perf_counter() - started)
    return min(times)


@case
def as_slow_as_it_says() -> None:
    assert os.environ["FMOE_THROTTLE"] == f"{LATENCY * 1e6:.0f},{BANDWIDTH / 1e9}"
    n = 500_000
    world = fmoe.world_size()
    sent = 4 * (2 * n * (world - 1) // world)
    assert seconds(1) >= LATENCY
    assert seconds(n) >= LATENCY + sent / BANDWIDTH


@case
def waiting_costs_no_processor() -> None:
    x = fmoe.tensor([1.0] * 500_000)
    mesh = fmoe.Mesh()
    mesh.comm_stats(reset=True)
    started, used = time.perf_counter(), time.process_time()
    for _ in range(5):
        fmoe.all_reduce(x, mesh=mesh, group="world")
    whole, used = time.perf_counter() - started, time.process_time() - used
    waited = sum(row["waited"] for row in mesh.comm_stats())
    assert waited > 0.5 * whole, (waited, whole)
    assert used < 0.7 * whole, (used, whole)


multirank.main()
