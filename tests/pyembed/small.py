"""Small models and data for tests."""

from __future__ import annotations

import os
from typing import Any

import fmoe

SEQ_LEN = 16
FOLDER = os.path.dirname(os.path.abspath(__file__))


def model(**changes: Any) -> fmoe.GPT:
    """Two layers, the second a MoE layer."""
    fmoe.manual_seed(changes.pop("seed", 7))
    moe = changes.pop("moe", None) or fmoe.MoE(num_experts=4, d_hidden=24)
    options: dict[str, Any] = {
        "vocab_size": 256,
        "n_layer": 2,
        "d_model": 16,
        "n_head": 2,
        "seq_len": SEQ_LEN,
        "moe": moe,
    }
    options.update(changes)
    return fmoe.GPT(**options)


def batch(rows: int = 2, columns: int = SEQ_LEN) -> tuple[list[list[int]], list[list[int]]]:
    tokens = [[(i * 31 + j * j * 7) % 251 for j in range(columns + 1)] for i in range(rows)]
    return [row[:-1] for row in tokens], [row[1:] for row in tokens]


def write_text(folder: str, size: int = 20000) -> str:
    """A file that is worth learning: numbered lines."""
    path = os.path.join(folder, "text.txt")
    with open(path, "w", encoding="ascii") as out:
        written = line = 0
        while written < size:
            written += out.write(f"line {line}: {line * line % 97} and so on\n")
            line += 1
    return path


def weights(m: Any) -> dict[str, Any]:
    return {name: parameter.tolist() for name, parameter in m.named_parameters()}
