"""What the ranks of a job do and decide together. With one rank all of it is a plain call."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from typing import Any, TypeVar

import _fmoe
from _fmoe import CheckpointError

T = TypeVar("T")

# Exceptions that keep their type on the way to other ranks; others become RuntimeError.
_TYPES: tuple[type[Exception], ...] = (
    CheckpointError,
    FileNotFoundError,
    FloatingPointError,
    KeyError,
    MemoryError,
    NotImplementedError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
)

APPEARS_SECONDS = 60.0


def first(call: Callable[[], T]) -> T:
    """Rank 0 calls; all ranks get its result (anything that JSON can hold), or its exception."""
    if _fmoe.world_size() == 1:
        return call()
    answer: dict[str, Any] = {}
    error: Exception | None = None
    if _fmoe.rank() == 0:
        try:
            answer = {"result": call()}
        except Exception as raised:
            error, answer = raised, _describe(raised)
    answer = json.loads(_fmoe.broadcast_text(json.dumps(answer)))
    if error is not None:
        raise error
    if "error" in answer:
        raise _rebuild(answer)
    result: T = answer["result"]
    return result


def worst(error: Exception | None) -> Exception | None:
    """All ranks: what has failed here, or None. The error of the lowest rank where something has,
    the same on all ranks; None: everywhere it went well."""
    size = _fmoe.world_size()
    if size == 1:
        return error
    rank = _fmoe.rank()
    lowest = size - int(_fmoe.agree([0 if error is None else size - rank], "max")[0])
    if lowest == size:
        return None
    answer = {} if error is None else _describe(error)
    if lowest > 0 and error is not None:
        answer["text"] = f"rank {rank}: {answer['text']}"
    answer = json.loads(_fmoe.broadcast_text(json.dumps(answer), lowest))
    if lowest == rank == 0:
        return error  # with its traceback
    agreed = _rebuild(answer)
    if lowest == rank:
        agreed.__cause__ = error
    return agreed


def wait_for_path(path: str) -> None:
    """Until what rank 0 sees is seen here too: file systems of several machines lag."""
    until = time.monotonic() + APPEARS_SECONDS
    while not os.path.exists(path):
        if time.monotonic() > until:
            raise FileNotFoundError(
                f"{path}: rank 0 sees it, rank {_fmoe.rank()} does not after {APPEARS_SECONDS:g} s"
            )
        time.sleep(0.02)


def _describe(error: Exception) -> dict[str, str]:
    kind = next((t for t in type(error).__mro__ if t in _TYPES), RuntimeError)
    named = kind is RuntimeError and not isinstance(error, RuntimeError)
    text = f"{type(error).__name__}: {error}" if named else str(error)
    return {"error": kind.__name__, "text": text}


def _rebuild(answer: dict[str, str]) -> Exception:
    kind = next(t for t in _TYPES if t.__name__ == answer["error"])
    return kind(answer["text"])
