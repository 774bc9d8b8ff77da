"""train -m fmoe.tools.inspect PATH: what a checkpoint, or each one in a run's folder, holds."""

from __future__ import annotations

import argparse
import math
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
    rows.append(("layout", _layout(info["manifest"]["layout"])))
    rows += [(key, state[key]) for key in ("seed", "optimizer", "loader", "extra") if key in state]
    for key, value in rows:
        print(f"{key:<12} {value}")
    weights = [a for a in info["arrays"] if "/" not in a["name"]]  # not the moments
    names = {a["name"] for a in weights}  # one that several ranks have is there once for each
    print(f"{'parameters':<12} {sum(a['numel'] for a in weights)} in {len(names)} arrays")
    if every_array:
        for array in info["arrays"]:
            shape = " x ".join(str(n) for n in array["global_shape"])
            whole = math.prod(array["global_shape"])
            part = "" if array["numel"] == whole else f"  {array['numel']} of {whole}"
            print(f"  {array['name']:<48} {shape:<20} {array['file']}{part}")
    print(f"{'files':<12} {len(os.listdir(path))}")
    for name in sorted(os.listdir(path)):
        held = [a["numel"] for a in info["arrays"] if a["file"] == name]
        of = f"  {len(held)} arrays, {sum(held)} elements" if held else ""
        print(f"  {size(os.path.getsize(os.path.join(path, name))):>12}  {name}{of}")


def _layout(layout: dict[str, int]) -> str:
    """The mesh, without what has one rank: '4 ranks: dp 2, ep 2, zero 1'."""
    ranks = layout["world_size"]
    axes = ("dp", "tp", "pp", "ep", "etp")
    wide = [f"{axis} {layout[axis]}" for axis in axes if layout[axis] > 1]
    of = "rank" if ranks == 1 else "ranks"
    return f"{ranks} {of}: " + ", ".join([*wide, f"zero {layout['zero']}"])


def _is_plain(value: Any) -> bool:
    return isinstance(value, (str, int, float))


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
