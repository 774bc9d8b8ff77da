"""Starts jobs of several ranks from a test, and ends them."""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from pathlib import Path

ROOT = Path(__file__).absolute().parents[2]


def program(name: str) -> str:
    """'train', 'bazel/mpirun_host': in the test's runfiles, or in the tree, where it was built."""
    path = ROOT / name
    return str(path if path.is_file() else ROOT / "bazel-bin" / name)


def start(mpirun: str, ranks: int, command: list[str]) -> subprocess.Popen[str]:
    """`mpirun -n ranks command`; its output is one pipe. A folder of its own for MPI's files: see
    bazel/run_train_test.sh."""
    folder = tempfile.mkdtemp(prefix="fmoe.", dir="/dev/shm" if os.path.isdir("/dev/shm") else None)
    environment = {
        **os.environ,
        "OMPI_MCA_btl_vader_backing_directory": folder,
        "OMPI_MCA_orte_tmpdir_base": folder,
        "OMPI_MCA_mpi_yield_when_idle": "1",
        "OMP_NUM_THREADS": "1",
    }
    # The shell removes the folder when the job has ended, however it ended.
    script = 'folder=$1; shift; "$@"; status=$?; rm -rf "$folder"; exit $status'
    return subprocess.Popen(
        ["bash", "-c", script, "bash", folder, mpirun, "-n", str(ranks), *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=environment,
        text=True,
    )


def run_script(ranks: int, arguments: list[str], limit: float = 200.0) -> str:
    """`train arguments` to its end; returns the output. AssertionError where it fails."""
    command = [program("train"), "--device", "cpu", *arguments]
    with start(program("bazel/mpirun_host"), ranks, command) as job:
        try:
            output, _ = job.communicate(timeout=limit)
        except subprocess.TimeoutExpired:
            job.terminate()
            raise AssertionError(f"not over after {limit} s: {arguments}") from None
    assert job.returncode == 0, f"status {job.returncode}:\n{output}"
    return output


def read_until(process: subprocess.Popen[str], pattern: str, count: int) -> list[re.Match[str]]:
    """Reads lines until the pattern was seen `count` times; AssertionError where the job ends."""
    assert process.stdout is not None
    seen, found = "", []
    while len(found) < count:
        line = process.stdout.readline()
        assert line, f"the job has ended ({process.wait()}): {seen}"
        seen += line
        found += list(re.finditer(pattern, line))
    return found
