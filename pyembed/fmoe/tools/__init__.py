"""Command-line tools: train -m fmoe.tools.NAME"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import NoReturn

import _fmoe


def folders(path: str) -> list[str]:
    """The checkpoint `path` itself, or those below it; FileNotFoundError where there is none."""
    if os.path.exists(os.path.join(path, "manifest.json")):
        return [path]
    if not os.path.exists(path):
        raise FileNotFoundError(f"{path}: there is no such folder")
    found = [os.path.join(path, f"step_{step:08d}") for step in _fmoe.checkpoint_list(path)]
    if not found:
        raise FileNotFoundError(f"{path}: there is no complete checkpoint")
    return found


def run(main: Callable[[], int]) -> NoReturn:
    """A tool's way out: what it cannot do is one line, and who reads it may stop reading."""
    try:
        status = main()
        sys.stdout.flush()
    except BrokenPipeError:
        # Python writes out the rest once more when it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 1
    except (_fmoe.CheckpointError, OSError) as error:
        name = os.path.splitext(os.path.basename(sys.argv[0]))[0]
        print(f"{name}: {error}", file=sys.stderr)
        status = 1
    sys.exit(status)
