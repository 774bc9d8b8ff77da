"""The command line that every make.py shares."""

import argparse
import pathlib
from collections.abc import Callable

import torch

from .gpt_case import Arrays
from .npz import save


def write_all(doc: str, cases: dict[str, Callable[[], Arrays]]) -> None:
    """Writes OUT/NAME.npz for each case; `--only NAME` writes one."""
    parser = argparse.ArgumentParser(description=doc)
    parser.add_argument("--out", type=pathlib.Path, required=True, help="folder to write into")
    parser.add_argument("--only", choices=sorted(cases), help="write this file alone")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    for name, make in cases.items():
        if options.only in (None, name):
            path = options.out / f"{name}.npz"
            save(path, make())
            print(f"{path.name}: {path.stat().st_size} bytes")
