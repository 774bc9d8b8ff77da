"""Two ranks of one thread each beside one: tokens/s, what they send, what they wait for.

    python3 bench/scaling.py --train bazel-bin/train --model M

Jobs are interleaved, so that all see the same machine: one rank; two processes of one rank that
know nothing of each other (the ceiling: they share caches and memory as two ranks do); two ranks,
of twice the work (weak) and of the same (strong). Medians of the rounds' medians.

    efficiency       tokens/s of two ranks / (2 · tokens/s of one rank that has the machine alone)
    of the ceiling   tokens/s of two ranks / tokens/s of the two processes together
    processor time   of rank 0 for a token, beside the one rank's: hardly depends on what else runs

A machine that does something else makes the figures worthless: what else runs is printed.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
from typing import Any

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [HERE, os.path.join(HERE, "peer_torch"), os.path.join(HERE, "..", "tools")]

import jobs  # noqa: E402  (found by the line above)

import plan_bytes  # noqa: E402
from shapes import SHAPES, Shape  # noqa: E402

# name, experts, mesh
MESHES: list[tuple[str, bool, dict[str, int]]] = [
    ("dp2", False, {"zero": 1}),
    ("dp2 zero 0", False, {"zero": 0}),
    ("ep2", True, {"ep": 2}),
    ("tp2", False, {"tp": 2}),
]


def planned(shape: Shape, moe: bool) -> plan_bytes.Model:
    return plan_bytes.Model(
        vocab_size=shape.vocab_size,
        n_layer=shape.n_layer,
        d_model=shape.d_model,
        n_head=shape.n_head,
        seq_len=shape.seq_len,
        d_hidden=shape.d_hidden,
        num_experts=shape.num_experts if moe else 0,
        top_k=shape.top_k,
        every=shape.every,
    )


def processor(results: list[dict[str, Any]]) -> float:
    return statistics.median(statistics.median(r["used"]) for r in results)


def speed(results: list[dict[str, Any]], tokens: int) -> float:
    return tokens / statistics.median(statistics.median(r["times"]) for r in results)


class Bench:
    def __init__(self, args: argparse.Namespace, folder: str) -> None:
        self.args = args
        self.shape = SHAPES[args.model]
        self.folder, self.settled = folder, False  # weights whose routing has settled

    def job(self, moe: bool, sequences: int, **more: object) -> dict[str, Any]:
        return {
            "model": self.args.model,
            "moe": moe,
            "batch_size": sequences,
            "warmup": self.args.warmup,
            "steps": self.args.steps,
            **more,
        }

    def compare(self, name: str, moe: bool, mesh: dict[str, int]) -> None:
        train, B = self.args.train, self.shape.batch_size
        if moe and not self.settled:
            jobs.run(train, 1, self.job(moe, B, settle=self.args.settle, folder=self.folder))
            self.settled = True
        folder = {"folder": self.folder} if moe else {}
        one, weak, strong = (self.job(moe, n, **folder) for n in (B, 2 * B, B))
        weak["mesh"] = strong["mesh"] = mesh
        alone: list[dict[str, Any]] = []
        apart: list[dict[str, Any]] = []
        wide: list[dict[str, Any]] = []
        same: list[dict[str, Any]] = []
        for _ in range(self.args.rounds):
            alone.append(jobs.run(train, 1, one))
            pair = [jobs.Job(train, 1, one) for _ in range(2)]
            apart += [p.result() for p in pair]
            wide.append(jobs.run(train, 2, weak))
            same.append(jobs.run(train, 2, strong))
        tokens = B * self.shape.seq_len
        base, ceiling = speed(alone, tokens), 2 * speed(apart, tokens)
        both, split = speed(wide, 2 * tokens), speed(same, tokens)
        print(f"\n{self.args.model} {'MoE' if moe else 'dense'} {name}, tokens/s")
        print(f"  one rank                    {base:9.0f}")
        print(
            f"  two processes, apart        {ceiling:9.0f}   {ceiling / (2 * base):.2f} of 2 x one"
        )
        print(
            f"  two ranks, twice the work   {both:9.0f}   efficiency {both / (2 * base):.2f}, ",
            end="",
        )
        print(f"of the ceiling {both / ceiling:.2f}")
        print(f"  two ranks, the same work    {split:9.0f}   speed-up {split / base:.2f}")
        more = processor(wide) / processor(alone)
        print(f"  processor time a token, two ranks / one: {more:.2f}; ", end="")
        print(f"apart / one: {processor(apart) / processor(alone):.2f}")
        if mesh.get("ep", 1) > 1:
            uneven = statistics.mean(u for r in wide for u in r["uneven"])
            print(f"  tokens of the busier rank over the mean: {uneven:.2f}")
        self.sent(moe, mesh, 2 * B, wide[-1])

    def sent(
        self, moe: bool, sizes: dict[str, int], sequences: int, result: dict[str, Any]
    ) -> None:
        """What the last job sent in a step, and the formulas' bytes."""
        n, step = len(result["times"]), statistics.median(result["times"])
        mesh = plan_bytes.Mesh(world=2, **sizes)
        expected: dict[tuple[str, str], int] = {}
        for row in plan_bytes.traffic(planned(self.shape, moe), mesh, sequences):
            key = (row.group, row.kind)
            expected[key] = expected.get(key, 0) + row.bytes
        print(f"  a step of {1e3 * step:.0f} ms sends   calls      bytes   formula   ms waited")
        for row in result["sent"]:
            formula = expected.get((row["group"], row["kind"]))
            share = "     few" if formula is None else f"{row['bytes'] / n / formula:8.3f}"
            print(
                f"  {row['group']:<10}{row['kind']:<16}{row['calls'] / n:>8.0f}"
                f"{row['bytes'] / n:>11.0f}  {share}{1e3 * row['waited'] / n:>12.1f}"
            )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--train", default="bazel-bin/train")
    parser.add_argument("--model", choices=sorted(SHAPES), default="M")
    parser.add_argument("--only", help="one mesh: " + ", ".join(name for name, _, _ in MESHES))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=6, help="timed ones of a job")
    parser.add_argument("--warmup", type=int, default=2)
    text = "a model with experts is trained so long first: fresh routers are very uneven"
    parser.add_argument("--settle", type=int, default=60, help=text)
    args = parser.parse_args()
    print(jobs.machine())
    running = jobs.others()
    print("also running: " + (", ".join(running) if running else "nothing"))
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(args, folder)
        for name, moe, mesh in MESHES:
            if args.only in (None, name):
                bench.compare(name, moe, mesh)
    print(f"\n{jobs.machine()}")


if __name__ == "__main__":
    main()
