"""One rank of bench/scaling.py and bench/plan_check.py: `train bench/scaling_rank.py JSON`.

Trains a model of bench/peer_torch/shapes.py, and prints on rank 0 one line of JSON: seconds of each
timed step and of the processor in it, what was sent, how long it waited, the busiest rank's tokens
over the mean; with "profile" the seconds of each kernel. With "settle" it trains that many steps,
with a warmup, and leaves the weights in "folder"; with "folder" alone it begins with them: a fresh
router sends nearly all tokens to few experts.
"""

import json
import os
import sys
import time

import _fmoe
import fmoe

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "peer_torch"))

from shapes import SHAPES  # noqa: E402  (found by the line above)


def link() -> tuple[float, float]:
    """Latency in seconds and bytes a second of an all-reduce, as a line through two sizes."""
    seconds, sent = [], []
    mesh = fmoe.Mesh()
    for n in (1, 4 << 20):
        x = fmoe.tensor([0.0] * n)
        times = []
        for _ in range(8):
            mesh.comm_stats(reset=True)
            start = time.perf_counter()
            fmoe.all_reduce(x, mesh=mesh, group="dp")
            times.append(time.perf_counter() - start)
        seconds.append(sorted(times)[3])
        sent.append(sum(row["bytes"] for row in mesh.comm_stats()))
    return seconds[0], (sent[1] - sent[0]) / max(seconds[1] - seconds[0], 1e-9)


def settle(model: fmoe.GPT, loader: fmoe.DataLoader, steps: int) -> None:
    optimizer = fmoe.AdamW(model, lr=3e-4, schedule=fmoe.constant(steps * 4 // 5))
    for _ in range(steps):
        tokens, targets = next(loader)
        model(tokens, targets).loss.backward()
        optimizer.step()


def unevenness(model: fmoe.GPT, ep: int) -> float:
    """Tokens of the busiest ep rank over the mean, in the mean over the MoE layers."""
    ratios = []
    for layer in model.moe_stats():
        counts = layer["tokens_per_expert"]
        own = len(counts) // ep
        sums = [sum(counts[r * own : (r + 1) * own]) for r in range(ep)]
        ratios.append(max(sums) * ep / sum(sums))
    return sum(ratios) / len(ratios) if ratios else 1.0


def main() -> None:
    job = json.loads(sys.argv[1])
    if job.get("link"):
        measured = link()
        if fmoe.rank() == 0:
            print("RESULT " + json.dumps({"link": measured}), flush=True)
        return
    shape = SHAPES[job["model"]]
    mesh = fmoe.Mesh(**job.get("mesh", {}))
    moe = fmoe.MoE(
        num_experts=shape.num_experts,
        d_hidden=shape.d_hidden,
        top_k=shape.top_k,
        gate="gshard",
        second_policy="all",
        every=shape.every,
    )
    model = fmoe.GPT(
        vocab_size=shape.vocab_size,
        n_layer=shape.n_layer,
        d_model=shape.d_model,
        n_head=shape.n_head,
        seq_len=shape.seq_len,
        d_hidden=shape.d_hidden,
        moe=moe if job["moe"] else None,
        mesh=mesh,
    )
    data = fmoe.ByteDataset(os.path.dirname(os.__file__), pattern="*.py", exclude="*-packages")
    loader = fmoe.DataLoader(data, batch_size=job["batch_size"], seq_len=shape.seq_len, mesh=mesh)
    store = fmoe.Checkpointer(job["folder"], asynchronous=False) if "folder" in job else None
    if store and "settle" in job:
        settle(model, loader, job["settle"])
        store.save(0, model=model)
        print("RESULT {}", flush=True)
        return
    if store:
        store.load(model=model)
    optimizer = fmoe.AdamW(model, lr=1e-5)
    times, used, uneven = [], [], []
    for step in range(job["warmup"] + job["steps"]):
        if step == job["warmup"]:
            mesh.comm_stats(reset=True)
            if job.get("profile"):
                _fmoe.op_times_start()
        start, processor = time.perf_counter(), time.process_time()
        tokens, targets = next(loader)
        model(tokens, targets).loss.backward()
        optimizer.step()
        times.append(time.perf_counter() - start)
        used.append(time.process_time() - processor)
        uneven.append(unevenness(model, mesh.ep))
    kernels = _fmoe.op_times_stop() if job.get("profile") else []
    sent = mesh.comm_stats()
    if fmoe.rank() == 0:
        first = job["warmup"]
        result = {"times": times[first:], "used": used[first:], "sent": sent, "kernels": kernels}
        result["uneven"] = uneven[first:]
        print("RESULT " + json.dumps(result), flush=True)


main()
