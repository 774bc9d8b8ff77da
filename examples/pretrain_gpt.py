"""Pretrains a GPT, dense or with Mixture-of-Experts layers, on a text file or a folder.

    bazel run //:train -- examples/pretrain_gpt.py --data corpus/ --num-experts 8 --out runs/first

Tokens are bytes. Every option of fmoe.GPT and fmoe.MoE is an option here, under the same name. Run
it again with the same --out and it goes on, on any number of ranks. Ctrl-C, SIGTERM and SIGUSR1
stop it after the step, saved; its exit status is then 128 + the signal's number (130, 143, 138),
and 124 where --max-seconds are over.
"""

import argparse
import math
import os
import signal
import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import fmoe

# What the command line's defaults are where the classes have none.
GPT_DEFAULTS = {"vocab_size": 256, "n_layer": 4, "d_model": 256, "n_head": 8, "seq_len": 256}

Flags = dict[str, str]  # an argument of a class -> the option that gives it


def add_options(
    group: Any, cls: Any, defaults: dict[str, Any], prefix: str = "", taken: Sequence[str] = ()
) -> Flags:
    """An option for each argument of `cls` that a command line can give; None: it was not given.
    Those that are taken get the prefix."""
    flags = {}
    for row in cls.options():
        name, default = row["name"], defaults.get(row["name"], row["default"])
        if name in ("moe", "mesh"):
            continue
        flag = "--" + (prefix * (name in taken) + name).replace("_", "-")
        flags[name] = flag
        text = row["doc"] + ("" if default is None else f" (default: {default})")
        options: dict[str, Any] = {"dest": prefix + name, "help": text.replace("%", "%%")}
        if row["type"] == "bool":
            group.add_argument(flag, action=argparse.BooleanOptionalAction, **options)
            continue
        if name == "every":
            options["type"] = layers
        elif row["type"].startswith(("int", "float")):
            options["type"] = int if row["type"].startswith("int") else float
        if row["choices"]:
            options["choices"] = row["choices"]
        else:
            options["metavar"] = name.upper()
        group.add_argument(flag, **options)
    return flags


def add_option(group: Any, name: str, text: str, default: Any = None, **more: Any) -> None:
    if default is not None:
        text += " (default: %(default)s)"
    group.add_argument(name, default=default, help=text.lstrip(), **more)


def layers(text: str) -> int | list[int]:
    """'2', or '0,3,5'."""
    numbers = [int(part) for part in text.split(",")]
    return numbers if "," in text else numbers[0]


def at_least(low: int) -> Callable[[str], int]:
    """The type of an option that counts."""

    def count(text: str) -> int:
        if not text.lstrip("-").isdecimal() or int(text) < low:
            raise argparse.ArgumentTypeError(f"{text!r} is not allowed: {low} and more is")
        return int(text)

    return count


def parse() -> tuple[argparse.Namespace, Flags, Flags]:
    parser = argparse.ArgumentParser(
        usage="pretrain_gpt.py [options]   (--help lists them)",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    one, none = at_least(1), at_least(0)
    add = partial(add_option, parser.add_argument_group("the run"))
    add("--data", "a text file, or a folder of them (default: Python's standard library)")
    add("--pattern", "of a folder, the files to take: '*.txt' (default: all)")
    add("--exclude", "of a folder, the files and folders to leave out: 'test*' (default: none)")
    add("--out", "folder of checkpoints and metrics (default: nothing is saved)")
    add("--metrics", "file of JSON lines (default: metrics.jsonl in --out)")
    add("--steps", "optimiser steps in all", 1000, type=one)
    add("--device", "auto, cpu, cuda or cuda:N", "auto")
    add("--seed", "of weights, order of samples, noise", 0, type=none)
    add("--batch-size", "sequences of a step", 16, type=one)
    add("--micro-batches", "parts of a step's batch", 1, type=one)
    add("--valid", "share kept for evaluation; 0: none", 0.01, type=float)
    add("--eval-every", "steps (default: at the end)", type=one)
    add("--save-every", "steps (default: 200)", type=one)
    add("--keep-last", "checkpoints that are kept (default: 3)", type=one)
    add("--log-every", "steps", 10, type=one)
    add("--max-seconds", "after so many it stops, saved (default: never)", type=float)
    add("--max-skipped-steps", "non-finite ones in a row", 0, type=none)
    add("--sample", "a text that is continued at the end")

    add = partial(add_option, parser.add_argument_group("the optimiser"))
    add("--optimizer", "", "adamw", choices=("adamw", "sgd"))
    add("--lr", "base learning rate", 1e-3, type=float)
    add("--betas", "of AdamW", (0.9, 0.95), type=float, nargs=2, metavar=("BETA1", "BETA2"))
    add("--momentum", "of SGD", 0.9, type=float)
    add("--weight-decay", "", 0.1, type=float)
    add("--clip-grad-norm", "0: never", 1.0, type=float)
    schedules = ("cosine", "linear", "constant", "wsd", "inverse_sqrt")
    add("--schedule", "", "cosine", choices=schedules)
    add("--warmup", "steps (default: a tenth, at most 100)", type=none)
    add("--decay", "wsd: last steps (default: a fifth)", type=none)
    add("--final", "of the rate, at the end", 0.1, type=float)

    add = partial(
        add_option, parser.add_argument_group("the ranks (fmoe.Mesh), under mpirun or srun")
    )
    add("--tp", "ranks that split each layer's width", 1, type=one)
    add("--pp", "pipeline stages", 1, type=one)
    add("--ep", "ranks that share out the experts", 1, type=one)
    add("--etp", "ranks that split each expert's width", 1, type=one)
    add("--zero", "1: optimiser state is sharded over dp", 1, type=int, choices=(0, 1))

    gpt = add_options(parser.add_argument_group("the model (fmoe.GPT)"), fmoe.GPT, GPT_DEFAULTS)
    group = parser.add_argument_group(
        "Mixture of Experts (fmoe.MoE); --num-experts turns it on. Where the model has an option "
        "of the same name, it is --moe-NAME"
    )
    moe = add_options(group, fmoe.MoE, {}, prefix="moe_", taken=gpt)
    a = parser.parse_args()
    for name in ("data", "out", "metrics"):
        path = getattr(a, name)
        setattr(a, name, path and os.path.expanduser(path))
    wrong = contradiction(a, moe)
    if wrong:
        parser.error(wrong)
    return a, gpt, moe


def contradiction(a: argparse.Namespace, moe: Flags) -> str | None:
    """What was asked for and would not be done; None: nothing."""
    if a.moe_num_experts is None:
        for name, flag in moe.items():
            if getattr(a, "moe_" + name) is not None:
                return f"{flag} is an option of experts, and the model is dense: give --num-experts"
    if not a.out and a.save_every is not None:
        return "--save-every needs --out, the folder to save to"
    if not a.out and a.keep_last is not None:
        return "--keep-last needs --out, the folder of the checkpoints"
    if not a.valid and a.eval_every is not None:
        return "--eval-every needs a --valid above 0: there is nothing to evaluate"
    if a.sample and a.vocab_size not in (None, 256):
        return f"--sample prints bytes, for which --vocab-size is 256, not {a.vocab_size}"
    for flag in ("pattern", "exclude"):
        if getattr(a, flag) is not None and (a.data is None or os.path.isfile(a.data)):
            return f"--{flag} chooses among the files of a folder: --data must name one"
    return None


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


def given(a: argparse.Namespace, names: Sequence[str], prefix: str = "") -> dict[str, Any]:
    values = {name: getattr(a, prefix + name) for name in names}
    return {name: value for name, value in values.items() if value is not None}


def make_model(a: argparse.Namespace, gpt: Flags, moe: Flags, mesh: fmoe.Mesh) -> fmoe.GPT:
    options = {**GPT_DEFAULTS, **given(a, list(gpt)), "mesh": mesh}
    if a.moe_num_experts is not None:
        width = options.get("d_hidden", 4 * options["d_model"])
        options["moe"] = fmoe.MoE(**{"d_hidden": width, **given(a, list(moe), "moe_")})
    return fmoe.GPT(**options)


def open_data(a: argparse.Namespace) -> fmoe.ByteDataset:
    if a.data is not None:
        return fmoe.ByteDataset(a.data, pattern=a.pattern, exclude=a.exclude)
    # Installed packages, which come and go, may lie in the standard library's folder.
    return fmoe.ByteDataset(os.path.dirname(os.__file__), pattern="*.py", exclude="*-packages")


def main() -> None:
    a, gpt, moe = parse()
    fmoe.set_device(a.device)
    fmoe.manual_seed(a.seed)
    data = open_data(a)
    mesh = fmoe.Mesh(tp=a.tp, pp=a.pp, ep=a.ep, etp=a.etp, zero=a.zero)
    model = make_model(a, gpt, moe, mesh)
    batches: dict[str, Any] = {
        "batch_size": a.batch_size,
        "seq_len": model.seq_len,
        "micro_batches": a.micro_batches,
        "split_ratio": (1.0 - a.valid, a.valid),
        "mesh": mesh,
    }
    valid = fmoe.DataLoader(data, split="valid", **batches) if a.valid > 0 else None
    trainer = fmoe.Trainer(
        model,
        make_optimizer(a, model),
        fmoe.DataLoader(data, seed=a.seed, **batches),
        eval_loader=valid,
        checkpointer=fmoe.Checkpointer(a.out, a.keep_last or 3, mesh=mesh) if a.out else None,
        eval_every=a.eval_every,
        save_every=(a.save_every or 200) if a.out else None,
        log_every=a.log_every,
        max_skipped_steps=a.max_skipped_steps,
        max_seconds=a.max_seconds,
        metrics=a.metrics or (os.path.join(a.out, "metrics.jsonl") if a.out else None),
        extra={"options": vars(a)},
    )
    first = fmoe.rank() == 0
    if not a.out and first:
        print("Nothing will be saved: there is no --out.", flush=True)
    result = trainer.fit(a.steps)
    if trainer.stopped:
        if first:
            print("Run the same command again to go on." if a.out else "Nothing was saved.")
        late = trainer.stopped == "max_seconds"
        sys.exit(124 if late else 128 + signal.Signals[trainer.stopped])
    if "eval_loss" in result and first:
        print(f"validation loss: {result['eval_loss'] / math.log(2):.4f} bits per byte")
    if a.sample:
        text = model.eval().generate(a.sample.encode(), max_new_tokens=200)
        if first:
            print(text.decode("utf-8", errors="replace"))


if __name__ == "__main__":
    main()
