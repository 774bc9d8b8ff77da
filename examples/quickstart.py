"""A first run: a small GPT with Mixture-of-Experts layers learns to write Python.

    bazel run //:train -- examples/quickstart.py

reads the source of Python's own standard library, byte by byte; took 73 s on two cores of an EPYC
with AVX-512. It saves as it goes: stop it with Ctrl-C (or kill -9) and start it again, and it goes
on where it was and ends with the same numbers. Stopped by a signal, its exit status is 128 + the
signal's number.
"""

import argparse
import math
import os
import signal
import sys
from typing import Any

import fmoe

SEQ_LEN = 128


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--steps", type=int, default=2000, help="optimiser steps in all (2000)")
    parser.add_argument("--out", default="runs/quickstart", help="folder (runs/quickstart)")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda (auto)")
    arguments = parser.parse_args()
    if arguments.steps < 1:
        parser.error(f"--steps {arguments.steps} is not allowed: 1 and more is")
    arguments.out = os.path.expanduser(arguments.out)

    fmoe.set_device(arguments.device)
    fmoe.manual_seed(1)

    # All *.py files below the standard library's folder, one after another: tokens are bytes.
    # Installed packages, which come and go, may lie there too (site-packages).
    data = fmoe.ByteDataset(os.path.dirname(os.__file__), pattern="*.py", exclude="*-packages")
    batches: dict[str, Any] = {"batch_size": 16, "seq_len": SEQ_LEN, "split_ratio": (0.997, 0.003)}
    loader = fmoe.DataLoader(data, **batches)
    valid = fmoe.DataLoader(data, split="valid", **batches)

    # Every second layer has 8 experts, of which each token uses 2.
    moe = fmoe.MoE(
        num_experts=8, d_hidden=176, activation="swiglu", gate="gshard", second_policy="all"
    )
    model = fmoe.GPT(
        vocab_size=data.vocab_size,
        n_layer=4,
        d_model=128,
        n_head=4,
        seq_len=SEQ_LEN,
        d_hidden=352,
        activation="swiglu",
        norm="rmsnorm",
        position="rope",
        bias=False,
        moe=moe,
    )
    optimizer = fmoe.AdamW(
        model,
        lr=4e-3,
        schedule=fmoe.cosine(
            warmup=min(50, arguments.steps // 10), total=arguments.steps, final=0.1
        ),
    )
    trainer = fmoe.Trainer(
        model,
        optimizer,
        loader,
        eval_loader=valid,
        checkpointer=fmoe.Checkpointer(arguments.out),
        save_every=200,
        log_every=50,
        metrics=os.path.join(arguments.out, "metrics.jsonl"),
    )
    result = trainer.fit(arguments.steps)
    if trainer.stopped:
        if fmoe.rank() == 0:
            print("Run the same command again to go on.")
        sys.exit(128 + signal.Signals[trainer.stopped])

    model.eval()
    prompt = b"def read_file(path):\n"
    text = model.generate(prompt, max_new_tokens=300, temperature=0.6, top_k=40, seed=1)
    if fmoe.rank() > 0:
        return
    bits = result["eval_loss"] / math.log(2)
    print(f"\nvalidation loss: {bits:.3f} bits per byte (guessing blindly costs 8)\n")
    print("A sample, after the prompt 'def read_file(path):':\n")
    print(text.decode("utf-8", errors="replace"))
    print(
        f"\nThe model is in {arguments.out}. Train it longer with --steps {2 * arguments.steps} "
        "--out another/folder.\nYour own text: examples/pretrain_gpt.py --data FILE. What was "
        f"saved:\n    bazel run //:train -- -m fmoe.tools.inspect {arguments.out}"
    )


if __name__ == "__main__":
    main()
