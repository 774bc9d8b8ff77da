"""The PyTorch peer: the fastest training of models S and M that PyTorch reaches on this CPU.

    python bench/peer_torch/main.py --model S --moe moe --dtype fp32 --cache peer.json

Prints one JSON line per measured setting and a last one, {"best": true, ...}. See README.md.
"""

import argparse
import dataclasses
import json
import os
import pathlib
import sys

from measure import Report, measure, measure_here
from search import Search, machine, read_cache, write_cache
from setting import Setting

ENTERED = "PEER_TORCH_ENTERED"  # set in the process that --steps-server starts over into


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", choices=("S", "M"), default="S")
    parser.add_argument("--moe", choices=("dense", "moe"), default="dense")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--dtype", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--seconds", type=float, default=8.0, help="of steps, for each setting")
    parser.add_argument("--cache", type=pathlib.Path, help="file that remembers the best setting")
    parser.add_argument("--steps-server", action="store_true", help="see server.py")
    parser.add_argument(
        "--mkl",
        choices=("shipped", "avx512", "both"),
        default="shipped",
        help="avx512: its fast kernels on any processor, see mkl.py",
    )
    parser.add_argument("--setting", help="use this setting (JSON) and search nothing")
    parser.add_argument("--measure", help=argparse.SUPPRESS)  # the child's side of measure.py
    return parser.parse_args()


def line(options: argparse.Namespace, setting: Setting, result: Report, **more: object) -> str:
    what = {name: getattr(options, name) for name in ("model", "moe", "dtype", "threads")}
    return json.dumps(what | {"setting": dataclasses.asdict(setting)} | result | more)


def choose(options: argparse.Namespace) -> Setting:
    """The setting given, or remembered, or found."""
    if options.setting:
        return Setting.from_json(options.setting)
    key = (
        f"{machine()}, {options.threads} threads, {options.model} {options.moe} {options.dtype}, "
        f"mkl {options.mkl}"
    )
    remembered = read_cache(options.cache).get(key)
    if remembered is not None:
        return Setting(**remembered)

    def measured(setting: Setting) -> Report:
        return measure(options.model, setting, options.dtype, options.threads, options.seconds)

    def tell(setting: Setting, result: Report) -> None:
        where = sys.stderr if options.steps_server else sys.stdout
        print(line(options, setting, result), file=where, flush=True)

    mkl = ("shipped", "avx512") if options.mkl == "both" else (options.mkl,)
    best, _ = Search(measured, tell).run(options.moe == "moe", options.dtype, mkl)
    write_cache(options.cache, key, best)
    return best


def enter(options: argparse.Namespace, setting: Setting) -> None:
    """Starts this program over, in the environment that the setting needs."""
    environment = setting.environment(options.threads) | {ENTERED: "1"}
    command = [sys.executable, *sys.argv, "--setting", setting.to_json()]
    os.execve(sys.executable, command, environment)


def main() -> None:
    options = arguments()
    if options.measure:
        setting = Setting.from_json(options.measure)
        set_threads(options.threads)
        print(json.dumps(measure_here(options.model, setting, options.dtype, options.seconds)))
    elif options.steps_server:
        setting = choose(options)
        if ENTERED not in os.environ:
            enter(options, setting)
        from server import serve  # PyTorch comes in only where it is needed

        set_threads(options.threads)
        serve(options.model, setting, options.dtype)
    else:
        setting = choose(options)
        result = measure(options.model, setting, options.dtype, options.threads, options.seconds)
        more = {"best": True, "load_average": round(os.getloadavg()[0], 2)}
        print(line(options, setting, result, **more), flush=True)


def set_threads(threads: int) -> None:
    import torch

    torch.set_num_threads(threads)


if __name__ == "__main__":
    main()
