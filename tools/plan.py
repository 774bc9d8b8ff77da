#!/usr/bin/env python3
"""What a GPT costs on a mesh, on paper: memory of a rank, bytes that it sends, seconds of a step.

    python3 tools/plan.py --world 64 --ep 8 --d-model 2048 --n-layer 24 --n-head 16 --seq-len 2048
        --vocab-size 50304 --num-experts 64 --d-hidden 8192 --batch-size 512 --cluster h100

Bytes and parameters are exact for even routing (tests/multirank/plan_formulas.py compares them with
real ranks); activations are an estimate; seconds are a model (step_time). docs/scaling.md has the
formulas, and how far the model is from what was measured.
"""

from __future__ import annotations

import argparse
import dataclasses

from plan_bytes import Mesh, Model, Traffic, flops_per_token, memory, num_parameters, traffic


@dataclasses.dataclass(frozen=True)
class Cluster:
    """What the machines do. Every figure is a rank's."""

    name: str
    flops: float  # per second, that the products of this model reach
    memory: float  # bytes per second, of an optimiser's update
    ranks_per_node: int
    inside: tuple[float, float]  # seconds, bytes per second: between ranks of a node
    between: tuple[float, float]  # between nodes
    overlap: float = 1.0  # share of a transfer in which the rank can compute
    ring: bool = True  # latency is paid for each rank that a message passes; else once
    source: str = ""


CLUSTERS = {
    # one thread a rank, both ranks on one machine: `bench/scaling.py` measures these for yours
    "cpu2": Cluster(
        "two ranks of one thread on a 2-vCPU Zen 4",
        flops=75e9,
        memory=15e9,
        ranks_per_node=64,
        inside=(60e-6, 2.0e9),
        between=(60e-6, 2.0e9),
        overlap=0.0,
        ring=False,
        source="of the order measured on such a machine, which was not quiet",
    ),
    "h100": Cluster(
        "8 x H100-like GPUs a node, one 400 Gbit/s port each",
        flops=400e12,
        memory=2.5e12,
        ranks_per_node=8,
        inside=(5e-6, 350e9),
        between=(15e-6, 45e9),
        source="ASSUMED, by data sheets and 40 % of the bf16 peak; fmoe has measured nothing of it",
    ),
}


def seconds_of(t: Traffic, mesh: Mesh, c: Cluster) -> float:
    """On the wire: each call's latency, and the bytes at the group's narrowest link."""
    latency, bandwidth = c.inside if mesh.span(t.group) <= c.ranks_per_node else c.between
    hops = 1
    if c.ring and t.kind != "all_to_all_v":
        hops = (mesh.ranks(t.group) - 1) * (2 if t.kind == "all_reduce" else 1)
    return t.calls * hops * latency + t.bytes / bandwidth


def _line(t: Traffic) -> str:
    """Of the table of seconds."""
    if t.when in ("backward", "update"):
        return "gradients" if t.when == "backward" else "weights"
    return "tp" if t.group == "tp" else "tokens" if t.group == "expert" else "counts"


def step_time(
    m: Model, mesh: Mesh, c: Cluster, batch_size: int, micro_batches: int = 1
) -> dict[str, float]:
    """Seconds: compute, update, each exposed transfer, and `step`, their sum.

    compute   FLOPs / rate; with recompute a forward more
    update    28 bytes a parameter (30 where weights are bf16) that this rank updates
    gradients hidden behind the last micro-batch's backward (two thirds of its compute), but for the
              last bucket; weights behind the update, but for the last bucket
    tp        forward's wait, backward's are half hidden; tokens and counts wait
    A transfer can be hidden as far as the cluster lets ranks compute meanwhile (`overlap`).
    """
    tokens = batch_size * m.seq_len / mesh.world
    compute = flops_per_token(m) * tokens / c.flops * (4 / 3 if m.recompute else 1)
    owned = memory(m, mesh, batch_size, micro_batches)["moments"] / 8
    update = owned * (30 if m.bfloat16 else 28) / c.memory
    exposed = {"gradients": 0.0, "weights": 0.0, "tokens": 0.0, "tp": 0.0, "counts": 0.0}
    room = {"backward": 2 / 3 * compute / micro_batches, "update": update}
    for t in traffic(m, mesh, batch_size, micro_batches):
        wire = seconds_of(t, mesh, c)
        hidden = 0.0
        if t.when in room:
            hidden = c.overlap * min(wire * (1 - 1 / t.calls), room[t.when])
            room[t.when] -= hidden
        elif t.when == "half":
            hidden = c.overlap * wire / 2
        exposed[_line(t)] += wire - hidden
    return {
        "compute": compute,
        "update": update,
        **exposed,
        "step": compute + update + sum(exposed.values()),
    }


# ---- the command


def human(n: float) -> str:
    for unit in ("B", "KiB", "MiB"):
        if n < 1024:
            return f"{n:.0f} {unit}" if unit == "B" else f"{n:.1f} {unit}"
        n /= 1024
    return f"{n:,.2f} GiB"


def report(m: Model, mesh: Mesh, c: Cluster, batch_size: int, micro_batches: int) -> str:
    lines = [
        f"{num_parameters(m) / 1e9:.3f} G parameters, {flops_per_token(m) / 1e9:.2f} GFLOP a token",
        f"{mesh.world} ranks: tp {mesh.tp}, dp {mesh.dp}, ep {mesh.ep}, etp {mesh.etp}, "
        f"edp {mesh.edp}, zero {mesh.zero}",
        f"{batch_size} sequences of {m.seq_len} a step, micro-batches: {micro_batches}",
        f"cluster: {c.name} ({c.source})",
        "",
        "memory of a rank",
    ]
    parts = memory(m, mesh, batch_size, micro_batches)
    for name, n in (*parts.items(), ("in all", sum(parts.values()))):
        lines.append(f"  {name:<24}{human(n):>14}")
    lines += [
        "",
        "sent by a rank in a step",
        f"  {'what':<24}{'group':<17}{'ranks':>6}  {'kind':<15}{'calls':>7}{'bytes':>14}{'ms':>10}",
    ]
    for t in traffic(m, mesh, batch_size, micro_batches):
        lines.append(
            f"  {t.what:<24}{t.group:<17}{mesh.ranks(t.group):>6}  {t.kind:<15}{t.calls:>7}"
            f"{human(t.bytes):>14}{1e3 * seconds_of(t, mesh, c):>10.2f}"
        )
    times = step_time(m, mesh, c, batch_size, micro_batches)
    lines += ["", "a step, ms (of transfers: what is not hidden)"]
    lines += [f"  {name:<24}{1e3 * s:>12.2f}" for name, s in times.items() if s > 0]
    tokens = batch_size * m.seq_len
    rate = flops_per_token(m) * tokens / mesh.world / times["step"]
    lines.append(
        f"\n{tokens / times['step']:,.0f} tokens/s; {rate / 1e9:,.0f} GFLOP/s a rank, "
        f"{times['compute'] / times['step']:.0%} of what it reaches without waiting"
    )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    numbers = {"world": 1, "tp": 1, "ep": 1, "etp": 1, "zero": 1, "micro_batches": 1}
    for name, default in numbers.items():
        parser.add_argument("--" + name.replace("_", "-"), type=int, default=default)
    parser.add_argument("--bucket", type=int, default=Mesh.bucket, help="elements; fmoe's: 4 Mi")
    parser.add_argument("--batch-size", type=int, required=True, help="sequences of a step")
    for field in dataclasses.fields(Model):
        flag = "--" + field.name.replace("_", "-")
        needed = field.default is dataclasses.MISSING
        if field.type == "bool":
            parser.add_argument(flag, action=argparse.BooleanOptionalAction, default=field.default)
        else:
            parser.add_argument(
                flag, type=int, required=needed, default=None if needed else field.default
            )
    parser.add_argument("--cluster", choices=sorted(CLUSTERS), default="h100")
    parser.add_argument("--flops", type=float, help="a rank's FLOP/s instead of the cluster's")
    parser.add_argument("--ranks-per-node", type=int)
    for link in ("inside", "between"):
        parser.add_argument(
            f"--{link}", help="link: 'latency_us,GB_per_s' instead of the cluster's", metavar="A,B"
        )
    a = parser.parse_args()
    model = Model(**{f.name: getattr(a, f.name) for f in dataclasses.fields(Model)})
    mesh = Mesh(a.world, a.tp, a.ep, a.etp, a.zero, a.bucket)
    changes = {name: getattr(a, name) for name in ("flops", "ranks_per_node") if getattr(a, name)}
    for link in ("inside", "between"):
        if getattr(a, link):
            us, gb = (float(x) for x in getattr(a, link).split(","))
            changes[link] = (us * 1e-6, gb * 1e9)
    cluster = dataclasses.replace(CLUSTERS[a.cluster], **changes)
    parts = mesh.dp * a.micro_batches
    if a.batch_size % parts:
        parser.error(
            f"--batch-size {a.batch_size} must be a multiple of dp * micro-batches = {parts}"
        )
    print(report(model, mesh, cluster, a.batch_size, a.micro_batches))


if __name__ == "__main__":
    main()
