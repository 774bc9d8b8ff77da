"""tools/plan.py beside measured steps of two ranks, on this machine's network and on slower ones.

    python3 bench/plan_check.py --train bazel-bin/train --model S

The FLOP rate is that of two processes of one rank side by side, which compete for the machine as
two ranks do (the optimiser's update is in it); the machine's own link is what all-reduces of one
float and of 16 MB take. Slower networks are FMOE_THROTTLE's. Jobs are interleaved; medians of the
rounds' medians.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import statistics
import sys
from typing import Any

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [HERE, os.path.join(HERE, "peer_torch"), os.path.join(HERE, "..", "tools")]

import jobs  # noqa: E402  (found by the line above)
from scaling import MESHES, planned  # noqa: E402

import plan  # noqa: E402
import plan_bytes  # noqa: E402
from shapes import SHAPES  # noqa: E402

NETWORKS = [None, "200,1", "1000,0.2", "5000,0.05"]


def cluster(flops: float, network: str | None, own: tuple[float, float]) -> plan.Cluster:
    """Two ranks of this machine; on a network of its own a transfer takes the ranks' time."""
    link = own
    if network is not None:
        us, gb = (float(x) for x in network.split(","))
        link = (own[0] + us * 1e-6, 1 / (1 / (gb * 1e9) + 1 / own[1]))
    return dataclasses.replace(
        plan.CLUSTERS["cpu2"],
        flops=flops,
        memory=float("inf"),
        inside=link,
        between=link,
        overlap=0.0 if network is None else 1.0,
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--train", default="bazel-bin/train")
    parser.add_argument("--model", choices=sorted(SHAPES), default="S")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--warmup", type=int, default=1)
    args = parser.parse_args()
    shape = SHAPES[args.model]
    print(jobs.machine())
    print("also running: " + (", ".join(jobs.others()) or "nothing"))
    own = jobs.link(args.train)
    print(f"the machine's own link: {1e6 * own[0]:.0f} us, {own[1] / 1e9:.2f} GB/s")
    print(
        f"\n{args.model}: ms a step{'network':>16}{'one rank':>10}{'measured':>10}{'planned':>10}",
        end="",
    )
    print(f"{'ratio':>8}")
    ratios = []
    for name, moe, sizes in MESHES:
        job: dict[str, Any] = {"model": args.model, "moe": moe, "batch_size": shape.batch_size}
        job |= {"warmup": args.warmup, "steps": args.steps}
        pair = {**job, "batch_size": 2 * shape.batch_size, "mesh": sizes}
        alone: list[float] = []
        times: dict[str | None, list[float]] = {network: [] for network in NETWORKS}
        for _ in range(args.rounds):
            apart = [jobs.Job(args.train, 1, job) for _ in range(2)]
            alone += [statistics.median(j.result()["times"]) for j in apart]
            for network in NETWORKS:
                result = jobs.run(args.train, 2, pair, network)
                times[network].append(statistics.median(result["times"]))
        model, mesh = planned(shape, moe), plan_bytes.Mesh(world=2, **sizes)
        one = statistics.median(alone)
        flops = plan_bytes.flops_per_token(model) * shape.tokens_per_step / one
        for network in NETWORKS:
            here = cluster(flops, network, own)
            paper = plan.step_time(model, mesh, here, 2 * shape.batch_size)["step"]
            measured = statistics.median(times[network])
            ratios.append(paper / measured)
            print(f"  {name:<14}{network or 'own':>16}{1e3 * one:>10.0f}", end="")
            print(
                f"{1e3 * measured:>10.0f}{1e3 * paper:>10.0f}{paper / measured:>8.2f}", flush=True
            )
    print(f"\nplanned / measured: median {statistics.median(ratios):.2f}, ", end="")
    print(f"from {min(ratios):.2f} to {max(ratios):.2f}")
    print(jobs.machine())


if __name__ == "__main__":
    main()
