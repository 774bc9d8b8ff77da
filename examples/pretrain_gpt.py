"""Pretrains a GPT, dense or with Mixture-of-Experts layers, on a text file or a folder.

    bazel run //:train -- examples/pretrain_gpt.py --data corpus/ --num-experts 8 --out runs/first

Tokens are bytes. Every option of fmoe.GPT and fmoe.MoE is an option here, under the same name. Run
it again with the same --out and it goes on.
"""

import argparse
import math
import os
from collections.abc import Sequence
from typing import Any

import fmoe

# What the command line's defaults are where the classes have none.
GPT_DEFAULTS = {"vocab_size": 256, "n_layer": 4, "d_model": 256, "n_head": 8, "seq_len": 256}
MOE_DEFAULTS = {"d_hidden": None}


def add_options(
    group: Any,
    cls: Any,
    defaults: dict[str, Any],
    prefix: str = "",
    taken: Sequence[str] = (),
) -> list[str]:
    """An option for each argument of `cls` that a command line can give; returns their names.
    Those that are taken get the prefix."""
    names = []
    for row in cls.options():
        name, default = row["name"], defaults.get(row["name"], row["default"])
        if name in ("moe", "mesh"):
            continue
        names.append(name)
        flag = "--" + (prefix * (name in taken) + name).replace("_", "-")
        text = row["doc"] + ("" if default is None else f" (default: {default})")
        text = text.replace("%", "%%")
        options: dict[str, Any] = {"dest": prefix + name, "default": default, "help": text}
        if row["type"] == "bool":
            group.add_argument(flag, action=argparse.BooleanOptionalAction, **options)
            continue
        if name == "every":
            options["type"] = layers
        elif row["type"].startswith(("int", "float")):
            options["type"] = int if row["type"].startswith("int") else float
        group.add_argument(flag, choices=row["choices"] or None, metavar=name.upper(), **options)
    return names


def layers(text: str) -> int | list[int]:
    """'2', or '0,3,5'."""
    numbers = [int(part) for part in text.split(",")]
    return numbers if "," in text else numbers[0]


def parse() -> tuple[argparse.Namespace, list[str], list[str]]:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    run = parser.add_argument_group("the run")
    run.add_argument(
        "--data", help="a text file, or a folder of them (default: Python's standard library)"
    )
    run.add_argument("--pattern", help="of a folder, the files to take: '*.txt' (default: all)")
    run.add_argument("--out", help="folder of checkpoints and metrics (default: nothing is saved)")
    run.add_argument("--metrics", help="file of JSON lines (default: metrics.jsonl in --out)")
    run.add_argument("--steps", type=int, default=1000, help="optimiser steps in all")
    run.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    run.add_argument("--seed", type=int, default=0, help="of weights, order of samples, noise")
    run.add_argument("--batch-size", type=int, default=16, help="sequences of a step")
    run.add_argument("--micro-batches", type=int, default=1, help="parts of a step's batch")
    run.add_argument("--valid", type=float, default=0.01, help="share kept for evaluation")
    run.add_argument("--eval-every", type=int, help="steps (default: at the end)")
    run.add_argument("--save-every", type=int, default=200, help="steps")
    run.add_argument("--keep-last", type=int, default=3, help="checkpoints that are kept")
    run.add_argument("--log-every", type=int, default=10, help="steps")
    run.add_argument("--max-skipped-steps", type=int, default=0, help="non-finite ones in a row")
    run.add_argument("--sample", default="", help="a text that is continued at the end")

    opt = parser.add_argument_group("the optimiser")
    opt.add_argument("--optimizer", choices=("adamw", "sgd"), default="adamw")
    opt.add_argument("--lr", type=float, default=1e-3, help="base learning rate")
    opt.add_argument("--betas", type=float, nargs=2, default=(0.9, 0.95), help="of AdamW")
    opt.add_argument("--momentum", type=float, default=0.9, help="of SGD")
    opt.add_argument("--weight-decay", type=float, default=0.1)
    opt.add_argument("--clip-grad-norm", type=float, default=1.0, help="0: never")
    schedules = ("cosine", "linear", "constant", "wsd", "inverse_sqrt")
    opt.add_argument("--schedule", choices=schedules, default="cosine")
    opt.add_argument("--warmup", type=int, help="steps (default: a tenth, at most 100)")
    opt.add_argument("--decay", type=int, help="wsd: last steps (default: a fifth)")
    opt.add_argument("--final", type=float, default=0.1, help="of the rate, at the end")

    gpt = add_options(parser.add_argument_group("the model (fmoe.GPT)"), fmoe.GPT, GPT_DEFAULTS)
    group = parser.add_argument_group(
        "Mixture of Experts (fmoe.MoE); --num-experts turns it on. Where the model has an option "
        "of the same name, it is --moe-NAME"
    )
    moe = add_options(group, fmoe.MoE, MOE_DEFAULTS, prefix="moe_", taken=gpt)
    return parser.parse_args(), gpt, moe


def make_schedule(a: argparse.Namespace) -> fmoe.Schedule:
    warmup = min(a.steps // 10, 100) if a.warmup is None else a.warmup
    if a.schedule == "constant":
        return fmoe.constant(warmup)
    if a.schedule == "inverse_sqrt":
        return fmoe.inverse_sqrt(warmup)
    if a.schedule == "wsd":
        decay = a.steps // 5 if a.decay is None else a.decay
        return fmoe.wsd(warmup, total=a.steps, decay=decay, final=a.final)
    make = fmoe.cosine if a.schedule == "cosine" else fmoe.linear
    return make(warmup, total=a.steps, final=a.final)


def make_optimizer(a: argparse.Namespace, model: fmoe.GPT) -> fmoe.Optimizer:
    common: dict[str, Any] = {
        "lr": a.lr,
        "weight_decay": a.weight_decay,
        "clip_grad_norm": a.clip_grad_norm or None,
        "micro_batches": a.micro_batches,
        "schedule": make_schedule(a),
    }
    if a.optimizer == "sgd":
        return fmoe.SGD(model, momentum=a.momentum, **common)
    return fmoe.AdamW(model, betas=tuple(a.betas), **common)


def make_model(a: argparse.Namespace, gpt: list[str], moe: list[str]) -> fmoe.GPT:
    options = {name: getattr(a, name) for name in gpt}
    if a.moe_num_experts is not None:
        experts = {name: getattr(a, "moe_" + name) for name in moe}
        experts["d_hidden"] = experts["d_hidden"] or a.d_hidden or 4 * a.d_model
        options["moe"] = fmoe.MoE(**experts)
    return fmoe.GPT(**options)


def main() -> None:
    a, gpt, moe = parse()
    fmoe.set_device(a.device)
    fmoe.manual_seed(a.seed)
    if a.data is None:
        a.data, a.pattern = os.path.dirname(os.__file__), a.pattern or "*.py"
    data = fmoe.ByteDataset(a.data, pattern=a.pattern)
    batches: dict[str, Any] = {
        "batch_size": a.batch_size,
        "seq_len": a.seq_len,
        "micro_batches": a.micro_batches,
        "split_ratio": (1.0 - a.valid, a.valid),
    }
    model = make_model(a, gpt, moe)
    valid = fmoe.DataLoader(data, split="valid", **batches) if a.valid > 0 else None
    trainer = fmoe.Trainer(
        model,
        make_optimizer(a, model),
        fmoe.DataLoader(data, seed=a.seed, **batches),
        eval_loader=valid,
        checkpointer=fmoe.Checkpointer(a.out, keep_last=a.keep_last) if a.out else None,
        eval_every=a.eval_every if valid else None,
        save_every=a.save_every,
        log_every=a.log_every,
        max_skipped_steps=a.max_skipped_steps,
        metrics=a.metrics or (os.path.join(a.out, "metrics.jsonl") if a.out else None),
        extra={"options": vars(a)},
    )
    result = trainer.fit(a.steps)
    if trainer.stopped:
        print("Run the same command again to go on." if a.out else "Nothing was saved.")
        return
    if "eval_loss" in result:
        print(f"validation loss: {result['eval_loss'] / math.log(2):.4f} bits per byte")
    if a.sample:
        text = model.eval().generate(a.sample.encode(), max_new_tokens=200)
        print(text.decode("utf-8", errors="replace"))


if __name__ == "__main__":
    main()
