"""A training run on any mesh, for tests that resume it on another one or kill it.

train checkpoint_child.py FOLDER STEPS [--tp N] [--ep N] [--zero N] [--save-every N] [--sleep S]
Each rank prints `pid N`; rank 0 one line a step: `step N loss HEX`, and at the end `done N`.
"""

import argparse
import os
import sys
import time

import fmoe

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(__file__)), "pyembed"))
import small  # (found by the line above)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder")
    parser.add_argument("steps", type=int)
    for name in ("tp", "ep"):
        parser.add_argument(f"--{name}", type=int, default=1)
    parser.add_argument("--zero", type=int, default=1)
    parser.add_argument("--save-every", type=int)
    parser.add_argument("--sleep", type=float, default=0.0)
    a = parser.parse_args()
    print(f"pid {os.getpid()}", flush=True)

    fmoe.manual_seed(5)
    mesh = fmoe.Mesh(tp=a.tp, ep=a.ep, zero=a.zero)
    data = fmoe.ByteDataset(os.path.join(a.folder, "text.txt"))
    loader = fmoe.DataLoader(
        data, batch_size=8, seq_len=small.SEQ_LEN, seed=11, micro_batches=2, mesh=mesh
    )
    moe = fmoe.MoE(num_experts=4, d_hidden=48, every=1)
    model = small.model(d_model=32, n_head=4, dropout=0.1, moe=moe, mesh=mesh)
    optimizer = fmoe.AdamW(
        model, lr=1e-3, micro_batches=2, schedule=fmoe.cosine(warmup=3, total=100, final=0.1)
    )

    def on_step(values: dict) -> None:
        if fmoe.rank() == 0:
            # mpirun's output is a terminal: there is a bar in the line before
            print(f"\nstep {values['step']} loss {values['loss'].hex()}", flush=True)
        time.sleep(a.sleep)

    trainer = fmoe.Trainer(
        model,
        optimizer,
        loader,
        checkpointer=fmoe.Checkpointer(os.path.join(a.folder, "run"), keep_last=2),
        save_every=a.save_every,
        log_every=1000,
        on_step=on_step,
    )
    trainer.fit(a.steps)
    if fmoe.rank() == 0:
        print(f"done {optimizer.steps}", flush=True)


main()
