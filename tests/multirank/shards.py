"""Puts the shards that parity_run.py leaves together, and compares them."""

from __future__ import annotations

import array
import json
import math
from dataclasses import dataclass
from pathlib import Path


@dataclass
class Whole:
    shape: list[int]
    values: array.array[float]
    held: bytearray  # how many ranks have each element


def _stretches(shape: list[int], boxes: list[list[list[int]]]) -> list[tuple[int, int]]:
    """(first element, number) of what lies side by side in a shard, in its order."""
    found = []
    for start, stop in boxes:
        points = [0]
        for size, low, high in list(zip(shape, start, stop, strict=True))[:-1]:
            points = [at * size + i for at in points for i in range(low, high)]
        low, high = start[-1], stop[-1]
        found += [(at * shape[-1] + low, high - low) for at in points]
    return found


def gather(folder: Path, ranks: int) -> dict[str, Whole]:
    """Every parameter of the model; AssertionError where an element is nowhere, or two ranks that
    have it differ."""
    wholes: dict[str, Whole] = {}
    for rank in range(ranks):
        values = array.array("f")
        values.frombytes((folder / f"rank_{rank}.bin").read_bytes())
        for entry in json.loads((folder / f"rank_{rank}.json").read_text()):
            name, shape = entry["name"], entry["shape"]
            size = math.prod(shape)
            whole = wholes.setdefault(
                name, Whole(shape, array.array("f", bytes(4 * size)), bytearray(size))
            )
            own, at = values[entry["start"] : entry["stop"]], 0
            for first, n in _stretches(shape, entry["boxes"]):
                piece = own[at : at + n]
                at += n
                for i in range(n):
                    if whole.held[first + i]:
                        assert whole.values[first + i] == piece[i], (
                            f"{name}[{first + i}]: rank {rank} has {piece[i]}, another "
                            f"{whole.values[first + i]}"
                        )
                whole.values[first : first + n] = piece
                whole.held[first : first + n] = bytes([1]) * n
            assert at == len(own), f"{name}: rank {rank} has {len(own)} elements in boxes of {at}"
    for name, whole in wholes.items():
        assert all(whole.held), f"{name}: element {whole.held.index(0)} is on no rank"
    return wholes


def distance(a: Whole, b: Whole, without: range = range(0)) -> float:
    """Frobenius norm of the difference over that of b; `without`: elements that do not count."""
    difference = norm = 0.0
    for i, (x, y) in enumerate(zip(a.values, b.values, strict=True)):
        if i not in without:
            difference += (x - y) ** 2
            norm += y * y
    return math.sqrt(difference / norm) if norm else math.sqrt(difference)
