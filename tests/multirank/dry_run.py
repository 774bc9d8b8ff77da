"""A dry run says what a real run of as many ranks holds and sends: the same script, both ways."""

import json
import os
import subprocess
import sys
from typing import Any

import multirank
from multirank import case

import fmoe

HERE = os.path.dirname(os.path.abspath(__file__))
TRAIN = os.readlink("/proc/self/exe")
RANK, WORLD = fmoe.rank(), fmoe.world_size()


def real(options: dict[str, Any]) -> dict[str, Any]:
    sys.path.insert(0, HERE)
    import one_step

    return one_step.run(options)


def planned(options: dict[str, Any]) -> dict[str, Any]:
    command = [TRAIN, "--dry-run", "--world-size", str(WORLD), "--rank", str(RANK)]
    command += [os.path.join(HERE, "one_step.py"), json.dumps(options)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"Dry run: rank {RANK} of {WORLD}." in done.stdout, done.stdout
    return json.loads(done.stdout.splitlines()[-1])


def compare(**options: Any) -> None:
    before = fmoe.memory()["peak"]
    plan, fact = planned(options), real(options)
    assert plan["held"] == fact["held"], (options, plan["held"], fact["held"])
    assert plan["parameters"] == fact["parameters"]
    # Routing is even in the plan; tokens of a small model choose unevenly. A peak is the program's.
    assert fact["peak"] == before or 0.8 < plan["peak"] / fact["peak"] < 1.2, (
        options,
        plan["peak"],
        fact["peak"],
    )
    ours = {(row["group"], row["kind"]): row for row in plan["sent"]}
    theirs = {(row["group"], row["kind"]): row for row in fact["sent"]}
    assert ours.keys() == theirs.keys(), (options, ours.keys() ^ theirs.keys())
    for key, row in theirs.items():
        assert ours[key]["calls"] == row["calls"], (options, key, ours[key], row)
        assert ours[key]["ranks"] == row["ranks"], (options, key, ours[key], row)
        if key[1] == "all_to_all_v":
            assert 0.6 < ours[key]["bytes"] / row["bytes"] < 1.7, (options, ours[key], row)
        else:
            assert ours[key]["bytes"] == row["bytes"], (options, key, ours[key], row)


@case
def data_parallel() -> None:
    compare(dtype="bfloat16", micro_batches=2)
    compare()
    compare(zero=0)


@case
def expert_parallel() -> None:
    for ep in (2, WORLD):
        compare(ep=ep, experts=8)
    compare(ep=2, experts=8, capacity_factor=1.0, recompute="block")


@case
def experts_that_are_split() -> None:
    compare(ep=WORLD // 2, etp=2, experts=8)


@case
def tensor_parallel() -> None:
    compare(tp=2)
    compare(tp=2, ep=WORLD, experts=8)
    compare(tp=2, ep=2, etp=WORLD // 2, experts=8, zero=0)


multirank.main()
