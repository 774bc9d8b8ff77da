"""train -m fmoe.tools.inspect PATH: what a checkpoint, or each one in a run's folder, holds."""

from __future__ import annotations

import argparse
import os
from typing import Any

import fmoe
from fmoe.console import size
from fmoe.tools import folders, run


def describe(path: str, every_array: bool) -> None:
    info = fmoe.checkpoint_info(path)
    state = info["state"]
    total = sum(
        os.path.getsize(os.path.join(path, name))
        for name in os.listdir(path)
        if os.path.isfile(os.path.join(path, name))
    )
    rows: list[tuple[str, Any]] = [("path", path), ("step", info["step"]), ("size", size(total))]
    rows += [(key, value) for key, value in info["manifest"].items() if _is_plain(value)]
    rows += [(key, state[key]) for key in ("seed", "optimizer", "loader", "extra") if key in state]
    for key, value in rows:
        print(f"{key:<12} {value}")
    weights = [a for a in info["arrays"] if "/" not in a["name"]]  # not the moments
    print(f"{'parameters':<12} {sum(a['numel'] for a in weights)} in {len(weights)} arrays")
    if every_array:
        for array in info["arrays"]:
            shape = " x ".join(str(n) for n in array["global_shape"])
            print(f"  {array['name']:<48} {shape:<20} {array['file']}")
    print(f"{'files':<12} {len(os.listdir(path))}")
    for name in sorted(os.listdir(path)):
        print(f"  {size(os.path.getsize(os.path.join(path, name))):>12}  {name}")


def _is_plain(value: Any) -> bool:
    return isinstance(value, (str, int, float)) or (
        isinstance(value, dict) and all(isinstance(v, (str, int, float)) for v in value.values())
    )


def main() -> int:
    parser = argparse.ArgumentParser(prog="train -m fmoe.tools.inspect", description=__doc__)
    parser.add_argument("path", help="a step_N folder, or the folder of a run")
    parser.add_argument("--arrays", action="store_true", help="also each array's name and shape")
    arguments = parser.parse_args()
    bad = 0
    for i, path in enumerate(folders(arguments.path)):
        if i:
            print()
        try:
            describe(path, arguments.arrays)
        except fmoe.CheckpointError as error:
            bad += 1
            print(f"BAD          {error}")
    return 1 if bad else 0


if __name__ == "__main__":
    run(main)
