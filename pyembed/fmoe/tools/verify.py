"""train -m fmoe.tools.verify PATH: reads every byte of checkpoints and compares the checksums."""

from __future__ import annotations

import argparse
import sys

import _fmoe
import fmoe
from fmoe.tools.inspect import folders


def main() -> int:
    parser = argparse.ArgumentParser(prog="train -m fmoe.tools.verify", description=__doc__)
    parser.add_argument("path", help="a step_N folder, or the folder of a run")
    found = folders(parser.parse_args().path)
    bad = 0
    for path in found:
        try:
            _fmoe.checkpoint_verify(path)
            print(f"good  {path}")
        except (fmoe.CheckpointError, OSError) as error:
            bad += 1
            print(f"BAD   {path}: {error}")
    if not found:
        print("verify: there is no complete checkpoint", file=sys.stderr)
    return 1 if bad or not found else 0


if __name__ == "__main__":
    sys.exit(main())
