"""train -m fmoe.tools.merge PATH FOLDER: writes a checkpoint of any layout as that of one rank.

FOLDER/step_N then has one file of dense parameters, one of experts, one of optimiser state. Memory
holds the largest array, whatever the size of the whole.
"""

from __future__ import annotations

import argparse
import os

import _fmoe
from fmoe.console import size
from fmoe.tools import folders, run


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="train -m fmoe.tools.merge",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("path", help="a step_N folder, or the folder of a run: its newest step")
    parser.add_argument("folder", help="step_N is made in it; it must have no such or later step")
    arguments = parser.parse_args()
    path = folders(arguments.path)[-1]
    _fmoe.checkpoint_merge(path, arguments.folder)
    step = _fmoe.CheckpointReader(path).step
    made = os.path.join(arguments.folder, f"step_{step:08d}")
    names = sorted(os.listdir(made))
    total = sum(os.path.getsize(os.path.join(made, name)) for name in names)
    print(f"{made}: {size(total)} in {', '.join(names)}")
    return 0


if __name__ == "__main__":
    run(main)
