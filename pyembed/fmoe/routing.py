"""Routing that is written down and followed again: for comparing layouts, and for debugging.

A recording is a folder with a file for each rank: a first line, then for each training forward of
a MoE layer a line of JSON and the choices of the rank's tokens, int32 little-endian.
"""

from __future__ import annotations

import array
import itertools
import json
import os
import sys
from collections.abc import Iterator
from types import TracebackType
from typing import Any

from _fmoe import (
    GPT,
    MoELayer,
    Parameter,
    RoutingLog,
    Tensor,
    all_reduce,
    rank,
    reshape,
    tensor,
    world_size,
)

from .module import Module, parts

_MAGIC = b"fmoe routing 1\n"
_SUFFIX = ".routing"

Key = tuple[int, int, int, int]
"""layer (counted from 0), step, micro-batch, forward of the micro-batch"""


def _models(model: GPT | MoELayer | Module) -> list[GPT | MoELayer]:
    """The models and layers that a module is made of."""
    if isinstance(model, (GPT, MoELayer)):
        return [model]
    found = []
    for _, part in parts("", vars(model)):
        if not isinstance(part, Parameter):
            found += _models(part)
    return found


def _wait_for_all() -> None:
    float(all_reduce(tensor([0.0]), group="world"))


class record:
    """`with fmoe.record(model, "folder"):` notes what the gates choose in training forwards.

    All ranks enter it together; the folder, which they share, must hold no recording. The files are
    there when the block is left.
    """

    def __init__(self, model: GPT | MoELayer | Module, path: str | os.PathLike[str]) -> None:
        self._models = _models(model)
        self._path = os.fspath(path)

    def __enter__(self) -> record:
        os.makedirs(self._path, exist_ok=True)
        there = _files(self._path)
        if there:
            raise FileExistsError(
                f"record: {self._path} holds a recording ({there[0]}, ...): "
                "delete it, or choose another folder"
            )
        _wait_for_all()  # before anybody writes, all have looked
        self._log = RoutingLog(self._models)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._log.detach()
        name = f"rank_{rank():05d}_of_{world_size():05d}{_SUFFIX}"
        with open(os.path.join(self._path, name), "wb") as out:
            out.write(_MAGIC)
            for layer, step, micro, forward, rows, choices in self._log.entries():
                head = {
                    "key": [layer, step, micro, forward],
                    "rows": rows,
                    "shape": choices.shape,
                }
                out.write(json.dumps(head).encode() + b"\n")
                out.write(_little_endian(choices))
        if kind is None:
            _wait_for_all()


class replay:
    """`with fmoe.replay(model, "folder"):` the gates follow a recording, made on any mesh.

    Scores are those of the forward's own logits at the recorded choices; gshard's second choices
    are dropped where they were. Not for gates written in Python.
    """

    def __init__(self, model: GPT | MoELayer | Module, path: str | os.PathLike[str]) -> None:
        self._models = _models(model)
        self._routing = read_routing(path)

    def __enter__(self) -> replay:
        self._log = RoutingLog(self._models, replay=True)
        for key, (k, choices) in self._routing.items():
            self._log.add(*key, reshape(tensor(choices), [-1, k]))
        return self

    def __exit__(self, *unused: object) -> None:
        self._log.detach()


def read_routing(path: str | os.PathLike[str]) -> dict[Key, tuple[int, array.array[int]]]:
    """A recording: (layer, step, micro-batch, forward) -> (k, choices of all tokens, T * k ints).

    A choice is an expert's number; -2 - e where the gate chose e and did not take it; -1: none.
    ValueError where files or tokens are missing.
    """
    folder = os.fspath(path)
    names = _files(folder)
    worlds = {name.split("_")[3].split(".")[0] for name in names if name.count("_") == 3}
    if not names or len(worlds) != 1 or len(names) != int(next(iter(worlds))):
        raise ValueError(f"{folder} is no complete recording: the files there are {names}")
    whole: dict[Key, tuple[int, dict[int, array.array[int]]]] = {}
    for name in names:
        for key, k, number, choices in _entries(os.path.join(folder, name)):
            rows = whole.setdefault(key, (k, {}))[1]
            for r in range(len(choices) // k):
                rows[number(r)] = choices[r * k : (r + 1) * k]
    result = {}
    for key, (k, rows) in whole.items():
        if sorted(rows) != list(range(len(rows))):
            raise ValueError(f"{folder}: tokens of (layer, step, micro, forward) {key} are missing")
        joined = array.array("i")
        for r in range(len(rows)):
            joined += rows[r]
        result[key] = (k, joined)
    return result


def _files(folder: str) -> list[str]:
    return sorted(name for name in os.listdir(folder) if name.endswith(_SUFFIX))


def _little_endian(choices: Tensor) -> bytes:
    numbers = array.array("i", itertools.chain.from_iterable(choices.tolist()))
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers.tobytes()


def _entries(path: str) -> Iterator[tuple[Key, int, Any, array.array[int]]]:
    """(key, k, row -> number of the token in the micro-batch, choices)"""
    with open(path, "rb") as file:
        if file.readline() != _MAGIC:
            raise ValueError(f"{path} is no recording of routing")
        while line := file.readline():
            head = json.loads(line)
            offset, block, stride = head["rows"]
            rows, k = head["shape"]
            data = file.read(rows * k * 4)
            if len(data) != rows * k * 4:
                raise ValueError(f"{path} ends in the middle")
            choices = array.array("i")
            choices.frombytes(data)
            if sys.byteorder == "big":
                choices.byteswap()

            def number(r: int, offset: int = offset, block: int = block, s: int = stride) -> int:
                return offset + (r // block * s + r % block if block else r)

            yield tuple(head["key"]), k, number, choices
