"""A short training run in a process of its own, for tests that resume, kill or signal it.

train child.py FOLDER STEPS [--save-every N] [--sleep SECONDS] [--weights]
prints one line a step: `step N loss HEX`, and at the end `weights HASH`.
"""

import argparse
import hashlib
import json
import os
import time

import small

import fmoe


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder")
    parser.add_argument("steps", type=int)
    parser.add_argument("--save-every", type=int)
    parser.add_argument("--sleep", type=float, default=0.0)
    parser.add_argument("--dtype", default="float32")
    arguments = parser.parse_args()

    text = os.path.join(arguments.folder, "text.txt")
    if not os.path.exists(text):
        small.write_text(arguments.folder)
    fmoe.manual_seed(5)
    data = fmoe.ByteDataset(text)
    common = {"batch_size": 4, "seq_len": small.SEQ_LEN, "split_ratio": (0.9, 0.1)}
    loader = fmoe.DataLoader(data, seed=11, micro_batches=2, **common)
    valid = fmoe.DataLoader(data, split="valid", **common)
    moe = fmoe.MoE(num_experts=4, d_hidden=24, capacity_factor=1.25, z_loss_weight=0.001)
    model = small.model(dropout=0.1, moe=moe, dtype=arguments.dtype)
    optimizer = fmoe.AdamW(
        model, lr=0.01, micro_batches=2, schedule=fmoe.cosine(warmup=3, total=40, final=0.1)
    )

    def on_step(values: dict) -> None:
        print(f"step {values['step']} loss {values['loss'].hex()}", flush=True)
        time.sleep(arguments.sleep)

    trainer = fmoe.Trainer(
        model,
        optimizer,
        loader,
        eval_loader=valid,
        checkpointer=fmoe.Checkpointer(os.path.join(arguments.folder, "run")),
        save_every=arguments.save_every,
        metrics=os.path.join(arguments.folder, "metrics.jsonl"),
        log_every=1,
        on_step=on_step,
    )
    values = trainer.fit(arguments.steps)
    digest = hashlib.sha256(json.dumps(small.weights(model)).encode()).hexdigest()
    print(f"weights {digest}")
    print(f"stopped {trainer.stopped} eval {values.get('eval_loss', 0.0).hex()}")


main()
