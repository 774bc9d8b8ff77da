"""Trains a small GPT on whatever mesh it is told, and leaves what can be compared.

    train parity_run.py '{"out": FOLDER, "data": FILE, "mesh": {"tp": 2}, "gate": "naive", ...}'

FOLDER/losses.json: of each step. FOLDER/rank_N.json, .bin: this rank's shards, float32.
"""

import array
import contextlib
import json
import os
import sys
from typing import Any

import fmoe

STEPS, BATCH, SEQ = 30, 16, 16


def build(config: dict, mesh: fmoe.Mesh) -> fmoe.GPT:
    moe = fmoe.MoE(
        num_experts=8,
        d_hidden=32,
        gate=config["gate"],
        capacity_factor=config["capacity"],
        aux_loss_weight=0.02,
        z_loss_weight=0.001,
        num_shared_experts=1,
        jitter=0.01 if config["gate"] == "switch" else 0.0,
        every=2,
    )
    return fmoe.GPT(
        vocab_size=131,
        n_layer=2,
        d_model=32,
        n_head=4,
        seq_len=SEQ,
        dropout=0.1,
        moe=moe,
        mesh=mesh,
        recompute=config["recompute"],
    )


def masked(targets: fmoe.Tensor, step: int, first_row: int) -> list[list[int]]:
    """Some targets are ignored, more of them in some sequences than in others."""
    rows = targets.tolist()
    for r, row in enumerate(rows):
        for c in range(len(row)):
            if (step + 3 * (first_row + r) + 5 * c) % (4 + (first_row + r) % 5) == 0:
                row[c] = -1
    return rows


def train(config: dict, mesh: fmoe.Mesh, model: fmoe.GPT) -> list[float]:
    micro = config["micro_batches"]
    optimizer = fmoe.AdamW(
        model, lr=3e-4, micro_batches=micro, schedule=fmoe.constant(10), weight_decay=0.1
    )
    loader = fmoe.DataLoader(
        fmoe.ByteDataset(config["data"]),
        batch_size=BATCH,
        seq_len=SEQ,
        seed=1,
        mesh=mesh,
        micro_batches=micro,
    )
    losses = []
    for step in range(STEPS):
        for _ in range(micro):
            tokens, targets = next(loader)
            model(tokens, masked(targets, step, mesh.dp_rank * loader.rows)).loss.backward()
        losses.append(optimizer.step().loss)
    return losses


def dump(folder: str, model: fmoe.GPT) -> None:
    values, table = array.array("f"), []
    for name, p in model.named_parameters():
        own = memoryview(p).cast("B").cast("f")
        table.append(
            {
                "name": name,
                "shape": p.global_shape,
                "boxes": p.placement["boxes"],
                "start": len(values),
                "stop": len(values) + len(own),
            }
        )
        values.extend(own)
    stem = os.path.join(folder, f"rank_{fmoe.rank()}")
    with open(stem + ".bin", "wb") as file:
        values.tofile(file)
    with open(stem + ".json", "w", encoding="utf-8") as file:
        json.dump(table, file)


def main() -> None:
    config = json.loads(sys.argv[1])
    fmoe.manual_seed(config["seed"])
    mesh = fmoe.Mesh(**config["mesh"])
    model = build(config, mesh)
    if "record" in config:
        routing: Any = fmoe.record(model, config["record"])
    elif "replay" in config:
        routing = fmoe.replay(model, config["replay"])
    else:
        routing = contextlib.nullcontext()
    with routing:
        losses = train(config, mesh, model)
    dump(config["out"], model)
    if fmoe.rank() == 0:
        with open(os.path.join(config["out"], "losses.json"), "w", encoding="utf-8") as file:
            json.dump(losses, file)


main()
