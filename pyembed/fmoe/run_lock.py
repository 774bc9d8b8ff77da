"""One run in a folder at a time."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
from typing import IO

from . import ranks

_held: dict[str, IO[str]] = {}  # by the folder's real path: the program's Checkpointers share it


def hold(folder: str) -> None:
    """All ranks. Keeps the folder for this job until it ends, however it ends: rank 0 has a lock on
    `run.lock` there.

    RuntimeError where another program holds it: two runs would replace each other's checkpoints and
    metrics. Where the file system has no locks there is none.
    """
    ranks.first(lambda: _hold(folder))


def _hold(folder: str) -> None:
    os.makedirs(folder, exist_ok=True)
    key = os.path.realpath(folder)
    path = os.path.join(folder, "run.lock")
    held = _held.get(key)
    if held is not None:
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(held.fileno()), os.stat(path)):
                return
        _held.pop(key).close()  # the folder was deleted and made again
    file = open(path, "a+", encoding="utf-8")  # noqa: SIM115 (kept open)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        file.seek(0)
        holder = file.read().strip() or "another program"
        file.close()
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            raise RuntimeError(
                f"{folder} is in use by {holder}: end that run, or take another folder"
            ) from None
        return
    _held[key] = file
    with contextlib.suppress(OSError):  # who it is: the lock holds on a full disk as well
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        file.flush()


def user_of(folder: str) -> str | None:
    """Who else holds it, in words; None: nobody, or nobody knows. Rank 0 asks."""
    if os.path.realpath(folder) in _held:
        return None
    try:
        with open(os.path.join(folder, "run.lock"), encoding="utf-8") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except OSError as error:
                if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                    return file.read().strip() or "another program"
    except OSError:
        pass  # no lock, or not for us to see
    return None


def _forget() -> None:
    """A forked child must not keep the folder when its parent has died."""
    for file in _held.values():
        with contextlib.suppress(OSError, ValueError):
            file.close()  # nothing of the parent's is left in it to write
    _held.clear()


os.register_at_fork(after_in_child=_forget)
