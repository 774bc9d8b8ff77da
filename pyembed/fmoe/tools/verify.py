"""train -m fmoe.tools.verify PATH: reads every byte of checkpoints and compares the checksums."""

from __future__ import annotations

import argparse

import _fmoe
import fmoe
from fmoe.tools import folders, run


def main() -> int:
    parser = argparse.ArgumentParser(prog="train -m fmoe.tools.verify", description=__doc__)
    parser.add_argument("path", help="a step_N folder, or the folder of a run")
    bad = 0
    for path in folders(parser.parse_args().path):
        try:
            _fmoe.checkpoint_verify(path)
        except (fmoe.CheckpointError, OSError) as error:
            bad += 1
            print(f"BAD   {path}: {error}", flush=True)
        else:
            print(f"good  {path}", flush=True)
    return 1 if bad else 0


if __name__ == "__main__":
    run(main)
