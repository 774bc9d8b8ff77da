"""Training speed on a CPU, beside PyTorch in the same run.

    bazel run //:train -- bench/train_cpu.py --model S --moe moe --peer /path/to/torch/python

Prints, for a model of bench/peer_torch/shapes.py: tokens/s and GFLOP/s, their share of the measured
peak of matrix products, the time of each kernel; and, with --peer, the ratio to the fastest PyTorch
that bench/peer_torch finds, in alternating blocks of steps on the same batches of text. Medians of
block ratios. Timings mean something only on a machine that does nothing else.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time

import _fmoe
import fmoe

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "peer_torch"))

from shapes import SHAPES, flops_per_token  # noqa: E402  (found by the line above)


class Ours:
    """The model, its optimiser and its data; `run(n)` gives the seconds of n steps."""

    def __init__(self, name: str, with_experts: bool, dtype: str) -> None:
        shape = SHAPES[name]
        moe = fmoe.MoE(
            num_experts=shape.num_experts,
            d_hidden=shape.d_hidden,
            top_k=shape.top_k,
            gate="gshard",
            second_policy="all",
            every=shape.every,
        )
        data = fmoe.ByteDataset(os.path.dirname(os.__file__), pattern="*.py")
        self.loader = fmoe.DataLoader(data, batch_size=shape.batch_size, seq_len=shape.seq_len)
        self.model = fmoe.GPT(
            vocab_size=shape.vocab_size,
            n_layer=shape.n_layer,
            d_model=shape.d_model,
            n_head=shape.n_head,
            seq_len=shape.seq_len,
            d_hidden=shape.d_hidden,
            moe=moe if with_experts else None,
            dtype=dtype,
        )
        self.optimizer = fmoe.AdamW(self.model, lr=3e-4)

    def step(self) -> float:
        start = time.perf_counter()
        tokens, targets = next(self.loader)
        self.model(tokens, targets).loss.backward()
        self.optimizer.step()
        return time.perf_counter() - start

    def run(self, n: int) -> list[float]:
        return [self.step() for _ in range(n)]


class Peer:
    """bench/peer_torch in a process of its own, which runs steps on request."""

    def __init__(self, python: str, args: argparse.Namespace) -> None:
        dtype = {"float32": "fp32", "bfloat16": "bf16"}[args.dtype]
        command = [python, os.path.join(HERE, "peer_torch", "main.py")]
        command += ["--model", args.model, "--moe", args.moe, "--dtype", dtype]
        command += ["--threads", str(args.threads), "--cache", args.cache, "--steps-server"]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        while not (said := self.read()).get("ready"):
            pass
        self.setting = said["setting"]

    def read(self) -> dict:
        assert self.process.stdout
        line = self.process.stdout.readline()
        if not line:
            sys.exit("train_cpu: the peer ended before it was ready; its messages are above")
        return json.loads(line)

    def run(self, n: int) -> list[float]:
        assert self.process.stdin
        print(f"run {n}", file=self.process.stdin, flush=True)
        return self.read()["times"]


def operations(ours: Ours, steps: int) -> None:
    """The share of each kernel in the time of `steps` steps."""
    _fmoe.op_times_start()
    whole = sum(ours.run(steps))
    rows = _fmoe.op_times_stop()
    print(f"\n{'kernel':<26}{'calls':>8}{'ms/step':>10}{'share':>8}")
    for kernel, calls, seconds in rows:
        if seconds > 0.002 * whole:
            share = seconds / whole
            print(f"{kernel:<26}{calls // steps:>8}{1e3 * seconds / steps:>10.2f}{share:>8.1%}")
    rest = whole - sum(seconds for _, _, seconds in rows)
    print(f"{'outside of kernels':<26}{'':>8}{1e3 * rest / steps:>10.2f}{rest / whole:>8.1%}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", choices=sorted(SHAPES), default="S")
    parser.add_argument("--moe", choices=["moe", "dense"], default="moe")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--blocks", type=int, default=8, help="timed blocks of each side")
    parser.add_argument("--steps", type=int, default=4, help="steps of a block")
    parser.add_argument("--peer", help="a Python with PyTorch; left out: no comparison")
    parser.add_argument("--cache", default="peer_torch.json", help="the peer's best settings")
    args = parser.parse_args()
    args.threads = fmoe.device_info()["threads"]

    shape = SHAPES[args.model]
    peer = Peer(args.peer, args) if args.peer else None
    ours = Ours(args.model, args.moe == "moe", args.dtype)
    ours.run(3)
    if peer:
        peer.run(1)
    our_times: list[float] = []
    ratios: list[float] = []
    for _ in range(args.blocks):
        mine = statistics.median(ours.run(args.steps))
        our_times.append(mine)
        if peer:
            ratios.append(statistics.median(peer.run(args.steps)) / mine)
    seconds = statistics.median(our_times)
    flops = flops_per_token(shape, args.moe == "moe") * shape.tokens_per_step / seconds
    peak = _fmoe.measure_peak(args.dtype)
    load = os.getloadavg()[0]
    print(f"{args.model} {args.moe} {args.dtype}, {args.threads} threads, load {load:.1f}")
    print(f"{shape.tokens_per_step / seconds:.0f} tokens/s, {flops / 1e9:.0f} GFLOP/s, ", end="")
    print(f"{flops / peak:.0%} of the {peak / 1e9:.0f} GFLOP/s of a matrix product")
    if peer:
        print(f"ratio to PyTorch: {statistics.median(ratios):.2f} ", end="")
        print(f"(from {min(ratios):.2f} to {max(ratios):.2f}); its setting: {peer.setting}")
    operations(ours, args.steps)


if __name__ == "__main__":
    main()
