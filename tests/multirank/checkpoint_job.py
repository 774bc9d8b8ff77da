"""Runs checkpoint_child.py on a mesh, for checkpoint_resume.py and checkpoint_kill.py."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import mpi_job

MPIRUN, TRAIN = sys.argv[1:3]
CHILD = os.path.join(os.path.dirname(os.path.abspath(__file__)), "checkpoint_child.py")

# Name: ranks, and the mesh that is not its default.
MESHES: dict[str, tuple[int, dict[str, int]]] = {
    "one": (1, {}),
    "dp2": (2, {}),
    "dp4-zero0": (4, {"zero": 0}),
    "ep2": (2, {"ep": 2}),
    "dp4-ep2": (4, {"ep": 2}),
    "ep4-zero0": (4, {"ep": 4, "zero": 0}),
    "tp2": (2, {"tp": 2}),
    "tp2-ep2": (2, {"tp": 2, "ep": 2}),
    "dp2-tp2-zero0": (4, {"tp": 2, "zero": 0}),
    "dp2-tp2-ep4": (4, {"tp": 2, "ep": 4}),
}


def start(mesh: str, folder: str, steps: int, *more: str) -> subprocess.Popen[str]:
    ranks, axes = MESHES[mesh]
    command = [TRAIN, CHILD, folder, str(steps), *more]
    for name, value in axes.items():
        command += [f"--{name}", str(value)]
    return mpi_job.start(MPIRUN, ranks, command)


def losses(text: str) -> dict[int, float]:
    found = re.findall(r"^step (\d+) loss (\S+)$", text, re.MULTILINE)
    return {int(step): float.fromhex(loss) for step, loss in found}


def run(mesh: str, folder: str, steps: int, *more: str) -> dict[int, float]:
    """To its end: the losses of its steps."""
    job = start(mesh, folder, steps, *more)
    text, _ = job.communicate(timeout=150)
    assert job.returncode == 0 and f"done {steps}" in text, f"{mesh}: {job.returncode}: {text}"
    return losses(text)


def write_text(folder: str) -> None:
    """Something to learn."""
    with open(os.path.join(folder, "text.txt"), "w", encoding="ascii") as out:
        for line in range(900):
            out.write(f"line {line}: {line * line % 97} and so on\n")


def furthest(got: dict[int, float], want: dict[int, float]) -> tuple[float, int]:
    """The largest difference of losses, and its step; all of got's steps must be in want."""
    return max((abs(loss - want[step]), step) for step, loss in got.items())
