"""One step of a small model: what it held and sent. `train one_step.py JSON` prints it."""

import json
import sys
from typing import Any

import fmoe


def run(options: dict[str, Any]) -> dict[str, Any]:
    o = dict(options)
    mesh = fmoe.Mesh(**{name: o.pop(name) for name in ("tp", "ep", "etp", "zero") if name in o})
    micro_batches = o.pop("micro_batches", 1)
    if "experts" in o:
        capacity = o.pop("capacity_factor", None)
        o["moe"] = fmoe.MoE(num_experts=o.pop("experts"), d_hidden=96, capacity_factor=capacity)
    fmoe.manual_seed(1)
    model = fmoe.GPT(vocab_size=128, n_layer=4, d_model=64, n_head=4, seq_len=64, mesh=mesh, **o)
    optimizer = fmoe.AdamW(model, lr=1e-3, micro_batches=micro_batches)
    tokens = [[(i * i * 3 + 5 * b + 7 * mesh.dp_rank) % 128 for i in range(64)] for b in range(8)]
    mesh.comm_stats(reset=True)
    found: dict[str, Any] = {}
    try:
        for _ in range(micro_batches):
            model(tokens, tokens).loss.backward()
        optimizer.step()
    finally:
        found["sent"] = [
            {key: row[key] for key in ("group", "ranks", "kind", "calls", "bytes")}
            for row in mesh.comm_stats()
        ]
        found["held"] = optimizer.memory()
        found["peak"] = fmoe.memory()["peak"]
        found["parameters"] = model.num_parameters()
        found["flops_per_token"] = model.flops_per_token()
        found["predicted"] = model.memory_plan(8)
        if __name__ == "__main__":
            print(json.dumps(found))
    return found


if __name__ == "__main__":
    run(json.loads(sys.argv[1]))
